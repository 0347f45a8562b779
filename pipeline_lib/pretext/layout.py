"""The 4-region layout and its 8 directions (after Doersch, Gupta and Efros 2015, with 2 x 2 regions).

A jittered cross divides the image into 2 x 2 regions of unequal size. From each region one patch is cut at a jittered
position. Regions are numbered row by row: 0 top left, 1 top right, 2 bottom left, 3 bottom right.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.errors import PipelineError

DIRECTIONS = ("right", "left", "down", "up", "down_right", "down_left", "up_right", "up_left")
"""Where the second patch lies relative to the first; the index in this tuple is the class."""

ORDERED_PAIRS: tuple[tuple[int, int], ...] = tuple((i, j) for i in range(4) for j in range(4) if i != j)
"""The 12 ordered pairs of different regions."""


def direction(first: int, second: int) -> int:
    """The class (0..7, see DIRECTIONS) of region `second` relative to region `first`."""
    right, down = second % 2 - first % 2, second // 2 - first // 2
    return {(1, 0): 0, (-1, 0): 1, (0, 1): 2, (0, -1): 3, (1, 1): 4, (-1, 1): 5, (1, -1): 6, (-1, -1): 7}[right, down]


PAIR_DIRECTIONS = np.array([direction(i, j) for i, j in ORDERED_PAIRS], dtype=np.int64)
"""int64[12]: the class of each ordered pair."""

PAIR_WEIGHTS = (12 / 8 / np.bincount(PAIR_DIRECTIONS)[PAIR_DIRECTIONS]).astype(np.float32)
"""float32[12], mean 1: gives each direction the same total, as straight ones occur twice and diagonal ones once."""


def draw_boxes(width: int, height: int, settings: params.Patches, rng: np.random.Generator) -> NDArray[np.int16]:
    """Draws the positions of the four patches of one layout in an image of width x height px.

    Returns:
        int16[4, 4]: x0, y0, x1, y1 (px, end exclusive) of the patch of each region. Patches of two regions are at
        least `gap` px apart.

    Raises:
        PipelineError: the image is too small for the layout.
    """
    near, far = settings.gap // 2, settings.gap - settings.gap // 2
    starts = []
    # The same random numbers with and without jitter of the patches, so that the cross is the same.
    for side, (shift, *places) in zip((width, height), rng.random((2, 5)).tolist(), strict=True):
        cut = round(side * (0.5 + settings.cross_jitter * (2 * shift - 1)))
        regions = ((0, cut - near), (0, cut - near), (cut + far, side), (cut + far, side))
        starts.append([_start(*region, place, settings) for region, place in zip(regions, places, strict=True)])
    (x_low, x_low_2, x_high, x_high_2), (y_low, y_low_2, y_high, y_high_2) = starts
    corners = [(x_low, y_low), (x_high, y_low_2), (x_low_2, y_high), (x_high_2, y_high_2)]
    return np.array([(x, y, x + settings.size, y + settings.size) for x, y in corners], dtype=np.int16)


def _start(low: int, high: int, place: float, settings: params.Patches) -> int:
    free = high - low - settings.size
    if free < 0:
        raise PipelineError(
            f"a region of {high - low} px is too small for a patch of {settings.size} px; raise edges.short_side or "
            "lower patches.size, patches.gap or patches.cross_jitter"
        )
    return low + (int(place * (free + 1)) if settings.jitter else free // 2)
