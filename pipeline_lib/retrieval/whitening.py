"""Whitening of what a photo and its own edge map differ in.

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

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

PAIRS = 8192
"""At most so many pairs are looked at, spread evenly, so that memory stays bounded. More find more: see
docs/retrieval.md."""
RANK = 512
"""At most so many directions are kept, those of the largest differences."""
SHRINKAGE = 1.0
"""s above; between 0.1 and 3 the hits hardly change (docs/retrieval.md)."""


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
