"""Rasterises drawings with round pens on white paper, erasers in their order among them."""

from collections.abc import Sequence
from itertools import chain
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline_lib.search.wire import Stroke

PAPER, INK = 255, 0
SIDE: Final = 512
"""px of the square that strokes are drawn on, several times what the network sees."""
SMALLER: Final = (SIDE, SIDE // 2, SIDE // 4)
"""Sides of the square for drawings that take ever longer to draw; the smallest is half of what a network sees."""
MOST_WORK: Final = 100_000_000
"""Pixels that are drawn at most, one as often as lines cover it: 2,000 strokes of 50 points by a broad pen, which take
a quarter of a second. Lines across the whole page took three times as long, by pens as wide as the page ten."""
EDGE: Final = 8
"""px that smoothing a line's edges costs as much as, on top of its width."""
SHIFT: Final = 4
"""Fractional bits of OpenCV's coordinates."""


def work(strokes: Sequence[Stroke], side: int) -> float:
    """Pixels that are drawn for strokes on a square of `side` px, as `MOST_WORK` counts them; draws nothing."""
    counts = [len(stroke.points) for stroke in strokes]
    points = np.fromiter(chain.from_iterable(chain.from_iterable(stroke.points for stroke in strokes)), np.float64)
    steps = np.hypot(*np.diff(points.reshape(-1, 2), axis=0).T)
    steps[np.cumsum(counts)[:-1] - 1] = 0  # from one stroke to the next nothing is drawn
    widths = np.repeat([max(1.0, stroke.width * side) for stroke in strokes], counts)
    return float(((np.append(steps, 0.0) * side + 2 * widths) * (widths + EDGE)).sum())


def side_for(strokes: Sequence[Stroke]) -> int:
    """The side of the square, px, on which strokes are drawn in time; 0 where there is none."""
    return next((side for side in SMALLER if work(strokes, side) <= MOST_WORK), 0)


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
