"""How much of an image the network is shown: the same for the gallery, the evaluation, the command and the page.

People draw anywhere on the paper, and as small as they like; a network that keeps where things lie finds nothing then.
A drawing that is small for its page, or on a page that is not square, is therefore cut out so that it is as large and
lies where drawings on a full page do. All others stay as they are: where an object stands tells photos apart.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.embedding.alignment import Domain

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom, px; right and bottom are the first column and row beyond."""

INK: Final = 200
"""Pixels of a drawing below this are ink, 0..255."""
PAPER: Final = 255
# Of people's drawings of photos on a square page (half of Sketchy's classes), which lie about the page's middle:
TYPICAL: Final = 0.65  # median of the longer extent of their ink, as a fraction of the page's side
LARGEST: Final = 0.9  # nine in ten are smaller


def frame(image: Pixels, domain: Domain, settings: params.Embed) -> Pixels:
    """The part of an image that is scaled to the network's square, with what has to be added to it.

    Args:
        image: uint8[H, W, 3] RGB or uint8[H, W]; a drawing is dark on white.
        domain: what it is.
        settings: `fit` (pad: what is no square gets a border) and `cut_ink` (drawings whose ink spans less than this
            part of the page's longer side are cut out, and those on pages that are not square; 0 cuts none).

    Returns:
        uint8[H', W', 3] or uint8[H', W'], as many channels as the image has.
    """
    height, width = image.shape[:2]
    if domain == "sketch" and settings.cut_ink > 0:
        return _drawing(image, settings.cut_ink)
    if settings.fit == "squash" or height == width:
        return image
    return window(image, *_middle(width, height), PAPER if domain == "sketch" else _border_colour(image))


def ink_box(drawing: Pixels) -> Box | None:
    """The smallest box that holds a drawing's ink; None where there is none."""
    ink = (drawing if drawing.ndim == 2 else drawing.min(axis=2)) < INK
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None


def window(image: Pixels, left: int, top: int, side: int, fill: int | tuple[int, ...] = PAPER) -> Pixels:
    """A square of an image, which may reach beyond it.

    Args:
        image: uint8[H, W, 3] or uint8[H, W].
        left: the square's first column, px.
        top: its first row.
        side: of the square, px.
        fill: what lies beyond the image.

    Returns:
        uint8[side, side, 3] or uint8[side, side].
    """
    height, width = image.shape[:2]
    x, y = max(left, 0), max(top, 0)
    part = image[y : max(y, min(top + side, height)), x : max(x, min(left + side, width))]
    ends = (y - top, top + side - y - part.shape[0], x - left, left + side - x - part.shape[1])
    if not any(ends):
        return np.ascontiguousarray(part)
    value = (fill,) * 3 if isinstance(fill, int) else fill
    return np.asarray(cv2.copyMakeBorder(part, *ends, cv2.BORDER_CONSTANT, value=value), np.uint8)


def _drawing(image: Pixels, cut_ink: float) -> Pixels:
    height, width = image.shape[:2]
    box = ink_box(image)
    if box is None:
        return image if height == width else window(image, *_middle(width, height))
    left, top, right, bottom = box
    extent = max(right - left, bottom - top)
    if extent < cut_ink * max(height, width):
        side = max(1, round(extent / TYPICAL))
        return window(image, (left + right - side) // 2, (top + bottom - side) // 2, side)
    if height == width:
        return image
    # The page's own square where the ink fits into it, and so in the place that it has on the page.
    side = max(min(height, width), round(extent / LARGEST))
    return window(image, _start(width, left, right, side), _start(height, top, bottom, side), side)


def _start(page: int, low: int, high: int, side: int) -> int:
    """Where a window of `side` px that holds low..high begins: as near to the page's middle as it can be."""
    margin = min(round(side * (1 - LARGEST) / 2), (side - (high - low)) // 2)
    return int(np.clip((page - side) // 2, high + margin - side, low - margin))


def _middle(width: int, height: int) -> tuple[int, int, int]:
    side = max(width, height)
    return (width - side) // 2, (height - side) // 2, side


def _border_colour(image: Pixels) -> tuple[int, ...]:
    """The mean colour of an image's outermost pixels."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).reshape(-1, *image.shape[2:])
    return tuple(round(value) for value in np.atleast_1d(border.mean(axis=0)).tolist())
