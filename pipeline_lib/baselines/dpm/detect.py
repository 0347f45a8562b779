"""Finds the best placement of a part model in an image (Felzenszwalb et al. 2010, section 3.2).

A placement scores the responses of root and parts, each part less what its displacement costs. The best displacement of
all parts at all places is what the generalised distance transform gives (Felzenszwalb and Huttenlocher 2012), here
within 4 cells, as in voc-release5.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline_lib.baselines.dpm.features import OUTSIDE, Features, features, pad, scaled
from pipeline_lib.baselines.dpm.model import Component, Model, Piece

Maps = NDArray[np.float32]

RADIUS = 4
SMALLEST_SIDE = 5  # cells: the coarsest level is not smaller
# Longer images are scaled down; objects of a fifth of an image are still found at the finest level.
LONG_SIDE = 400
ROOT_SIDE, ROOT_CELL = 128, 16


@dataclass(frozen=True)
class Detection:
    """The best placement of a model in an image."""

    component: int  # its number
    score: float  # of the placement
    boxes: NDArray[np.float64]  # float64[9, 4], x0 y0 x1 y1 in px of the image: the root, then the parts


@dataclass(frozen=True)
class Level:
    """One level of the pyramid: padded features, and px of the image per cell."""

    cells: Features
    pixels: float


def pyramid(image: NDArray[np.uint8], model: Model) -> list[Level]:
    """Features of the image, the finest octave at half the size of a cell, for the parts of the next.

    Args:
        image: uint8[H, W, 3].
        model: cell, interval and padding.
    """
    step = 2 ** (1 / model.interval)
    count = 1 + int(np.log(min(image.shape[:2]) / (SMALLEST_SIDE * model.cell)) / np.log(step))
    count = max(count, model.interval)
    pixels = image.astype(np.float32)
    levels: dict[int, Level] = {}
    for number in range(model.interval):
        smaller = scaled(pixels, 1 / step**number)
        levels[number] = _level(smaller, model.cell // 2, image.shape[0] / smaller.shape[0], model)
        for coarser in range(number + model.interval, count + model.interval, model.interval):
            levels[coarser] = _level(smaller, model.cell, image.shape[0] / smaller.shape[0], model)
            smaller = scaled(smaller, 0.5)
    return [levels[number] for number in sorted(levels)]


def _level(image: NDArray[np.float32], cell: int, factor: float, model: Model) -> Level:
    rows, columns = model.padding
    # Features lose a cell on each side; with one more of padding, row r is cell r - rows of the image.
    return Level(pad(features(image, cell), rows + 1, columns + 1), cell * factor)


def detect(image: NDArray[np.uint8], model: Model, threshold: float) -> Detection | None:
    """The best placement, or None where none reaches the threshold.

    Args:
        image: uint8[H, W, 3].
        model: the mixture.
        threshold: on the score.
    """
    levels = pyramid(image, model)
    best: tuple[float, int, int, int, int] | None = None
    raw: dict[int, list[Maps]] = {}
    for number in range(model.interval, len(levels)):
        fine = number - model.interval
        raw[fine] = responses(levels[fine].cells, [part for c in model.components for part in c.parts])
        roots = responses(levels[number].cells, [c.root for c in model.components])
        found = _best_of_level(model, roots, raw[fine], number)
        if found is not None and (best is None or found[0] > best[0]):
            best = (*found, number)
        # Only the best level's responses are needed again.
        kept = -1 if best is None else best[4] - model.interval
        raw = {level: maps for level, maps in raw.items() if level == kept}
    if best is None or best[0] < threshold:
        return None
    score, component, row, column, number = best
    fine = number - model.interval
    first = sum(len(c.parts) for c in model.components[:component])
    parts = raw[fine][first : first + len(model.components[component].parts)]
    boxes = _boxes(model, model.components[component], parts, (row, column), levels[number], levels[fine])
    return Detection(component, score, boxes)


def responses(cells: Features, pieces: list[Piece]) -> list[Maps]:
    """Correlation of features with filters at every place where the filter fits: float32[H - h + 1, W - w + 1] each."""
    found: dict[int, Maps] = {}
    shapes = {piece.filter.shape for piece in pieces}
    field = torch.from_numpy(np.ascontiguousarray(cells.transpose(2, 0, 1)))[None]
    for shape in shapes:
        numbers = [number for number, piece in enumerate(pieces) if piece.filter.shape == shape]
        if cells.shape[0] < shape[0] or cells.shape[1] < shape[1]:
            found |= dict.fromkeys(numbers, np.empty((0, 0), np.float32))
            continue
        bank = torch.from_numpy(np.stack([pieces[number].filter.transpose(2, 0, 1) for number in numbers]))
        maps = functional.conv2d(field, bank)[0].numpy()
        found |= dict(zip(numbers, maps, strict=True))
    return [found[number] for number in range(len(pieces))]


def transform(response: Maps, cost: tuple[float, float, float, float]) -> Maps:
    """The generalised distance transform within 4 cells.

    Args:
        response: float32[H, W].
        cost: (a, b, c, d) as in `Piece`.

    Returns:
        float32[H, W]: at each place p the largest response(q) - a dx^2 - b dx - c dy^2 - d dy, with (dx, dy) = p - q.
    """
    a, b, c, d = cost
    return _along(_along(response, c, d).T, a, b).T


def _along(response: Maps, square: float, linear: float) -> Maps:
    best = np.full_like(response, -np.inf)
    count = len(response)
    for shift in range(-RADIUS, RADIUS + 1):
        start, stop = max(0, shift), min(count, count + shift)
        if start < stop:
            moved = response[start - shift : stop - shift] - np.float32(square * shift**2 + linear * shift)
            np.maximum(best[start:stop], moved, out=best[start:stop])
    return best


def _best_of_level(
    model: Model, roots: list[Maps], parts: list[Maps], number: int
) -> tuple[float, int, int, int] | None:
    best: tuple[float, int, int, int] | None = None
    octave = min(number // model.interval, 2)
    first = 0
    for index, component in enumerate(model.components):
        own = parts[first : first + len(component.parts)]
        first += len(component.parts)
        total = component_scores(component, roots[index], own, model.padding)
        if not total.size:
            continue
        place = int(np.argmax(total))
        score = float(total.flat[place]) + component.bias + component.by_octave[octave]
        if np.isfinite(score) and (best is None or score > best[0]):
            best = score, index, *divmod(place, total.shape[1])
    return best


def component_scores(component: Component, root: Maps, parts: list[Maps], padding: tuple[int, int]) -> Maps:
    """The score of each place of the root with all parts at their best, without what holds for all places.

    Args:
        component: with its parts' anchors and costs.
        root: float32[H, W], responses of the root.
        parts: responses of the parts, one octave finer.
        padding: `Model.padding`.
    """
    total = root + np.float32(component.root.bias)
    for piece, response in zip(component.parts, parts, strict=True):
        if not response.size:
            return np.full_like(root, -np.inf)
        bent = transform(response, piece.cost) + np.float32(piece.bias)
        # Row r is cell r - padding of the image (see `_level`), which is cell 2 (r - padding) on the finer level.
        rows = 2 * np.arange(root.shape[0]) + piece.anchor[1] - padding[0]
        columns = 2 * np.arange(root.shape[1]) + piece.anchor[0] - padding[1]
        inside_r = (rows >= 0) & (rows < bent.shape[0])
        inside_c = (columns >= 0) & (columns < bent.shape[1])
        moved = np.full_like(total, -np.inf)
        moved[np.ix_(inside_r, inside_c)] = bent[np.ix_(rows[inside_r], columns[inside_c])]
        total += moved
    return total


def _boxes(
    model: Model, component: Component, parts: list[Maps], place: tuple[int, int], coarse: Level, fine: Level
) -> NDArray[np.float64]:
    above, left = model.padding
    boxes = [_box(component.root, place[0] - above, place[1] - left, coarse.pixels)]
    for piece, response in zip(component.parts, parts, strict=True):
        row, column = 2 * place[0] + piece.anchor[1] - above, 2 * place[1] + piece.anchor[0] - left
        row, column = best_shift(response, piece.cost, row, column)
        boxes.append(_box(piece, row - above, column - left, fine.pixels))
    return np.array(boxes)


def best_shift(response: Maps, cost: tuple[float, float, float, float], row: int, column: int) -> tuple[int, int]:
    """Where `transform` found the value that it gives at (row, column)."""
    a, b, c, d = cost
    rows = np.arange(max(0, row - RADIUS), min(response.shape[0], row + RADIUS + 1))
    columns = np.arange(max(0, column - RADIUS), min(response.shape[1], column + RADIUS + 1))
    dy, dx = (row - rows)[:, None], (column - columns)[None, :]
    values = response[np.ix_(rows, columns)] - (a * dx**2 + b * dx + c * dy**2 + d * dy)
    best = divmod(int(np.argmax(values)), len(columns))
    return int(rows[best[0]]), int(columns[best[1]])


def _box(piece: Piece, row: int, column: int, pixels: float) -> tuple[float, float, float, float]:
    height, width = piece.filter.shape[:2]
    x, y = column * pixels, row * pixels
    return x, y, x + width * pixels, y + height * pixels


def bounded(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """The image, uint8[H, W, 3], scaled to a long side of at most `LONG_SIDE` px, and the factor, at most 1."""
    factor = min(1.0, LONG_SIDE / max(pixels.shape[:2]))
    if factor == 1:
        return pixels, 1.0
    smaller = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.asarray(smaller, np.uint8), factor


def appearance(image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float32]:
    """What a root looks like: HOG of the part of its box inside the image, scaled to a square: float32[D]."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (round(float(value)) for value in np.clip(box, 0, [width, height, width, height]))
    inside = image[min(y0, height - 1) : max(y1, y0 + 1), min(x0, width - 1) : max(x1, x0 + 1)]
    square = cv2.resize(inside, (ROOT_SIDE, ROOT_SIDE), interpolation=cv2.INTER_AREA)
    return features(np.asarray(square, np.float32), ROOT_CELL)[..., :OUTSIDE].ravel()
