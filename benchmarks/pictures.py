"""Photo-like JPEGs, made quickly: soft colours, filled shapes and faint noise, each of its own content."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def picture(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """A picture of about as many edges as a photo; uint8[height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(90):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(4, width // 12)), int(rng.integers(4, height // 12)))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        cv2.ellipse(image, centre, axes, float(rng.integers(180)), 0, 360, colour, -1, cv2.LINE_AA)
    grain = rng.integers(0, 25, image.shape, np.uint8)
    return np.asarray(cv2.add(image, grain), np.uint8)


def write_pictures(folder: Path, count: int, *, width: int, height: int) -> list[Path]:
    """Writes `count` distinct JPEGs of quality 90 and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in range(count):
        path = folder / f"{seed:06d}.jpg"
        done, data = cv2.imencode(".jpg", picture(seed, width, height), [cv2.IMWRITE_JPEG_QUALITY, 90])
        if not done:
            raise RuntimeError("a picture could not be encoded")
        path.write_bytes(data.tobytes())
        paths.append(path)
    return paths
