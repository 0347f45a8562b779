"""Lists of results that repeat themselves less.

Maximal marginal relevance (Carbonell and Goldstein 1998): the list is built from the best on, and a photo that is like
one that stands in it already has to be the nearer to the drawing. Where a network is not sure what was drawn, five
photos then show several guesses in place of one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

DEPTH = 60
"""So many of a drawing's nearest photos change places among themselves; the rest follow as they were."""


def diversify(scores: Vectors, photos: Vectors, weight: float, depth: int = DEPTH) -> Vectors:
    """Scores whose order is that of the diversified lists.

    Args:
        scores: float32[M, N] of M drawings and N photos, higher is nearer.
        photos: float32[N, D], rows of length 1, in which photos are compared.
        weight: what a photo's similarity to the most similar photo before it takes from its score, at least 0.
        depth: how many of the nearest change places.

    Returns:
        A new float32[M, N]; each row holds the same values as in `scores`, at other photos.
    """
    kept = min(depth, scores.shape[1])
    result = scores.copy()
    for row, values in zip(result, scores, strict=True):
        # Stable, so that equal scores keep their order and a weight of 0 changes nothing.
        nearest = np.argsort(-values, kind="stable")[:kept]
        alike = photos[nearest] @ photos[nearest].T
        row[nearest[_order(values[nearest], alike, weight)]] = values[nearest]
    return result


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
