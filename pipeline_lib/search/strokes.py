"""Rasterises drawings with round pens on white paper, erasers in their order among them."""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline_lib.search.wire import Stroke

PAPER, INK = 255, 0
SIDE: Final = 512
"""px of the square that strokes are drawn on, several times what the network sees."""
SHIFT: Final = 4
"""Fractional bits of OpenCV's coordinates."""


def rasterise(strokes: Sequence[Stroke], side: int = SIDE) -> NDArray[np.uint8]:
    """Draws strokes in their order, dark on white and antialiased; a stroke of one point is a dot.

    Returns:
        uint8[side, side], 0 (ink) to 255 (paper).
    """
    paper = np.full((side, side), PAPER, np.uint8)
    for stroke in strokes:
        # Pixel centres lie at .5, as on an HTML canvas.
        places = np.asarray(stroke.points, np.float64) * side - 0.5
        line = np.round(places * (1 << SHIFT)).astype(np.int32)
        shade = PAPER if stroke.erase else INK
        thickness = max(1, round(stroke.width * side))
        if len(line) == 1:
            radius = round((thickness - 1) / 2 * (1 << SHIFT))  # OpenCV adds half a pixel all around
            cv2.circle(paper, line[0].tolist(), radius, shade, -1, cv2.LINE_AA, SHIFT)
        else:
            cv2.polylines(paper, [line[:, None]], False, shade, thickness, cv2.LINE_AA, SHIFT)  # noqa: FBT003
    return paper
