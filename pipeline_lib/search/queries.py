"""What people search with: a drawing, made anywhere and sent as a picture, or a photo; and which of the two it is."""

import io
import warnings
from dataclasses import dataclass, replace
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline_lib.data.images import BLANK, FORMATS, SPARE, decode
from pipeline_lib.embedding.alignment import Domain
from pipeline_lib.embedding.framing import INK, ink_box
from pipeline_lib.search.paper import Inked, at_most, lines, take_off
from pipeline_lib.search.svg import is_svg, rasterise_svg

Pixels = NDArray[np.uint8]
Kind = Literal["auto", "drawing", "photo"]

SIDE: Final = 1024
"""Drawings are worked on at this size at most, px."""
# A drawing, by half of the photos and drawings at hand; of the other half, the rule takes 1 in 30 for the other kind:
SMOOTH: Final = 0.85  # a picture in which this part of the pixels is exactly as its neighbour was made on a screen
DARKEST: Final = 0.15  # part of its paper that is dark
THICKEST: Final = 0.5  # part of that which is thicker than lines
ROUGHEST: Final = 0.06  # the paper's noise, as a fraction of its brightness
SMALL: Final = 0.5
"""Drawings that span less of their page are searched enlarged,"""
LARGE: Final = 0.8
"""so that they span this much of it."""
# Fractions of the side of that page:
WIDTH: Final = 0.013  # of lines; those of Sketchy's drawings differ little from it
BROAD: Final = 0.02  # lines that are broader are thinned
FEW: Final = 192
"""A small drawing that spans fewer px is blurred when it is enlarged."""
CRISP: Final = (0.35, 0.65)
"""Of enlarged lines, what is paler than the first part of their depth becomes paper, what is deeper than the second
black: of half of Sketchy's drawings, shrunk to 128 px, 46 % then find the photo meant, as before, and 42 without."""
SHORTEST: Final = 0.08
"""A drawing's lines are together at least this long, as a fraction of the page's longer side."""
PALE: Final = 0.05
"""Of transparent pictures in which no larger part than this is darker than paper, the lines are bright."""


@dataclass(frozen=True)
class Query:
    """What is searched for."""

    pixels: Pixels  # uint8[H, W, 3], RGB; drawings as dark lines on white
    domain: Domain
    blank: bool  # nothing is drawn, or next to nothing, so that there is nothing to search for


def read_query(data: bytes, *, max_pixels: int, kind: Kind = "auto") -> Query:
    """The query that a picture's bytes hold.

    Drawings may be photographed or scanned, on paper or on a board, drawn on a screen in any colours, on transparent
    ground too, or an SVG.

    Args:
        data: of an image file.
        max_pixels: larger ones are refused before they are decoded.
        kind: what it is; "auto" finds out.

    Raises:
        BadImage: it can't be read; says why.
    """
    pixels = _decoded(data, max_pixels)
    if kind == "photo":
        return _photo(pixels)
    inked = take_off(at_most(pixels, SIDE))
    return _photo(pixels) if kind == "auto" and shows_photo(inked) else of_pixels(lines(inked))


def of_pixels(pixels: Pixels, kind: Kind = "auto") -> Query:
    """A query of pixels that need no reading: a drawing with dark lines on white, unless `kind` says photo.

    Args:
        pixels: uint8[H, W, 3] RGB or uint8[H, W].
        kind: "auto" takes them as a drawing.
    """
    if kind == "photo":
        return _photo(_colours(pixels))
    grey = pixels if pixels.ndim == 2 else pixels.min(axis=2)
    drawn = fitted(grey)
    return Query(_colours(pixels if drawn is grey else drawn), "sketch", blank=is_blank(grey))


def mirrored(query: Query) -> Query:
    """The query flipped horizontally."""
    return replace(query, pixels=np.ascontiguousarray(query.pixels[:, ::-1]))


def fitted(drawing: Pixels) -> Pixels:
    """A drawing, uint8[H, W], with lines like those that networks know: neither thick nor blurred; if it is, as it is.

    Of the photos meant, a pen of 2.9 % of the page finds 21 % where one of 1.2 % finds 29, and 27 after this.
    """
    box = ink_box(drawing)
    if box is None:
        return drawing
    page, extent = max(drawing.shape), max(box[2] - box[0], box[3] - box[1])
    # A small drawing is going to be enlarged, and its lines with it.
    small = extent < SMALL * page
    side = extent / LARGE if small else page
    thick, blurred = line_width(drawing) > BROAD * side, small and extent < FEW
    if not (thick or blurred):
        return drawing
    scale = max(1, round(SIDE / 2 / page))  # lines of a few pixels can't be thinned by less than one
    large = np.asarray(cv2.resize(drawing, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)
    if blurred:
        large = _crisp(large)
    return _thinned(large, WIDTH * side * scale) if thick else large


def _crisp(drawing: Pixels) -> Pixels:
    """An enlarged drawing, uint8[H, W], dark on white, whose lines end where they are half as deep as within."""
    depth = (255 - drawing).astype(np.float32)
    ink = depth > 255 - INK
    if not ink.any():
        return drawing
    low, high = np.multiply(CRISP, np.percentile(depth[ink], 90))
    return np.asarray(255 - np.clip((depth - low) / (high - low), 0, 1) * 255, np.uint8)


def _thinned(drawing: Pixels, width: float) -> Pixels:
    """A drawing, uint8[H, W], dark on white, whose lines are `width` px broad in the mean."""
    excess = 1 + round(line_width(drawing) - width)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (excess, excess))
    slim = cv2.dilate(drawing, disc)
    # Lines that are thinner than others would vanish: they stay as they are.
    lost = cv2.subtract(cv2.morphologyEx(drawing, cv2.MORPH_CLOSE, disc), drawing) > 128
    return np.where(lost, drawing, slim)


def line_width(drawing: Pixels) -> float:
    """The mean width of the lines of a drawing, uint8[H, W], dark on white, px; 0 where there are none."""
    ink = drawing < 128
    if not ink.any():
        return 0.0
    # From a line's border to its middle, distances to the paper rise from 1 to half of its width.
    return max(1.0, 4 * float(_to_paper(ink)[ink].mean()) - 2)


def _to_paper(ink: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How far each pixel is from the nearest one without ink, px; beyond the page is paper, too."""
    framed = cv2.copyMakeBorder(ink.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1], np.float32)


def is_blank(drawing: Pixels) -> bool:
    """Whether a drawing, uint8[H, W], dark on white, holds less than a short line: a dot, what an eraser left."""
    ink = drawing < INK
    return bool(not ink.any() or ink.sum() / (2 * _to_paper(ink).max()) < SHORTEST * max(drawing.shape))


def shows_photo(inked: Inked) -> bool:
    """Whether a picture shows no drawing: too much of it is dark, too thick or too rough to be lines on paper."""
    if inked.flat >= SMOOTH:
        return False
    return inked.dark > DARKEST or inked.thick > THICKEST or inked.noise > ROUGHEST


def _colours(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def _photo(pixels: Pixels) -> Query:
    return Query(pixels, "photo", blank=int(np.ptp(pixels, axis=(0, 1)).max()) <= BLANK)


def _decoded(data: bytes, max_pixels: int) -> Pixels:
    if is_svg(data):
        data = rasterise_svg(data, SIDE)
    pixels = decode(data, max_pixels=max_pixels, short_side=SIDE // SPARE)
    alpha = _alpha(data)
    if alpha is None or alpha.shape != pixels.shape[:2]:
        return pixels
    # On the white that transparent pictures are laid on, bright lines can't be seen: their shape alone is the drawing.
    visible = alpha > 127
    dark = visible & (pixels.min(axis=2) < INK)
    return pixels if dark.sum() > PALE * visible.sum() else np.repeat(255 - alpha[..., None], 3, axis=2)


def _alpha(data: bytes) -> Pixels | None:
    """How opaque the pixels of an image are that can be decoded, uint8[H, W]; None where all are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if getattr(image, "is_animated", False) or not image.has_transparency_data:
                    return None
                return np.array(ImageOps.exif_transpose(image).convert("RGBA").getchannel("A"), np.uint8)
        except Exception:  # noqa: BLE001  formats that Pillow does not know by itself have been decoded otherwise
            return None
