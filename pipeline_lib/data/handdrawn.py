"""Makes a clean drawing look drawn by hand: turned, scaled, shifted and bent, always in the same way for one image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline_lib import params

SMOOTHNESS = 0.08
"""Gaussian sigma of the displacement field, fraction of the side: strokes bend, but keep their joints."""


def displacement(size: int, amplitude: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth random displacement field.

    Args:
        size: side of the image, px.
        amplitude: length of the longest displacement, fraction of the side.
        rng: source of the draw.

    Returns:
        float64[2, size, size]: how far each place moves in x and in y, px.
    """
    # Drawn on a coarse grid of fixed size: the same drawing bends alike at every resolution.
    coarse = 64
    noise = rng.standard_normal((2, coarse, coarse))
    field = np.stack([cv2.GaussianBlur(part, (0, 0), SMOOTHNESS * coarse) for part in noise])
    field = np.stack([cv2.resize(part, (size, size), interpolation=cv2.INTER_CUBIC) for part in field])
    longest = float(np.hypot(field[0], field[1]).max())
    return np.asarray(field * (amplitude * size / longest), dtype=np.float64)


def hand_drawn(drawing: NDArray[np.uint8], settings: params.OpenMoji, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turns, scales, shifts and bends a drawing.

    Args:
        drawing: uint8[S, S, 3], dark lines on white.
        settings: query_rotation (degrees), query_scale, query_shift and query_warp (fractions of the side).
        rng: source of the draw.

    Returns:
        uint8[S, S, 3]; what comes in from outside is white.
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
    bent = cv2.remap(
        drawing,
        from_x.astype(np.float32),
        from_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(255, 255, 255),
    )
    return np.asarray(bent, dtype=np.uint8)
