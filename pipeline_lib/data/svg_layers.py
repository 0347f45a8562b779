"""OpenMoji's SVG files: the picture without its outlines, and the outlines alone.

The children of the root are layers with fixed names. Names recur deeper down (a `line_1_` inside `color`, a `skin-b`
inside `skin`), so only a child of the root says what its layer is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import resvg_py
from numpy.typing import NDArray

from pipeline_lib.data.images import BadImage, decode_encoded

Part = Literal["picture", "drawing"]

FILLS = ("color", "color-foreground", "skin", "skin-shadow", "hair")
LINES = ("line", "line-supplement")

BACKGROUND = {"picture": "#000000", "drawing": "#ffffff"}
"""Every fill but black stands out from black: the darkest is 63 of 255 away in grey. On white, white objects vanish and
yellow ones come within 40 of it, too little for Canny's usual thresholds; a quarter of the edge maps would be empty."""


def _show(layers: tuple[str, ...]) -> str:
    shown = ", ".join(f"svg > #{name}" for name in layers)
    return f"svg > * {{display: none}} {shown} {{display: inline}}"


STYLES = {"picture": _show(FILLS), "drawing": _show(LINES)}


def rasterise(svg: str, part: Part, size: int) -> NDArray[np.uint8]:
    """Draws one part of an OpenMoji SVG.

    Args:
        svg: the file's text.
        part: "picture" (the fills, on black) or "drawing" (the lines, black on white).
        size: side of the result, px.

    Returns:
        uint8[size, size, 3], RGB.

    Raises:
        BadImage: the text is no SVG.
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
