"""The sanity row: histograms of oriented gradients (Dalal and Triggs 2005) on edge maps and drawings, nothing learned.

Photos become Canny edge maps, drawings are taken as they are; both are scaled to one square and blurred alike, so that
lines a little apart still share gradients. `hog_plain` is the textbook form for Li et al. 2014's cropped photos.
"""

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.feature import canny, hog
from tqdm import tqdm

from pipeline_lib import params
from pipeline_lib.baselines.embedding import BATCH
from pipeline_lib.baselines.system import Benchmark, Domain, Embedder, Image, Training, Vectors, VectorSystem
from pipeline_lib.data.images import resize_short_side
from pipeline_lib.data.source import Source
from pipeline_lib.embedding.alignment import FILE_NAME
from pipeline_lib.embedding.images import Item, catalog_images, pair_images
from pipeline_lib.embedding.vectors import batched, vector_table, vector_writer
from pipeline_lib.errors import PipelineError
from pipeline_lib.pretext.edges import edge_map

ORIENTATIONS = 9
CELLS_PER_BLOCK = 2
# Darker than this is ink; paper is white, and lines are grey where they were scaled.
INK = 200


def photo_lines(image: NDArray[np.uint8], edges: params.Edges) -> NDArray[np.uint8]:
    """The edge map of a photo at the scale at which the pretext task draws it.

    Args:
        image: uint8[H, W, 3], RGB.
        edges: section `edges`.

    Returns:
        uint8[H', W'], its short side `edges.short_side` px.
    """
    return edge_map(resize_short_side(image, edges.short_side), edges)


def fine(settings: params.Params) -> params.Edges:
    """Section `edges` with the finer lines of section `baselines`."""
    own = settings.baselines
    return settings.edges.model_copy(update={"blur": own.hog_edge_blur, "line_width": own.hog_edge_width})


def hog_vector(lines: NDArray[np.uint8], settings: params.Baselines) -> NDArray[np.float32]:
    """Describes a line drawing or an edge map; whether lines are dark or light makes no difference.

    Args:
        lines: uint8[H, W], or uint8[H, W, 3] RGB.
        settings: hog_size (px of the square), hog_cell (px), hog_blur (sigma, px).

    Returns:
        float32[D] of length 1, D = (c - 1)^2 * 36 with c = hog_size // hog_cell cells a side. An image without any
        line has no direction: all its numbers are equal.

    Raises:
        PipelineError: the square holds fewer than 2 x 2 cells.
    """
    size, cell = settings.hog_size, settings.hog_cell
    if size < CELLS_PER_BLOCK * cell:
        raise PipelineError(
            f"baselines.hog_cell {cell} is more than half of baselines.hog_size {size}; lower it or raise hog_size"
        )
    grey = lines if lines.ndim == 2 else cv2.cvtColor(lines, cv2.COLOR_RGB2GRAY)
    square = np.asarray(cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA), np.float32)
    if settings.hog_blur > 0:
        square = np.asarray(cv2.GaussianBlur(square, (0, 0), settings.hog_blur), np.float32)
    vector = hog(
        square,
        orientations=ORIENTATIONS,
        pixels_per_cell=(cell, cell),
        cells_per_block=(CELLS_PER_BLOCK, CELLS_PER_BLOCK),
        block_norm="L2-Hys",
    )
    length = float(np.linalg.norm(vector))
    if length == 0:
        return np.full(len(vector), 1 / np.sqrt(len(vector)), dtype=np.float32)
    return np.asarray(vector / length, dtype=np.float32)


def hog_vectors(images: Iterable[NDArray[np.uint8]], settings: params.Baselines) -> NDArray[np.float32]:
    """The vectors (see `hog_vector`) of several drawings or edge maps, float32[N, D]."""
    return np.stack([hog_vector(image, settings) for image in images])


def export_hog(folder: Path, catalog: pd.DataFrame, source: Source, pairs: Path, settings: params.Params) -> float:
    """Writes the four embedding tables of this system: photos, sketches, pretext_photos and pretext_edges.

    Args:
        folder: target.
        catalog: rows as in `schemas.CATALOG`.
        source: where gallery and query images are read.
        pairs: folder of pair shards, for the pretext images.
        settings: all params; `baselines` and `edges` (by which photos become edge maps) are used.

    Returns:
        Seconds for gallery and queries, without reading.

    Raises:
        PipelineError: an image or a shard can't be read, or the cells don't fit.
    """
    parts = {role: catalog[catalog["role"] == role].sort_values("image_id") for role in ("gallery", "query", "pretext")}
    jobs: list[tuple[str, Iterable[Item], str, bool]] = [
        ("photos", catalog_images(parts["gallery"], source), "gallery", True),
        ("sketches", catalog_images(parts["query"], source), "query", False),
        ("pretext_photos", pair_images(pairs, "photo", catalog), "pretext", True),
    ]
    side = settings.baselines.hog_size
    width = len(hog_vector(np.zeros((side, side), np.uint8), settings.baselines))
    seconds, edges = 0.0, fine(settings)
    for name, items, role, are_photos in jobs:
        bar = tqdm(items, total=len(parts[role]), desc=f"hog {name}", unit="image", mininterval=1.0)
        with vector_writer(folder / f"{name}.parquet", width) as writer:
            for chunk in batched(bar, BATCH):
                ids, classes, instances, pixels = zip(*chunk, strict=True)
                started = time.perf_counter()
                lines = [photo_lines(image(), edges) if are_photos else image() for image in pixels]
                vectors = hog_vectors(lines, settings.baselines)
                seconds += 0.0 if role == "pretext" else time.perf_counter() - started
                writer.write_table(vector_table(ids, classes, instances, vectors))
    # It reads photos by their edges: a photo and its edges are one.
    shutil.copyfile(folder / "pretext_photos.parquet", folder / "pretext_edges.parquet")
    return seconds


@dataclass(frozen=True)
class HogOnEdges(VectorSystem):
    """HOG of edge maps of photos, and of sketches as they are; see `hog_vector`."""

    def fit(self, training: Training, folder: Path) -> None:
        """Takes over the alignment that the pipeline fitted on all pretext pairs."""
        shutil.copyfile(made_by(training) / FILE_NAME, folder / FILE_NAME)

    def ready(self, benchmark: Benchmark) -> Path | None:
        """The pipeline's own row of the same name; Li 2014 is embedded here."""
        return None if benchmark.ratings is not None else made_by(benchmark.training)

    def embedder(self, folder: Path, settings: params.Params) -> Embedder:  # noqa: ARG002  nothing is learned
        """HOG of the lines, with the sizes of section `baselines`."""
        edges = fine(settings)

        def embed(images: Sequence[Image], domain: Domain) -> Vectors:
            lines = [photo_lines(image.pixels, edges) if domain == "photo" else image.pixels for image in images]
            return hog_vectors(lines, settings.baselines)

        return embed


def made_by(training: Training) -> Path:
    """Where the baselines stage put its HOG vectors."""
    folder = training.run.folder / "baselines" / "hog"
    if not (folder / FILE_NAME).exists():
        raise PipelineError(f"{folder / FILE_NAME}: is missing; run `dvc repro baselines` first")
    return folder


@dataclass(frozen=True)
class PlainHog(VectorSystem):
    """What is usual for photos that are cropped to the object: sketches are cropped to their ink, too.

    Photos become thin Canny edge maps by scikit-image's default thresholds, and both are slightly blurred; Hu and
    Collomosse (2013) compare such HOG of edge maps.
    """

    side: int = 128  # px of the square
    cell: int = 16  # px
    edge_sigma: float = 2.0  # px, of the Gaussian before Canny's gradients, on the square
    blur: float = 2.0  # px, of the Gaussian after it, on both sides

    def inapplicable(self, benchmark: Benchmark) -> str:
        """Only the photos of `li2014` are cropped to what was drawn."""
        return "" if benchmark.name == "li2014" else "its photos are not cut to the object, as this row's sketches are"

    def embedder(self, folder: Path, settings: params.Params) -> Embedder:  # noqa: ARG002  nothing is learned, no key is read
        """HOG of the lines."""
        sizes = params.Baselines(
            image_size=settings.baselines.image_size, hog_size=self.side, hog_cell=self.cell, hog_blur=self.blur
        )

        def embed(images: Sequence[Image], domain: Domain) -> Vectors:
            lines = [self._edges(image.pixels) if domain == "photo" else cut_to_ink(image.pixels) for image in images]
            return hog_vectors(lines, sizes)

        return embed

    def _edges(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        square = cv2.resize(grey, (self.side, self.side), interpolation=cv2.INTER_AREA)
        return np.asarray(canny(square, sigma=self.edge_sigma), np.uint8) * np.uint8(255)  # type: ignore[no-untyped-call]


def cut_to_ink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A drawing cropped to its ink, uint8[H', W'] grey; one without ink stays whole.

    Args:
        pixels: uint8[H, W, 3] RGB or uint8[H, W], dark on white.
    """
    grey = pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    x, y, width, height = cv2.boundingRect((grey < INK).astype(np.uint8))
    return grey[y : y + height, x : x + width] if width and height else grey


SYSTEMS = (HogOnEdges("hog", "none"), PlainHog("hog_plain", "none", forms=("none",)))
