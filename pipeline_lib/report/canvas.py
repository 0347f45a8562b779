"""What all pictures share: square tiles, frames, words, and files that stay small."""

import functools
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline_lib.data.images import square
from pipeline_lib.files import replacing

WIDTH = 1200
MARGIN = 16
GAP = 8
INK, FAINT, LINE = "#222222", "#6b6b6b", "#c8c8c8"
GREEN = "#18a558"
FRAME = 5

Pixels = NDArray[np.uint8]


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: it knows most alphabets."""
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


class Canvas:
    """A white page that is drawn on in px from its top left."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), "white")
        self.draw = ImageDraw.Draw(self.image)

    def tile(self, image: Pixels, x: int, y: int, side: int, frame: str | None = None) -> None:
        """Places an image in a square; `frame` is the colour of a thick frame around it, None draws a thin grey one."""
        self.image.paste(square(image, side), (x, y))
        if frame is None:
            self.draw.rectangle((x, y, x + side - 1, y + side - 1), outline=LINE)
        else:
            # Around the tile, not on it: the picture stays whole.
            box = (x - FRAME, y - FRAME, x + side - 1 + FRAME, y + side - 1 + FRAME)
            self.draw.rectangle(box, outline=frame, width=FRAME)

    def text(self, words: str, x: float, y: float, *, size: int = 15, colour: str = INK, anchor: str = "la") -> None:
        """Writes one line; `anchor` as in Pillow ("la" left and top, "ma" middle and top)."""
        self.draw.text((x, y), words, font=font(size), fill=colour, anchor=anchor)

    def pixels(self) -> Pixels:
        """The page, uint8[H, W, 3], RGB."""
        return np.asarray(self.image)


def note(words: str) -> Pixels:
    """A picture that says why there is nothing to show, uint8[H, WIDTH, 3]; one line for each line of `words`."""
    lines = words.splitlines()
    canvas = Canvas(WIDTH, 2 * MARGIN + 26 * len(lines))
    for number, line in enumerate(lines):
        canvas.text(line, MARGIN, MARGIN + 26 * number, size=17, colour=FAINT)
    return canvas.pixels()


def save_png(path: Path, image: Pixels) -> None:
    """Writes a picture as a small PNG of at most 256 colours, whole or not at all."""
    reduced = Image.fromarray(image).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with replacing(path) as aside:
        reduced.save(aside, "PNG", optimize=True)
