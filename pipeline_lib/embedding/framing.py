"""How much of an image the network is shown: the same for the gallery, the evaluation, the command and the page.

People draw anywhere on the paper, and as small as they like; a network that keeps where things lie finds nothing then.
Where a drawing stands tells photos apart, though, so a small one is not simply moved: it is searched as it would be on
other pages (`guesses`), and a photo counts by the guess that it fits best.
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
LARGEST: Final = 0.9
"""Nine in ten of people's drawings on a square page (half of Sketchy's classes) span less of its side."""
LARGE: Final = 0.8
"""Part of the page's side that the ink of a guess about its middle spans: networks find most by drawings that fill the
page. On half of Sketchy's classes 26.5 % of the photos meant are among the first five, 21.1 at 0.65, which is what
drawings on a full page span, and 24.6 at 0.9; several sizes at once find no more."""
SMALLEST: Final = 0.2
"""A drawing that spans less of its page is not searched as it stands, which finds nothing and pushes aside what better
guesses find. Of half of Sketchy's classes 47.7 % of the photos meant are found full size and 44.2 half size in a
corner; 47.7 and 43.8 at 0, 45.9 and 45.6 at 0.35, 41.2 and 46.6 at 0.5."""


def frame(image: Pixels, domain: Domain, settings: params.Embed) -> Pixels:
    """The part of an image that is scaled to the network's square, with what has to be added to it.

    Args:
        image: uint8[H, W, 3] RGB or uint8[H, W]; a drawing is dark on white.
        domain: what it is.
        settings: `fit` (pad: what is no square gets a border) and `cut_ink` (above 0, a drawing on a page that is not
            square is shown in a square of the page that holds its ink).

    Returns:
        uint8[H', W', 3] or uint8[H', W'], as many channels as the image has.
    """
    height, width = image.shape[:2]
    if height == width:
        return image
    if domain == "sketch" and settings.cut_ink > 0:
        return _page_square(image)
    if settings.fit == "squash":
        return image
    return window(image, *_middle(width, height), PAPER if domain == "sketch" else _border_colour(image))


def guesses(drawing: Pixels, settings: params.Embed) -> list[Pixels]:
    """A drawing as `frame` shows it, and, if it is small, as it would be on other pages.

    A drawing whose ink spans less than `cut_ink` of the framed page may have been drawn small for no reason; then it is
    as large and in the middle as finds most. If it lies in a quarter of the page, that quarter may have been the page.

    Args:
        drawing: uint8[H, W, 3] or uint8[H, W], dark on white.
        settings: `fit` and `cut_ink`; 0 makes no guesses.

    Returns:
        uint8[S, S, 3] or uint8[S, S] each; up to three of them.
    """
    page = frame(drawing, "sketch", settings)
    box, side = ink_box(page), max(page.shape[:2])
    if box is None or (extent := max(box[2] - box[0], box[3] - box[1])) >= settings.cut_ink * side:
        return [page]
    found = [page] if extent >= SMALLEST * side else []
    return [*found, *_quarter(page, box), _about_the_middle(page, box)]


def _quarter(page: Pixels, box: Box) -> list[Pixels]:
    """The quarter of a page that holds all ink, if there is one."""
    left, top, right, bottom = box
    height, width = page.shape[:2]
    side = -(-min(height, width) // 2)
    x, y = (0 if end <= side else whole - side for end, whole in ((right, width), (bottom, height)))
    fits = x <= left and y <= top and right <= x + side and bottom <= y + side
    return [window(page, x, y, side)] if fits else []


def _about_the_middle(page: Pixels, box: Box) -> Pixels:
    left, top, right, bottom = box
    side = max(1, round(max(right - left, bottom - top) / LARGE))
    return window(page, (left + right - side) // 2, (top + bottom - side) // 2, side)


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


def _page_square(image: Pixels) -> Pixels:
    """The page's own square where the ink fits into it, and so in the place that it has on the page."""
    height, width = image.shape[:2]
    box = ink_box(image)
    if box is None:
        return window(image, *_middle(width, height))
    left, top, right, bottom = box
    side = max(min(height, width), round(max(right - left, bottom - top) / LARGEST))
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
