"""What every subspace method gives: a centring and a linear map per domain; and the PCA in front of it."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from pipeline_lib.embedding.alignment import Domain, normalise
from pipeline_lib.embedding.vectors import Vectors

Matrix = NDArray[np.float64]
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """The map of one domain: x -> (x - mean) weights."""

    mean: Matrix  # float64[D]
    weights: Matrix  # float64[D, K]

    def apply(self, vectors: NDArray[np.floating]) -> Vectors:
        """Projects float[N, D] to float32[N, K]."""
        return np.asarray((vectors - self.mean) @ self.weights, np.float32)


@dataclass(frozen=True)
class Projections:
    """The maps of both domains into one space of K dimensions."""

    photo: Side
    sketch: Side

    def __post_init__(self) -> None:
        if self.photo.weights.shape[1] != self.sketch.weights.shape[1]:
            raise ValueError("both projections must lead into one space")

    def apply(self, vectors: NDArray[np.floating], domain: Domain) -> Vectors:
        """Projects float[N, D] of one domain to float32[N, K]."""
        return (self.photo if domain == "photo" else self.sketch).apply(vectors)

    def first(self, components: int) -> "Projections":
        """The same with the first `components` dimensions only; those of eigenproblems come in order of worth."""
        sides = (Side(side.mean, side.weights[:, :components]) for side in (self.photo, self.sketch))
        return Projections(*sides)


def centred(values: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
    """Values float64[N, D] less their mean, and the mean float64[D]."""
    values = np.asarray(values, np.float64)
    mean = values.mean(axis=0)
    return values - mean, mean


@dataclass(frozen=True)
class Reduction:
    """L2-normalisation, then PCA, each domain its own: what the sources do before any of these methods.

    Without it the methods would fit more unknowns than there are pairs.
    """

    photo: Side
    sketch: Side

    @classmethod
    def fit(cls, photos: Vectors, sketches: Vectors, components: int, seed: int = 0) -> Self:
        """Fits both PCAs; needs neither pairs nor labels.

        Args:
            photos: float32[N, D], raw.
            sketches: float32[M, D], raw; edge maps of unlabelled photos may be among them.
            components: kept at most; fewer where there are fewer images or dimensions.
            seed: of the randomised solver (Halko, Martinsson and Tropp 2011).
        """
        return cls(_principal(photos, components, seed), _principal(sketches, components, seed))

    def apply(self, vectors: Vectors, domain: Domain) -> Vectors:
        """float32[N, D] -> float32[N, components]."""
        return (self.photo if domain == "photo" else self.sketch).apply(normalise(vectors))


def _principal(vectors: Vectors, components: int, seed: int) -> Side:
    unit = normalise(vectors)
    solver = PCA(min(components, *unit.shape), svd_solver="randomized", random_state=seed).fit(unit)
    return Side(np.asarray(solver.mean_, np.float64), np.asarray(solver.components_.T, np.float64))


def paired(photos: Matrix, sketches: Matrix) -> None:
    """Checks that rows are pairs.

    Raises:
        ValueError: there are more rows on one side, or fewer than two.
    """
    if len(photos) != len(sketches) or len(photos) < 2:
        raise ValueError(f"pairs need equally many rows, at least 2: {len(photos)} photos, {len(sketches)} sketches")


def one_hot(labels: Classes, classes: Classes) -> Matrix:
    """float64[N, C], 1 where row n is of class c.

    Args:
        labels: int64[N].
        classes: int64[C], sorted, unique; holds every label.
    """
    return np.asarray(labels[:, None] == classes[None, :], np.float64)
