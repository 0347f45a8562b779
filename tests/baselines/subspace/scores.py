"""Planted views, and what the tests ask of a projection: does a sketch find its photo, and its class?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.baselines.subspace.projection import Projections
from pipeline_lib.embedding.alignment import normalise

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Planted:
    """Two views of one hidden content that depends on a class, each in noise of its own."""

    photos: Matrix
    sketches: Matrix
    labels: NDArray[np.int64]

    def part(self, rows: slice) -> Planted:
        return Planted(self.photos[rows], self.sketches[rows], self.labels[rows])


def similarities(projections: Projections, photos: Matrix, sketches: Matrix) -> NDArray[np.float32]:
    """Cosines, [sketches, photos]."""
    return normalise(projections.apply(sketches, "sketch")) @ normalise(projections.apply(photos, "photo")).T


def instance_hits(projections: Projections, photos: Matrix, sketches: Matrix) -> float:
    """Share of sketches whose photo is among the nearest five."""
    scores = similarities(projections, photos, sketches)
    return float(((scores > np.diag(scores)[:, None]).sum(axis=1) < 5).mean())


def class_hits(projections: Projections, photos: Matrix, sketches: Matrix, labels: NDArray[np.int64]) -> float:
    """Share of sketches whose nearest photo is of their class."""
    nearest = similarities(projections, photos, sketches).argmax(axis=1)
    return float((labels[nearest] == labels).mean())
