"""Which pictures of a drawn collection repeat another, by the picture or by the drawing."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

BLUR = 1.0
"""Sigma in px on thumbnails of 64 px: lines that lie a pixel apart still meet."""


def visible(image: NDArray[np.uint8], background: int) -> float:
    """Part of an image (0..1) that stands out: a channel differs from `background` (0..255) by more than 32."""
    difference = np.abs(image.astype(np.int16) - background).max(axis=-1)
    return float((difference > 32).mean())


def descriptor(image: NDArray[np.uint8], background: int) -> NDArray[np.float32]:
    """A vector by which thumbnails are compared: the blurred difference from the background.

    Args:
        image: uint8[64, 64, 3].
        background: 0..255.

    Returns:
        float32[32 * 32 * 3] of length 1; zeros for an empty image.
    """
    difference = cv2.absdiff(image, np.full_like(image, background))
    smooth = cv2.GaussianBlur(difference.astype(np.float32), (0, 0), BLUR)[::2, ::2]
    length = float(np.linalg.norm(smooth))
    return np.asarray(smooth.ravel() / max(length, 1e-6), dtype=np.float32)


def first_of_each(kinds: Sequence[tuple[NDArray[np.float32], float]]) -> NDArray[np.int64]:
    """Goes through a collection in order and keeps what repeats nothing kept so far.

    Args:
        kinds: for each way of comparing, the descriptors (float32[N, D], rows of length 1) and the cosine similarity
            from which two count as one. Being alike in one way suffices.

    Returns:
        int64[N]: the place of the kept one that each repeats; a kept one's own place.
    """
    alike = np.logical_or.reduce([vectors @ vectors.T >= threshold for vectors, threshold in kinds])
    count = len(alike)
    leaders = np.arange(count, dtype=np.int64)
    kept = np.zeros(count, dtype=bool)
    for place in range(count):
        earlier = np.flatnonzero(alike[place] & kept)
        if len(earlier):
            leaders[place] = earlier[0]
        else:
            kept[place] = True
    return leaders
