"""Whitening of what a photo and its own edge map differ in: a step of alignment.

A photo and its edges show the same, so directions in which the two vectors of such pairs differ much tell domains and
textures apart rather than contents; they should count less in a distance. Relevant component analysis (Bar-Hillel,
Hertz, Shental and Weinshall 2005; the same as within-class covariance normalisation, Hatch, Kajarekar and Stolcke 2006)
whitens the covariance C of these differences. Its groups of equal content come from labels there; here each pretext
photo and its own edges make one, so no label is needed.

C is shrunk towards a multiple of the identity (compare Ledoit and Wolf 2004), C + s t I with t the mean of its
eigenvalues. Up to a common factor, (C + s t I)^(-1/2) = I + U diag(g) U^T, where U holds C's eigenvectors with
eigenvalues l, and g = (l / (s t) + 1)^(-1/2) - 1: few directions suffice, and a vector of 9,216 numbers needs no square
matrix of that side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.embedding.alignment import Alignment, Domain, Step
from pipeline_lib.embedding.vectors import EmbeddingTable, Vectors

PAIRS = 8192
"""Pairs at most, evenly spread, so that memory stays bounded. More pairs find more (docs/retrieval.md)."""
RANK = 512
"""Directions at most: those of the largest differences."""
SHRINKAGE = 1.0
"""s above; between 0.1 and 3 the hits hardly change (docs/retrieval.md)."""
NAMES = ("directions", "gains")


@dataclass(frozen=True)
class Whitening(Step):
    """The whitening of each part of a vector by itself."""

    directions: tuple[Vectors, ...]  # per part float32[R, W]
    gains: tuple[Vectors, ...]  # per part float32[R]

    @classmethod
    def fit(cls, photos: EmbeddingTable, edges: EmbeddingTable, before: Alignment) -> Self:
        """Of the differences of pairs, evenly spread over the tables; none where a projection has taken them out."""
        if before.projected:
            return cls((np.empty((0, before.dimension), np.float32),), (np.empty(0, np.float32),))
        return cls.of_differences(before.pairs(photos, edges, PAIRS), before)

    @classmethod
    def of_differences(cls, differences: Vectors, before: Alignment, shrinkage: float = SHRINKAGE) -> Self:
        """As `whiten`, part by part."""
        found = [whiten(part, shrinkage) for part in before.split(differences)]
        return cls(*(tuple(column) for column in zip(*found, strict=True)))

    def apply(self, vectors: Vectors, domain: Domain, before: Alignment) -> Vectors:  # noqa: ARG002  one for both
        """Adds (x U^T diag(g)) U to each part x."""
        parts = zip(before.split(vectors), self.directions, self.gains, strict=True)
        whitened = [
            np.asarray(part + (part @ directions.T * gains) @ directions, np.float32)
            for part, directions, gains in parts
        ]
        return np.hstack(whitened)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`directions` and `gains` of each part."""
        numbered = enumerate(zip(self.directions, self.gains, strict=True))
        return {f"{name}{number}": array for number, part in numbered for name, array in zip(NAMES, part, strict=True)}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """From what `arrays` gave."""
        parts = range(len(arrays) // 2)
        return cls(*(tuple(np.asarray(arrays[f"{name}{n}"], np.float32) for n in parts) for name in NAMES))


def whiten(differences: Vectors, shrinkage: float = SHRINKAGE) -> tuple[Vectors, Vectors]:
    """Directions and gains of the whitening.

    Args:
        differences: float32[N, D], photo minus edges, each domain's mean removed.
        shrinkage: s, above 0.

    Returns:
        directions float32[R, D] of orthonormal rows and gains float32[R] in (-1, 0]; to apply them, add
        `(x @ directions.T * gains) @ directions` to x. R is 0 where no pair differs.
    """
    values = np.asarray(differences, np.float64)
    count, dimension = values.shape
    # The smaller of the two Gram matrices has the same eigenvalues.
    if count < dimension:
        squares, left = np.linalg.eigh(values @ values.T / count)
        kept = _largest(squares)
        directions = (left[:, kept].T @ values) / np.sqrt(count * squares[kept])[:, None]
    else:
        squares, right = np.linalg.eigh(values.T @ values / count)
        kept = _largest(squares)
        directions = right[:, kept].T
    level = shrinkage * max(squares.sum(), 0.0) / dimension
    gains = (squares[kept] / level + 1) ** -0.5 - 1 if len(kept) else np.empty(0)
    return directions.astype(np.float32), gains.astype(np.float32)


def _largest(squares: NDArray[np.float64]) -> NDArray[np.intp]:
    """Places of the RANK largest eigenvalues, largest first, without those that are rounding."""
    order = np.argsort(-squares)[:RANK]
    return np.asarray(order[squares[order] > max(1e-9 * squares[order[0]], 1e-14)])
