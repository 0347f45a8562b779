"""Reads the part models that Li et al. 2014 trained with voc-release5: mixtures of a root and eight parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from pipeline_lib.baselines.dpm.features import DIMENSIONS, Features, mirror
from pipeline_lib.errors import PipelineError


@dataclass(frozen=True)
class Piece:
    """The root of a component, or one of its parts."""

    filter: Features  # float32[h, w, 32]
    # (x, y) in cells of the level that it is found at, relative to the root's cell (twice as fine for parts).
    anchor: tuple[int, int]
    # (a, b, c, d): a dx^2 + b dx + c dy^2 + d dy is what a displacement of (dx, dy) cells costs.
    cost: tuple[float, float, float, float]
    bias: float  # added to its score


@dataclass(frozen=True)
class Component:
    """One view of the object."""

    root: Piece  # found at the coarse level; its anchor is (0, 0)
    parts: tuple[Piece, ...]  # found one octave finer
    bias: float  # added to the score
    # (w0, w1, w2), added where the root is found in the finest octave, the next, or any coarser.
    by_octave: tuple[float, float, float]


@dataclass(frozen=True)
class Model:
    """A mixture of components; they come in pairs, the second of each the mirror of the first."""

    components: tuple[Component, ...]  # of the mixture
    cell: int  # px
    interval: int  # levels of the pyramid per octave
    padding: tuple[int, int]  # (rows, columns) of cells that a root may lie outside the image


def read_model(path: Path) -> Model:
    """Reads a `*_final.mat`.

    Raises:
        PipelineError: it is missing, damaged, or no star-shaped mixture of voc-release5.
    """
    try:
        loaded = scipy.io.loadmat(str(path), struct_as_record=False, squeeze_me=True)["model"]
        components = tuple(_component(loaded, rule) for rule in np.atleast_1d(loaded.rules[loaded.start - 1]))
        # `squeeze_me` makes scalars of 1 x 1 arrays, hence the conversions.
        rows, columns = (int(side) for side in loaded.maxsize)
        return Model(components, int(loaded.sbin), int(loaded.interval), (rows, columns))
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        TypeError,
        scipy.io.matlab.MatReadError,
    ) as failure:
        raise PipelineError(f"{path}: is no part model of voc-release5 ({failure!r}); fetch Li 2014 again") from failure


def _component(model: Any, rule: Any) -> Component:
    extra = float(model.features.bias)
    pieces: list[Piece] = []
    for symbol, anchor in zip(rule.rhs, rule.anchor, strict=True):
        deformed = np.atleast_1d(model.rules[int(symbol) - 1])[0]
        anchor_x, anchor_y, finer = (int(value) for value in anchor)
        if finer != (1 if pieces else 0):
            raise ValueError(f"piece {len(pieces)} is {finer} octaves finer than its root")
        # `def` is a keyword of Python.
        bend = getattr(deformed, "def")
        cost = np.array(_block(model, bend.blocklabel), float)
        if int(bend.flip):
            cost[1] = -cost[1]
        bias = float(np.squeeze(_block(model, deformed.offset.blocklabel))) * extra
        pieces.append(
            Piece(
                _filter(model, int(model.symbols[int(deformed.rhs) - 1].filter)),
                (anchor_x, anchor_y),
                (float(cost[0]), float(cost[1]), float(cost[2]), float(cost[3])),
                bias,
            )
        )
    octaves = np.array(_block(model, rule.loc.blocklabel), float)
    offset = float(np.squeeze(_block(model, rule.offset.blocklabel))) * extra
    by_octave = float(octaves[0]), float(octaves[1]), float(octaves[2])
    return Component(pieces[0], tuple(pieces[1:]), offset, by_octave)


def _block(model: Any, label: int) -> NDArray[np.float64]:
    return np.asarray(model.blocks[int(label) - 1].w, np.float64)


def _filter(model: Any, number: int) -> Features:
    entry = model.filters[number - 1]
    block = model.blocks[int(entry.blocklabel) - 1]
    shape = tuple(int(side) for side in block.shape)
    if shape[2] != DIMENSIONS:
        raise ValueError(f"filter {number} has {shape[2]} numbers a cell")
    values = np.asarray(block.w, np.float32).reshape(shape, order="F")
    return mirror(values) if int(entry.flip) else np.ascontiguousarray(values)
