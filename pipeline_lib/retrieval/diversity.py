"""Lists of results that repeat themselves less.

Maximal marginal relevance (Carbonell and Goldstein 1998): the list is built from the best on, and a photo that is like
one that stands in it already has to be the nearer to the drawing. Where a network is not sure what was drawn, five
photos then show several guesses in place of one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.retrieval.ranking import Ranked, Rows
from pipeline_lib.retrieval.vectors import Vectors

DEPTH = 60
"""So many of a drawing's nearest photos change places among themselves; the rest follow as they were."""

Alike = Callable[[Rows], Vectors]
"""How alike photos are: gallery rows, int64[K], to float32[K, K]."""


def diversify(found: Ranked, alike: Alike, weight: float, depth: int = DEPTH) -> Ranked:
    """The same photos in lists that repeat themselves less.

    Args:
        found: the nearest photos of each drawing, at least `depth` of them where the gallery has as many.
        alike: how alike its photos are.
        weight: what a photo's similarity to the most similar photo before it takes from its score, at least 0.
        depth: how many of the nearest change places.

    Returns:
        Each list in its new order, every photo with the score that it had.
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
    """The places of K photos in the order in which they join the list; scores float32[K], alike float32[K, K]."""
    order = np.empty(len(scores), np.intp)
    left = scores.astype(np.float64)
    repeats = np.zeros(len(scores))
    for place in range(len(scores)):
        best = int(np.argmax(left - weight * repeats))
        order[place] = best
        left[best] = -np.inf
        # A photo that is unlike all before it is not rewarded for that.
        repeats = np.maximum(repeats, alike[best])
    return order
