"""A handful of synthetic photos and sketches of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.baselines.supervised import batches as pixels
from pipeline_lib.baselines.supervised.batches import PairBatches
from pipeline_lib.baselines.supervised.recipe import Recipe

SIZE = 64
RECIPE = Recipe(
    loss="triplet",
    start="none",
    image_size=SIZE,
    embedding=16,
    margin=0.3,
    epochs=2,
    photos=4,
    sketches_each=2,
    shift=3,
    learning_rate=0.01,
)


def picture(number: int) -> NDArray[np.uint8]:
    """A bright box whose place and colour tell its number (0 to 11)."""
    image = np.full((80, 96, 3), 40, np.uint8)
    y, x = 10 + 22 * (number // 4), 6 + 22 * (number % 4)
    image[y : y + 16, x : x + 16] = (255, 60 * (number % 4), 80 * (number // 4))
    return image


def drawing(number: int, copy: int) -> NDArray[np.uint8]:
    """Its outline in black on white, drawn a little differently each time."""
    image = np.full((80, 96, 3), 255, np.uint8)
    y, x = 10 + 22 * (number // 4) + copy, 6 + 22 * (number % 4) - copy
    image[y : y + 16, x : x + 16] = 0
    image[y + 2 : y + 14, x + 2 : x + 14] = 255
    return image


def batches(folder: Path, recipe: Recipe = RECIPE, photos: int = 12) -> PairBatches:
    """`photos` pictures of 3 classes with 3 sketches each."""
    size = recipe.image_size
    pixels.write(folder / "photo.parquet", ((f"p{n:02d}", picture(n)) for n in range(photos)), size, "photo")
    sketches = ((f"s{n:02d}-{c}", drawing(n, c)) for n in range(photos) for c in range(3))
    pixels.write(folder / "sketch.parquet", sketches, size, "sketch")
    return PairBatches(
        pixels.Pixels.open(folder / "photo.parquet"),
        pixels.Pixels.open(folder / "sketch.parquet"),
        np.repeat(np.arange(photos), 3),
        np.arange(photos) % 3,
        recipe,
    )
