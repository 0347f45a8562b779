"""Spatial pyramid matching (Lazebnik, Schmid and Ponce 2006): histograms of visual words in 1, 4 and 16 cells.

Words are dense SIFT descriptors (Lowe 2004), their vocabulary k-means over descriptors of unlabelled pretext photos and
of their edge maps, half and half. A sketch and a photo are compared by the intersection of their histograms, with the
paper's weights 1/4, 1/4 and 1/2 for the three levels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline_lib.baselines.embedding import from_pairs
from pipeline_lib.baselines.run import pretext_sample
from pipeline_lib.baselines.system import Domain, Embedder, Image, Training, Vectors, VectorSystem
from pipeline_lib.data.images import resize_short_side
from pipeline_lib.files import replacing
from pipeline_lib.params import Edges, Params
from pipeline_lib.pretext.edges import edge_map

VOCABULARY = "vocabulary.npy"
LEVELS = (1, 2, 4)
LEVEL_WEIGHTS = (0.25, 0.25, 0.5)
WORD_DIMENSIONS = 128
# OpenCV's descriptor of a keypoint of size s spans 4 bins of 1.5 s.
WINDOW_OF_SIZE = 6.0
# Descriptors have length 512, or 0 where there is no gradient, as in most of a drawing; those are left out.
SMALLEST = 1.0


@dataclass(frozen=True)
class SpatialPyramid(VectorSystem):
    """Pyramids of visual words."""

    edges: bool = False  # whether photos become edge maps first
    words: int = 400  # size of the vocabulary
    side: int = 256  # px, images are scaled to this square
    window: int = 32  # px, side of a descriptor's window
    step: int = 8  # px between descriptors
    per_image: int = 50  # descriptors of each pretext image that the vocabulary is fitted on

    def fit(self, training: Training, folder: Path) -> None:
        """Fits the vocabulary: float32[words, 128]."""
        rng = np.random.default_rng(0)
        chosen = pretext_sample(training.catalog)
        drawn: list[Vectors] = []
        for column in ("edges",) if self.edges else ("photo", "edges"):
            for shard in from_pairs(training.run.pairs, column, chosen):
                for image in shard:
                    found, _ = self._describe(image.pixels)
                    drawn.append(found[rng.permutation(len(found))[: self.per_image]])
        sample = np.concatenate(drawn)
        means = faiss.Kmeans(WORD_DIMENSIONS, self.words, niter=30, seed=0, max_points_per_centroid=1000)
        means.train(sample)
        with replacing(folder / VOCABULARY) as aside, aside.open("wb") as stream:
            np.save(stream, np.asarray(means.centroids, np.float32))

    def embedder(self, folder: Path, settings: Params) -> Embedder:
        """float32[N, 21 * words], each row summing to 1."""
        vocabulary: Vectors = np.load(folder / VOCABULARY)

        def embed(images: Sequence[Image], domain: Domain) -> Vectors:
            return np.stack([
                self._pyramid(self._lines(image.pixels, settings.edges, domain), vocabulary) for image in images
            ])  # fmt: skip

        return embed

    def _lines(self, pixels: NDArray[np.uint8], edges: Edges, domain: Domain) -> NDArray[np.uint8]:
        if domain == "photo" and self.edges:
            return edge_map(resize_short_side(pixels, edges.short_side), edges)
        return pixels

    def _describe(self, pixels: NDArray[np.uint8]) -> tuple[Vectors, Vectors]:
        """Descriptors float32[K, 128] of length 1 where there are gradients, and places float32[K, 2] in 0..1."""
        grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        square = cv2.resize(grey, (self.side, self.side), interpolation=cv2.INTER_AREA)
        points = _grid(self.side, self.window, self.step)
        kept, values = cv2.SIFT.create().compute(square, points)
        if values is None or not len(kept):
            return np.empty((0, WORD_DIMENSIONS), np.float32), np.empty((0, 2), np.float32)
        places = np.array([point.pt for point in kept], np.float32) / self.side
        lengths = np.linalg.norm(values, axis=1)
        seen = lengths > SMALLEST
        return np.asarray(values[seen] / lengths[seen, None], np.float32), places[seen]

    def _pyramid(self, pixels: NDArray[np.uint8], vocabulary: Vectors) -> Vectors:
        descriptors, places = self._describe(pixels)
        if not len(descriptors):
            # Without lines nothing is counted, and every photo is equally near.
            width = self.words * sum(level**2 for level in LEVELS)
            return np.full(width, 1 / width, np.float32)
        nearest = np.argmin((vocabulary**2).sum(axis=1) - 2 * descriptors @ vocabulary.T, axis=1)
        return np.concatenate(list(self._levels(nearest, places))).astype(np.float32)

    def _levels(self, nearest: NDArray[np.intp], places: Vectors) -> Iterator[NDArray[np.float64]]:
        for level, weight in zip(LEVELS, LEVEL_WEIGHTS, strict=True):
            cell = np.minimum((places * level).astype(np.intp), level - 1)
            bins = (cell[:, 1] * level + cell[:, 0]) * self.words + nearest
            yield weight * np.bincount(bins, minlength=level**2 * self.words) / len(nearest)


@lru_cache
def _grid(side: int, window: int, step: int) -> tuple[cv2.KeyPoint, ...]:
    line = np.arange(window / 2, side - window / 2 + 1, step)
    return tuple(cv2.KeyPoint(float(x), float(y), window / WINDOW_OF_SIZE, 0.0) for y in line for x in line)


FORMS = ("intersection", "chi2", "hellinger")
SYSTEMS = (
    SpatialPyramid("spatial_pyramid", "none", forms=FORMS),
    SpatialPyramid("spatial_pyramid_edges", "none", edges=True, forms=FORMS),
)
