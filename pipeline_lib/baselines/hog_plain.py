"""HOG in its textbook form, for Li et al. 2014's photos that are cropped to the object.

`hog` describes the pipeline's thick edge maps and takes sketches with their margin, as every other row does. This row
does what is usual for cropped photos: the sketch is cropped to its ink, photos become thin Canny edge maps
(scikit-image's default thresholds), and both are slightly blurred. Hu and Collomosse (2013) compare such HOG of edge
maps; 9 directions and blocks of 2 x 2 cells are those of Dalal and Triggs (2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.feature import canny

from pipeline_lib.baselines.hog import hog_vectors
from pipeline_lib.baselines.system import Benchmark, Domain, Embedder, Image, Vectors, VectorSystem
from pipeline_lib.params import Baselines, Params

# Darker than this is ink; paper is white, and lines are grey where they were scaled.
INK = 200


@dataclass(frozen=True)
class PlainHog(VectorSystem):
    """Thin edges or ink, scaled to a square, blurred, described.

    Attributes:
        side: px of the square.
        cell: px.
        edge_sigma: px, of the Gaussian before Canny's gradients, on the square.
        blur: px, of the Gaussian after it, on both sides.
    """

    side: int = 128
    cell: int = 16
    edge_sigma: float = 2.0
    blur: float = 2.0

    def inapplicable(self, benchmark: Benchmark) -> str:
        """Only the photos of `li2014` are cropped to what was drawn."""
        return "" if benchmark.name == "li2014" else "its photos are not cut to the object, as this row's sketches are"

    def embedder(self, folder: Path, settings: Params) -> Embedder:  # noqa: ARG002  nothing is learned, no key is read
        """HOG of the lines."""
        sizes = Baselines(
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


SYSTEMS = (PlainHog("hog_plain", "none", forms=("none",)),)
