"""Drawings as they are photographed, scanned or made on a screen: taken off their paper, as dark lines on white."""

from typing import Final, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Value = TypeVar("Value", np.uint8, np.float32)
Corners = NDArray[np.float32]
"""x and y of the corners of a sheet, float32[N, 2], px."""
Depth = NDArray[np.float32]
"""How much darker than its paper each pixel is, float32[H, W], 0 (paper) to 1 (black)."""

PLAIN: Final = 0.25
"""A background of one colour fills at least this part of a picture made on a screen."""
FLAT: Final = 0.5
"""And at least this part of its pixels is exactly as the pixel beside it; of a photo's, few are."""
FAINTEST: Final = 0.07
"""Ink on paper is at least this deep."""
CLEAR: Final = 0.12
"""What is deeper is no shade of paper."""
PALE: Final = 0.5
"""Lines made on a screen that are less deep are darkened."""
NOISE: Final = 5.0
"""And at least this many standard deviations of the paper's noise."""
SHARP: Final = 0.05
"""Where ink begins, its depth changes by at least this within a pixel; at the edge of a shadow it changes slowly."""
EDGE: Final = 0.2
"""And by at least this part of the ink's own depth."""
SMALL: Final = 192
"""Longer side of the copy by which light and sheet are judged, px."""
# Fractions of the longer side:
PATCH: Final = 0.16  # darker patches up to this size are ink, larger ones shadow
SPECK: Final = 0.012  # marks up to this size are dust
THICK: Final = 0.035  # lines of most drawings are thinner
BROADEST: Final = 0.065  # of a page's broadest pen, or a felt pen, too; what is thicker is an area
LINE: Final = 0.008  # width of the lines that are drawn around coloured areas
AREAS: Final = 0.3
"""Areas make up more than this part of the ink of a drawing that was filled in."""


class Inked(NamedTuple):
    """A drawing taken off its paper, and what tells whether it is one."""

    ink: Depth  # 0 where nothing is drawn
    colours: Pixels  # uint8[H, W, 3], the same on white paper
    flat: float  # fraction of the picture's pixels that are exactly as their neighbours; 0 where it was photographed
    dark: float  # fraction of the sheet that is darker than paper, whether drawn or not
    thick: float  # fraction of that which is thicker than most lines
    areas: float  # fraction of it which is no line at all
    noise: float  # standard deviation of the paper's depth


def take_off(pixels: Pixels) -> Inked:
    """A drawing without its paper, whatever the paper's colour and light; dark boards are turned around.

    Args:
        pixels: uint8[H, W, 3] RGB.
    """
    (colour, part), flat = main_colour(pixels), flatness(pixels)
    return _from_screen(pixels, colour, flat) if part >= PLAIN and flat >= FLAT else _from_photo(pixels)


def main_colour(pixels: Pixels) -> tuple[NDArray[np.float32], float]:
    """The most frequent colour, float32[3], and the fraction of the pixels, uint8[H, W, 3], that have it."""
    step = max(1, max(pixels.shape[:2]) // 256)
    some = pixels[::step, ::step].reshape(-1, 3)
    coarse = some.astype(np.int32) >> 3
    keys = (coarse[:, 0] << 10) | (coarse[:, 1] << 5) | coarse[:, 2]
    colour = np.median(some[keys == np.bincount(keys).argmax()], axis=0).astype(np.float32)
    return colour, float((np.abs(some - colour).max(axis=1) <= 1).mean())


def flatness(pixels: Pixels) -> float:
    """The fraction of pixels, uint8[H, W, 3], that are exactly as the one to their left: a camera's hardly ever are."""
    rows = pixels[:: max(1, len(pixels) // 256)]
    return float((rows[:, 1:] == rows[:, :-1]).all(axis=2).mean()) if rows.shape[1] > 1 else 1.0


def find_sheet(pixels: Pixels) -> tuple[NDArray[np.uint8], Corners]:
    """Where the sheet lies that a picture shows on a darker ground.

    Args:
        pixels: uint8[H, W, 3] RGB.

    Returns:
        1 on the sheet, uint8[H, W], and its corners; all 1 and no corners where there is no such sheet.
    """
    height, width = pixels.shape[:2]
    small = at_most(pixels, SMALL)
    # Paper is bright in all channels, wood and skin are not.
    closed = cv2.morphologyEx(small.min(axis=2), cv2.MORPH_CLOSE, _disc(9))
    smooth = np.asarray(cv2.GaussianBlur(closed, (0, 0), 1), np.uint8)
    limit, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_OTSU)
    bright = cv2.morphologyEx((smooth > limit).astype(np.uint8), cv2.MORPH_OPEN, _disc(7))
    outlines, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if outlines:
        outline = max(outlines, key=cv2.contourArea)
        hull = cv2.convexHull(outline)
        corners = cv2.approxPolyDP(hull, 0.03 * cv2.arcLength(hull, closed=True), closed=True)
        sheet = np.asarray(cv2.fillPoly(np.zeros_like(smooth), [hull], 1), np.uint8)
        full = cv2.contourArea(outline) > 0.85 * cv2.contourArea(hull)
        if full and len(corners) <= 6 and 0.08 < sheet.mean() < 0.95 and _ends_sharply(sheet, smooth):
            # Its edge casts a shadow, and the picture's own border may not be the sheet's.
            framed = cv2.copyMakeBorder(sheet, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
            inner = cv2.erode(framed, _disc(9))[1:-1, 1:-1]
            sheet = np.asarray(cv2.resize(inner, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
            if sheet.any():
                return sheet, corners[:, 0].astype(np.float32) * np.float32(width / small.shape[1])
    return np.ones((height, width), np.uint8), np.empty((0, 2), np.float32)


def _ends_sharply(sheet: NDArray[np.uint8], smooth: Pixels) -> bool:
    """Whether a bright area ends as paper does, and not as light does.

    Args:
        sheet: 1 on it, uint8[H, W].
        smooth: the picture's darkest channel without ink, uint8[H, W].
    """
    within = cv2.erode(sheet, _disc(3), borderValue=1) > cv2.erode(sheet, _disc(7), borderValue=1)
    beyond = cv2.dilate(sheet, _disc(7)) > cv2.dilate(sheet, _disc(3))
    both = bool(within.any() and beyond.any())
    return both and float(np.median(smooth[beyond])) < 0.88 * float(np.median(smooth[within]))


def straightened(pixels: Pixels, sheet: NDArray[np.uint8], corners: Corners) -> tuple[Pixels, NDArray[np.uint8]]:
    """A sheet with four corners as seen from straight above; arguments as `find_sheet` gives them, or as they are."""
    if len(corners) != 4:
        return pixels, sheet
    middle = corners.mean(axis=0)
    around = corners[np.argsort(np.arctan2(*(corners - middle).T[::-1]))]  # clockwise
    around = np.roll(around, -int(around.sum(axis=1).argmin()), axis=0)  # from the upper left
    sides = np.linalg.norm(np.roll(around, -1, axis=0) - around, axis=1)
    width, height = (max(1, round(float(sides[first] + sides[first + 2]) / 2)) for first in (0, 1))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(np.ascontiguousarray(around, np.float32), target)
    flat = cv2.warpPerspective(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    part = cv2.warpPerspective(sheet, matrix, (width, height), flags=cv2.INTER_NEAREST)
    return np.asarray(flat, np.uint8), np.asarray(part, np.uint8)


def _from_screen(pixels: Pixels, colour: NDArray[np.float32], flat: float) -> Inked:
    if colour.mean() < 128:
        pixels, colour = np.asarray(255 - pixels, np.uint8), 255 - colour
    colours = pixels if (colour == 255).all() else _on_white(pixels, np.maximum(colour, 1))
    depth = _depth(colours)
    # Pale lines become as dark as those that networks know.
    ink = depth if (strength := _strength(depth, depth > CLEAR)) > PALE else np.minimum(depth / strength, 1)
    return Inked(ink, colours, flat, *_darkness(depth, np.ones(depth.shape, np.uint8)), noise=0.0)


def _from_photo(pixels: Pixels) -> Inked:
    if _is_board(pixels):
        pixels = np.asarray(255 - pixels, np.uint8)
    pixels, sheet = straightened(pixels, *find_sheet(pixels))
    colours = _on_white(np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.8), np.uint8), _light(pixels))
    left, top, wide, high = cv2.boundingRect(sheet)
    part = np.s_[top : top + high, left : left + wide]
    sheet, colours = sheet[part], colours[part]
    depth = _depth(colours) * sheet
    ground = float(np.median(depth[sheet > 0]))
    noise = 1.4826 * float(np.median(np.abs(depth[sheet > 0] - ground)))
    depth = np.maximum(depth - np.float32(ground), 0)
    told = (0.0, *_darkness(depth, sheet), noise)
    least = max(FAINTEST, NOISE * noise)
    marks = _marks(depth, sheet, least, noise)
    if not marks.any():
        return Inked(np.zeros_like(depth), np.full_like(colours, 255), *told)
    strength = _strength(depth, marks & (depth > least))
    low = min(0.4 * least, 0.5 * strength)
    ink = np.clip((depth - low) / (strength - low), 0, 1) * marks
    return Inked(ink.astype(np.float32), np.where(marks[..., None], colours, np.uint8(255)), *told)


def _strength(depth: Depth, ink: NDArray[np.bool_]) -> float:
    """The depth from which ink is to be black: a pencil's is pale all along its line; 1 where there is no ink."""
    return 0.75 * float(np.percentile(depth[ink], 90)) if ink.any() else 1.0


def _darkness(depth: Depth, sheet: NDArray[np.uint8]) -> tuple[float, float, float]:
    """`Inked.dark`, `Inked.thick` and `Inked.areas` of a sheet, 1 on it."""
    dark = ((depth > CLEAR) & (sheet > 0)).astype(np.float32)
    small = (at_most(dark, 2 * SMALL) > 0.5).astype(np.uint8)
    part = float(dark.mean())

    def thicker(width: float) -> float:
        opened = cv2.morphologyEx(small, cv2.MORPH_OPEN, _disc(round(max(small.shape) * width) | 1))
        return float(opened.mean()) / part if part else 0.0

    return part / float(sheet.mean()), thicker(THICK), thicker(BROADEST)


def _is_board(pixels: Pixels) -> bool:
    """Whether bright lines are drawn on a dark ground, in the middle of a picture, rather than dark lines on paper."""
    grey = cv2.cvtColor(at_most(pixels, 2 * SMALL), cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    middle = grey[height // 5 : height - height // 5, width // 5 : width - width // 5].astype(np.float32)
    if np.median(middle) > 128:
        return False
    # Lines are few and far from their ground: they decide to which side differences are skewed.
    return float(np.power(middle - cv2.GaussianBlur(middle, (0, 0), 8), 3).sum()) > 0


def _marks(depth: Depth, sheet: NDArray[np.uint8], least: float, noise: float) -> NDArray[np.bool_]:
    """Where something was drawn: connected marks with sharp edges, apart from dust and what reaches in from the border.

    Args:
        depth: of the sheet.
        sheet: 1 on it; where it is the whole picture, drawings may reach its border.
        least: depth of ink.
        noise: standard deviation of the paper's depth.

    Returns:
        bool[H, W].
    """
    weak = (depth > 0.6 * least).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(weak, connectivity=8, ltype=cv2.CV_32S)
    kept = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) > SPECK * max(depth.shape)
    kept[0] = False
    if not sheet.all():
        kept[np.unique(labels[sheet > cv2.erode(sheet, _disc(5), borderValue=0)])] = False
    some = kept[labels] & (depth > least)
    if not some.any():
        return np.asarray(some)
    typical = float(np.percentile(depth[some], 90))
    edges = cv2.morphologyEx(depth, cv2.MORPH_GRADIENT, _disc(3))
    sure = some & (depth > 0.3 * typical) & (edges > max(SHARP, EDGE * typical, 4 * noise))
    sharp = np.zeros(count, np.bool_)
    sharp[np.unique(labels[sure])] = True
    found: NDArray[np.bool_] = (kept & sharp)[labels]
    return found


def _light(pixels: Pixels) -> NDArray[np.float32]:
    """What the paper would look like without ink, float32[H, W, 3], 1..255: marks are closed, shadows are not."""
    small = at_most(pixels, SMALL)
    side = max(3, round(max(small.shape[:2]) * PATCH) | 1)
    # Noise would lift what closing finds.
    closed = cv2.morphologyEx(cv2.GaussianBlur(small, (0, 0), 1), cv2.MORPH_CLOSE, _disc(side))
    smooth = cv2.GaussianBlur(closed, (0, 0), 1.5)
    wide = cv2.resize(smooth, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.maximum(wide, 16).astype(np.float32)


def lines(inked: Inked) -> Pixels:
    """The drawing as dark lines on white, uint8[H, W]: coloured or blackened areas become their outlines."""
    depth = _outlines(inked.colours) if inked.areas > AREAS else inked.ink
    return np.asarray((255 - 255 * depth).round(), np.uint8)


def _outlines(colours: Pixels) -> Depth:
    """Lines of a drawing with coloured areas on white paper, and the areas' borders."""
    side = max(colours.shape[:2])
    # Within areas, only lines that are darker are left; closing takes them out of the areas.
    closed = cv2.morphologyEx(colours, cv2.MORPH_CLOSE, _disc(round(side * THICK) | 1))
    thin = cv2.subtract(closed, colours).max(axis=2)
    borders = cv2.morphologyEx(closed, cv2.MORPH_GRADIENT, _disc(round(side * LINE) | 1)).max(axis=2)
    found = np.maximum(thin, borders).astype(np.float32) / 255
    return np.asarray(np.clip((found - CLEAR) / 0.3, 0, 1), np.float32)


def _on_white(pixels: Pixels, paper: NDArray[np.float32]) -> Pixels:
    """Pixels as they would be on white paper, uint8[H, W, 3]; `paper` is float32[3] or float32[H, W, 3], 1..255."""
    return np.asarray(np.minimum(pixels * (np.float32(255) / paper), 255).round(), np.uint8)


def _depth(colours: Pixels) -> Depth:
    return np.asarray(1 - colours.min(axis=2) / np.float32(255), np.float32)


def at_most(pixels: NDArray[Value], side: int) -> NDArray[Value]:
    """Shrinks an image, [H, W] or [H, W, 3], so that its longer side is at most `side` px."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), pixels.dtype)


def _disc(side: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
