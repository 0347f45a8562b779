"""The 32-dimensional histogram of oriented gradients of voc-release5 (Felzenszwalb et al. 2010, `features.cc`).

18 orientations with sign, 9 without, 4 sums of energy, and a last one that says that the cell lies outside the image.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

DIMENSIONS = 32
SIGNED = 18
OUTSIDE = 31
ENERGY = 0.2357
EPSILON = 1e-4
TRUNCATE = 0.2
# What mirroring an image does to the numbers of a cell.
MIRRORED = np.array([
    9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 17, 16, 15, 14, 13, 12, 11, 10,
    18, 26, 25, 24, 23, 22, 21, 20, 19,
    29, 30, 27, 28,
    31,
])  # fmt: skip


def features(image: NDArray[np.floating], cell: int) -> Features:
    """Describes an image by cells.

    Args:
        image: float[H, W, 3], 0..255.
        cell: px, side of a cell.

    Returns:
        float32[h - 2, w - 2, 32] with h = round(H / cell): cells at the border serve as neighbours only.
    """
    height, width = (int(side / cell + 0.5) for side in image.shape[:2])
    if min(height, width) <= 2:
        return np.zeros((max(0, height - 2), max(0, width - 2), DIMENSIONS), np.float32)
    histogram = _histogram(np.asarray(image, np.float32), cell, height, width)
    unsigned = histogram[..., :9] + histogram[..., 9:]
    energy = (unsigned**2).sum(axis=2)
    blocks = energy[:-1, :-1] + energy[1:, :-1] + energy[:-1, 1:] + energy[1:, 1:]
    scale = 1 / np.sqrt(blocks + EPSILON)
    # The four blocks around a cell; the order fixes the last four energies.
    around = (scale[1:, 1:], scale[:-1, 1:], scale[1:, :-1], scale[:-1, :-1])
    out = np.zeros((height - 2, width - 2, DIMENSIONS), np.float32)
    for number, factor in enumerate(around):
        signed = np.minimum(histogram[1:-1, 1:-1] * factor[..., None], TRUNCATE)
        out[..., :SIGNED] += 0.5 * signed
        out[..., SIGNED:27] += 0.5 * np.minimum(unsigned[1:-1, 1:-1] * factor[..., None], TRUNCATE)
        out[..., 27 + number] = ENERGY * signed.sum(axis=2)
    return out


def _histogram(image: NDArray[np.float32], cell: int, height: int, width: int) -> NDArray[np.float32]:
    """float32[height, width, 18]: gradients of the strongest channel, shared among the four nearest cells."""
    # Pixels of the last, broken cell repeat the last gradient of the image, as the original does.
    rows = np.minimum(np.arange(1, height * cell - 1), image.shape[0] - 2)
    columns = np.minimum(np.arange(1, width * cell - 1), image.shape[1] - 2)
    dy = (image[2:] - image[:-2])[rows - 1][:, columns]
    dx = (image[:, 2:] - image[:, :-2])[rows][:, columns - 1]
    strength = dx**2 + dy**2
    # The original looks at the last channel first, and an earlier one must be stronger to replace it.
    channel = 2 - np.argmax(strength[..., ::-1], axis=2)[..., None]
    dx, dy, strength = (np.take_along_axis(part, channel, axis=2)[..., 0] for part in (dx, dy, strength))
    angles = np.arange(9, dtype=np.float32) * (np.pi / 9)
    dots = dx[..., None] * np.cos(angles) + dy[..., None] * np.sin(angles)
    best = np.argmax(np.abs(dots), axis=2)
    positive = np.take_along_axis(dots, best[..., None], axis=2)[..., 0] >= 0
    orientation = np.where(positive, best, best + 9)
    magnitude = np.sqrt(strength)
    total = np.zeros(height * width * SIGNED)
    places_y, places_x = _shares(len(rows), cell), _shares(len(columns), cell)
    for y, weight_y in places_y:
        for x, weight_x in places_x:
            inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None, :]
            bins = ((y[:, None] * width + x[None, :]) * SIGNED + orientation)[inside]
            weights = (magnitude * weight_y[:, None] * weight_x[None, :])[inside]
            total += np.bincount(bins, weights, minlength=len(total))
    return total.reshape(height, width, SIGNED).astype(np.float32)


def _shares(count: int, cell: int) -> list[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Per pixel (from the second on) the cell before and the cell after it, each with the share it gets."""
    place = (np.arange(1, count + 1) + 0.5) / cell - 0.5
    before = np.floor(place).astype(np.intp)
    rest = (place - before).astype(np.float32)
    return [(before, 1 - rest), (before + 1, rest)]


def mirror(cells: Features) -> Features:
    """The features, or the filter, of the mirrored image: float32[h, w, 32]."""
    return np.ascontiguousarray(cells[:, ::-1, MIRRORED])


def pad(cells: Features, rows: int, columns: int) -> Features:
    """Adds cells on every side that say that they lie outside the image."""
    padded = np.pad(cells, ((rows, rows), (columns, columns), (0, 0)))
    outside = np.ones(padded.shape[:2], bool)
    outside[rows : rows + cells.shape[0], columns : columns + cells.shape[1]] = False
    padded[outside, OUTSIDE] = 1
    return padded


def scaled(image: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The image made smaller by `factor` (1 leaves it), each pixel the mean of what it covers."""
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.float32)
