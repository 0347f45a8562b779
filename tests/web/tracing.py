"""From a drawing in pixels back to the lines of a pen, so that a test can draw it by hand."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.morphology import skeletonize

Line = list[tuple[float, float]]


def trace(drawing: NDArray[np.uint8], tolerance: float = 0.8) -> tuple[list[Line], float]:
    """The centre lines of a drawing, and how wide its pen was.

    Args:
        drawing: uint8[H, W, 3] or uint8[H, W], dark on white.
        tolerance: px by which lines may be straightened.

    Returns:
        Lines of (x, y) as fractions of the sides, and the width as a fraction of the side.
    """
    grey = drawing if drawing.ndim == 2 else cv2.cvtColor(drawing, cv2.COLOR_RGB2GRAY)
    ink = grey < 128
    thin = skeletonize(ink)  # type: ignore[no-untyped-call]  # scikit-image tells no types
    width = float(ink.sum() / max(1, thin.sum()))
    # A contour runs around a line one pixel wide: along it and back.
    contours, _ = cv2.findContours(thin.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    size = np.array(grey.shape[::-1], np.float64)
    lines = []
    for contour in contours:
        points = (cv2.approxPolyDP(contour, tolerance, True)[:, 0] + 0.5) / size
        lines.append([(float(x), float(y)) for x, y in points])
    return lines, width / grey.shape[1]
