"""What digiKam and imgSeek search drawings with: wavelet signatures (Jacobs, Finkelstein and Salesin 1995).

Of each channel the signs of the largest Haar coefficients are kept, and its mean. A photo is as near to a drawing as
the coefficients weigh whose signs agree, less the difference of the means. Nothing is learned.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from pipeline_lib.baselines.embedding import from_rows
from pipeline_lib.baselines.system import Benchmark, ScoreSystem, Vectors
from pipeline_lib.embedding.vectors import batched

SIDE: Final = 128
"""px."""
CHANNELS: Final = 3
TO_YIQ: Final = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
# Table of weights of the paper, for painted queries: a row for each bin, a column for each channel.
WEIGHTS: Final = np.array(
    [
        [4.04, 15.14, 22.62],
        [0.78, 0.92, 0.40],
        [0.46, 0.53, 0.63],
        [0.42, 0.26, 0.25],
        [0.41, 0.14, 0.15],
        [0.32, 0.07, 0.38],
    ],
    np.float32,
)
BATCH: Final = 64


class Signatures(NamedTuple):
    """Signatures of N images."""

    means: Vectors  # float32[N, 3], of Y (0..1), I and Q
    signs: NDArray[np.int8]  # int8[N, 3, SIDE * SIDE]: 1 or -1 where a coefficient is kept, 0 elsewhere


def haar(values: Vectors) -> Vectors:
    """The standard two-dimensional Haar decomposition (section 4.1 of the paper) of float32[..., S, S], S a power of 2.

    All rows are decomposed whole, then all columns. The first number of each is the mean.
    """
    for _ in range(2):
        values = np.swapaxes(_rows(values), -1, -2)
    return values


def _rows(values: Vectors) -> Vectors:
    found, left = values / np.float32(np.sqrt(values.shape[-1])), values.shape[-1]
    while left > 1:
        one, other = found[..., 0:left:2], found[..., 1:left:2]
        found[..., :left] = np.concatenate([one + other, one - other], axis=-1) / np.float32(np.sqrt(2))
        left //= 2
    return found


def signatures(images: Sequence[NDArray[np.uint8]], kept: int) -> Signatures:
    """Signatures of images, uint8[H, W, 3] RGB or uint8[H, W]; of each channel the `kept` largest coefficients."""
    coloured = (image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) for image in images)
    squares = np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in coloured])
    channels = np.moveaxis(np.asarray(squares / 255 @ TO_YIQ.T, np.float32), -1, 1)
    found = haar(channels).reshape(len(squares), CHANNELS, SIDE * SIDE)
    means = found[..., 0].copy()
    found[..., 0] = 0
    largest = np.argpartition(-np.abs(found), kept, axis=-1)[..., :kept]
    signs = np.zeros(found.shape, np.int8)
    np.put_along_axis(signs, largest, np.sign(np.take_along_axis(found, largest, -1)).astype(np.int8), -1)
    return Signatures(means, signs)


def bins() -> NDArray[np.intp]:
    """By which row of `WEIGHTS` each coefficient weighs, [SIDE * SIDE]: max(row, column), at most 5."""
    line = np.minimum(np.arange(SIDE), len(WEIGHTS) - 1)
    return np.maximum(line[:, None], line[None, :]).ravel()


def scores(drawings: Signatures, photos: Signatures) -> Vectors:
    """Equation 3 of the paper with its sign turned: float32[M, N], higher is better."""
    found = np.zeros((len(drawings.means), len(photos.means)), np.float32)
    of_each = WEIGHTS[bins()]
    for channel in range(CHANNELS):
        found -= WEIGHTS[0, channel] * np.abs(drawings.means[:, None, channel] - photos.means[None, :, channel])
        weights = diags_array(of_each[:, channel])
        for sign in (1, -1):
            ours, theirs = (
                csr_array((each.signs[:, channel] == sign).astype(np.float32)) for each in (drawings, photos)
            )
            found += (ours @ weights @ theirs.T).toarray()
    return found


@dataclass(frozen=True)
class WaveletSignatures(ScoreSystem):
    """Jacobs et al. 1995, with the paper's weights for painted queries."""

    kept: int = 40  # coefficients of each channel

    def score(
        self,
        benchmark: Benchmark,
        folder: Path,  # noqa: ARG002  nothing is learned
        scratch: Path,  # noqa: ARG002  it takes seconds
    ) -> tuple[Vectors, float]:
        """Compares all signatures."""

        def found(rows: pd.DataFrame) -> Signatures:
            images = (image.pixels for part in from_rows(rows, benchmark.source) for image in part)
            parts = [signatures(some, self.kept) for some in batched(images, BATCH)]
            return Signatures(*map(np.concatenate, zip(*parts, strict=True)))

        started = time.perf_counter()
        photos = found(benchmark.gallery)
        seconds = time.perf_counter() - started
        return scores(found(benchmark.queries), photos), seconds


SYSTEMS = (WaveletSignatures("wavelet", "none"),)
