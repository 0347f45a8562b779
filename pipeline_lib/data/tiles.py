"""Images fitted into squares, for grids of pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def square(image: NDArray[np.uint8], side: int) -> Image.Image:
    """An image fitted into a square of `side` px, centred on light grey.

    Args:
        image: uint8[H, W, 3] RGB or uint8[H, W].
        side: px.
    """
    picture = Image.fromarray(image).convert("RGB")
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    tile = Image.new("RGB", (side, side), "#f0f0f0")
    tile.paste(picture.resize(size, Image.Resampling.LANCZOS), ((side - size[0]) // 2, (side - size[1]) // 2))
    return tile
