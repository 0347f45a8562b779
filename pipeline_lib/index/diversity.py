"""Diversified lists of results.

Maximal marginal relevance (MMR, Carbonell and Goldstein 1998): the list is filled from the best on, and a photo that is
like one already in it must be that much nearer to the drawing. Where a network is unsure what was drawn, five photos
then show several guesses instead of one.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.index.ranking import Ranked, Rows

DEPTH = 60
"""How many of a drawing's nearest photos are re-ranked; the rest keep their order."""

Alike = Callable[[Rows], Vectors]
"""How alike photos are: gallery rows, int64[K], to float32[K, K]."""


def diversify(found: Ranked, alike: Alike, weight: float, depth: int = DEPTH) -> Ranked:
    """The same photos in diversified order.

    Args:
        found: the nearest photos of each drawing, at least `depth` of them where the gallery has as many.
        alike: how alike its photos are.
        weight: of a photo's similarity to the most similar photo before it, which is taken off its score; at least 0.
        depth: how many of the nearest are re-ranked.

    Returns:
        Each list in its new order, every photo with its own score.
    """
    if not weight:
        return found
    kept = min(depth, found.rows.shape[1])
    rows, scores = found.rows.copy(), found.scores.copy()
    for row, values in zip(rows[:, :kept], scores[:, :kept], strict=True):
        order = _order(values, alike(row), weight)
        row[:], values[:] = row[order], values[order]
    return Ranked(rows, scores)


def _order(scores: Vectors, alike: Vectors, weight: float) -> NDArray[np.intp]:
    """The old places of K photos in the new order; scores float32[K], alike float32[K, K]."""
    order = np.empty(len(scores), np.intp)
    left = scores.astype(np.float64)
    repeats = np.zeros(len(scores))
    for place in range(len(scores)):
        best = int(np.argmax(left - weight * repeats))
        order[place] = best
        left[best] = -np.inf
        # At least 0: being unlike all photos before it is no merit.
        repeats = np.maximum(repeats, alike[best])
    return order
