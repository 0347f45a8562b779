"""Edge maps augmented to look like drawings: no two people draw a photo alike, and nobody draws every edge.

Each view has its own blur, density and width of lines; some strokes are removed, some areas erased, or all but the
middle, and the rest is bent. What a network can still match is what drawings by people keep, too.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline_lib import params

CANVAS = 256
"""Side in px at which edges are taken: that of Sketchy's drawings, and the short side of the pipeline's edge maps."""
COARSE = 5  # side of the noise that bends drawings and erases parts of them, before it is enlarged
FINE = 32  # side to which this noise is enlarged by cubic interpolation; from there it is linear or nearest
FAINTEST = 12.0  # gradients (sums of Sobel's 3 x 3 weights on 8-bit grey) below this are noise, even in a flat picture
LOWER = 0.5  # Canny's lower threshold as a fraction of the upper one
DUST = 24  # connected edges of fewer px are removed: nobody draws them
# Both as fractions of the canvas's side:
SPOT_OFF = 0.1  # standard deviation of the spotlight's centre from the middle, in x and in y
SPOT_RADII = (0.22, 0.5)  # range of the spotlight's two radii

Lines = NDArray[np.uint8]
Places = NDArray[np.float32]


def draw_edges(grey: NDArray[np.uint8], settings: params.Contrast, rng: np.random.Generator) -> Lines:
    """A drawing-like edge map of a grey picture, uint8[H, W], as uint8[image_size, image_size], dark lines on white."""
    scaled = np.asarray(cv2.resize(grey, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR), np.uint8)
    lines = edges_of_density(scaled, rng.uniform(*settings.blur), rng.uniform(*settings.density))
    lines = leave_out(lines, rng.uniform(0, settings.drop_strokes), rng)
    lines = wipe_out(lines, rng.uniform(0, settings.erase), rng)
    # Consume random numbers only when enabled, so older configurations reproduce.
    if settings.spotlight and rng.random() < settings.spotlight:
        lines = spotlight(lines, rng)
    width = int(rng.integers(settings.line_width[0], settings.line_width[1] + 1))
    thick = cv2.dilate(lines, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    x, y = bend(settings, rng)
    bent = cv2.remap(thick, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    side = settings.image_size
    drawn = cv2.resize(bent, (side, side), interpolation=cv2.INTER_AREA if side < CANVAS else cv2.INTER_LINEAR)
    return np.asarray(cv2.bitwise_not(drawn), np.uint8)


def edges_of_density(grey: Lines, blur: float, density: float) -> Lines:
    """Canny edges with a threshold for each picture, so that dark and pale photos give as many lines as crisp ones.

    Args:
        grey: uint8[H, W].
        blur: Gaussian sigma in px; 0 for none.
        density: fraction of the pixels whose gradients lie above the upper threshold.

    Returns:
        uint8[H, W], 255 on edges; all 0 for a flat picture.
    """
    dx, dy = cv2.spatialGradient(cv2.GaussianBlur(grey, (0, 0), blur) if blur > 0 else grey)
    sampled = np.hypot(dx[::4, ::4].astype(np.float32), dy[::4, ::4]).ravel()
    place = int(len(sampled) * (1 - density))
    high = max(float(np.partition(sampled, place)[place]), FAINTEST)
    return np.asarray(cv2.Canny(dx, dy, high * LOWER, high, L2gradient=True), dtype=np.uint8)


def leave_out(lines: Lines, part: float, rng: np.random.Generator) -> Lines:
    """Removes each connected stroke of uint8[H, W], 255 on strokes, with probability `part`, and all dust."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lines, connectivity=8, ltype=cv2.CV_16U)
    kept = (rng.random(count) >= part) & (stats[:, cv2.CC_STAT_AREA] >= DUST)
    kept[0] = False  # the background
    return np.asarray(np.where(kept, 255, 0).astype(np.uint8)[labels], np.uint8)


def wipe_out(lines: Lines, part: float, rng: np.random.Generator) -> Lines:
    """Erases strokes where smooth noise is largest, on about the fraction `part` of the canvas."""
    fine = cv2.resize(rng.standard_normal((COARSE, COARSE), np.float32), (FINE, FINE), interpolation=cv2.INTER_CUBIC)
    kept = np.where(fine > np.quantile(fine, 1 - part), 0, 255).astype(np.uint8)
    return np.asarray(cv2.bitwise_and(lines, cv2.resize(kept, lines.shape[::-1], interpolation=cv2.INTER_NEAREST)))


def spotlight(lines: Lines, rng: np.random.Generator) -> Lines:
    """Keeps the strokes in an ellipse about the middle: people draw the subject of a photo, not its surroundings."""
    centre = rng.normal(0.5, SPOT_OFF, 2) * CANVAS
    radii = rng.uniform(*SPOT_RADII, 2) * CANVAS
    spot = np.zeros_like(lines)
    angle = float(rng.uniform(0, 180))
    cv2.ellipse(spot, centre.astype(int).tolist(), radii.astype(int).tolist(), angle, 0, 360, 255, cv2.FILLED)
    return np.asarray(cv2.bitwise_and(lines, spot))


def bend(settings: params.Contrast, rng: np.random.Generator) -> tuple[Places, Places]:
    """Source coordinates of each pixel of a bent drawing: a rotation about the centre and a smooth displacement.

    Returns:
        x, y: float32[CANVAS, CANVAS] each, px.
    """
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation))
    noise = rng.random((COARSE, COARSE, 2), np.float32) * np.float32(2) - np.float32(1)
    fine = cv2.resize(noise * np.float32(settings.warp * CANVAS), (FINE, FINE), interpolation=cv2.INTER_CUBIC)
    shift = np.asarray(cv2.resize(fine, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR), np.float32)
    centre = np.float32((CANVAS - 1) / 2)
    along = np.arange(CANVAS, dtype=np.float32) - centre
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x = (along * cos + centre)[None, :] - (along * sin)[:, None]
    y = (along * sin)[None, :] + (along * cos + centre)[:, None]
    return np.asarray(x + shift[..., 0], np.float32), np.asarray(y + shift[..., 1], np.float32)
