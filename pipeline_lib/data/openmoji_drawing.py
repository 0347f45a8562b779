"""The pixels of OpenMoji: pictures without outlines, outlines as drawn by hand, and which of them look alike.

The children of an SVG's root are layers with fixed names. Names recur deeper down (a `line_1_` inside `color`, a
`skin-b` inside `skin`), so only a child of the root says what its layer is for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import resvg_py
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.images import BadImage, decode_encoded

Part = Literal["picture", "drawing"]

LAYERS = {
    "picture": ("color", "color-foreground", "skin", "skin-shadow", "hair"),
    "drawing": ("line", "line-supplement"),
}
STYLES = {
    part: f"svg > * {{display: none}} {', '.join(f'svg > #{name}' for name in names)} {{display: inline}}"
    for part, names in LAYERS.items()
}
BACKGROUND = {"picture": "#000000", "drawing": "#ffffff"}
"""Every fill but black contrasts with black: the darkest is 63 of 255 away in grey. On white, white objects vanish and
yellow ones come within 40 of it, too little for Canny's usual thresholds; a quarter of the edge maps would be empty."""

# Gaussian sigma of the displacement field, fraction of the side: strokes bend, but joints stay closed.
SMOOTHNESS = 0.08
BLUR = 1.0  # sigma in px on thumbnails of 64 px, so that lines a pixel apart still overlap


def rasterise(svg: str, part: Part, size: int) -> NDArray[np.uint8]:
    """Draws the "picture" (the fills, on black) or "drawing" (the lines, black on white) of an OpenMoji SVG's text.

    Returns:
        uint8[size, size, 3], RGB.

    Raises:
        BadImage: the text is not an SVG.
    """
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=svg,
            style_sheet=STYLES[part],
            background=BACKGROUND[part],
            width=size,
            height=size,
            skip_system_fonts=True,
        )
    except ValueError as failure:
        raise BadImage(f"not an SVG that can be drawn: {failure}") from failure
    return decode_encoded(bytes(png))


def read_svg(path: Path) -> str:
    """The text of an SVG file.

    Raises:
        BadImage: the file can't be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise BadImage(f"{path.name}: {failure}") from failure


def displacement(size: int, amplitude: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth random displacement field for an image of `size` px a side.

    `amplitude` is the length of the longest displacement, as a fraction of the side.

    Returns:
        float64[2, size, size]: how far each pixel moves in x and in y, px.
    """
    # A coarse grid of fixed size, so that a drawing is bent the same way at every resolution.
    coarse = 64
    noise = rng.standard_normal((2, coarse, coarse))
    field = np.stack([cv2.GaussianBlur(part, (0, 0), SMOOTHNESS * coarse) for part in noise])
    field = np.stack([cv2.resize(part, (size, size), interpolation=cv2.INTER_CUBIC) for part in field])
    longest = float(np.hypot(field[0], field[1]).max())
    return np.asarray(field * (amplitude * size / longest), dtype=np.float64)


def hand_drawn(drawing: NDArray[np.uint8], settings: params.OpenMoji, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Makes a clean drawing look drawn by hand: rotates, scales, shifts and bends it.

    Args:
        drawing: uint8[S, S, 3], dark lines on white.
        settings: query_rotation (degrees), query_scale, query_shift and query_warp (fractions of the side).
        rng: source of the draw.

    Returns:
        uint8[S, S, 3]; white where nothing of the drawing is moved to.
    """
    size = drawing.shape[0]
    angle = np.deg2rad(rng.uniform(-settings.query_rotation, settings.query_rotation))
    scale = rng.uniform(*settings.query_scale)
    shift = rng.uniform(-settings.query_shift, settings.query_shift, size=2) * size
    field = displacement(size, settings.query_warp, rng)
    middle = (size - 1) / 2
    y, x = np.mgrid[0:size, 0:size].astype(np.float64)
    # The inverse map: where each pixel of the result comes from.
    x, y = x - middle - shift[0], y - middle - shift[1]
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    from_x = cos * x + sin * y + middle + field[0]
    from_y = -sin * x + cos * y + middle + field[1]
    x, y, white = from_x.astype(np.float32), from_y.astype(np.float32), (255, 255, 255)
    bent = cv2.remap(drawing, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=white)
    return np.asarray(bent, dtype=np.uint8)


def visible(image: NDArray[np.uint8], background: int) -> float:
    """Fraction of the pixels with a channel that differs from `background` (0..255) by more than 32."""
    difference = np.abs(image.astype(np.int16) - background).max(axis=-1)
    return float((difference > 32).mean())


def descriptor(image: NDArray[np.uint8], background: int) -> NDArray[np.float32]:
    """A vector to compare thumbnails (uint8[64, 64, 3]) by: the blurred difference from the background (0..255).

    Returns:
        float32[32 * 32 * 3] of length 1; zeros for an empty image.
    """
    difference = cv2.absdiff(image, np.full_like(image, background))
    smooth = cv2.GaussianBlur(difference.astype(np.float32), (0, 0), BLUR)[::2, ::2]
    length = float(np.linalg.norm(smooth))
    return np.asarray(smooth.ravel() / max(length, 1e-6), dtype=np.float32)


def first_of_each(kinds: Sequence[tuple[NDArray[np.float32], float]]) -> NDArray[np.int64]:
    """Goes through a collection in order and keeps what duplicates nothing kept so far.

    Args:
        kinds: for each way of comparing, the descriptors (float32[N, D], rows of length 1) and the cosine similarity
            from which two are duplicates. One way suffices.

    Returns:
        int64[N]: the index of the kept one that each duplicates; a kept one's own index.
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
