"""Hubs: photos that are near to every drawing, and how to count their nearness less.

Cross-domain similarity local scaling (Conneau, Lample, Ranzato, Denoyer and Jegou 2018, eq. 3) subtracts from each
similarity how similar the photo is to the drawings nearest to it. In place of drawings stand the edge maps of the
pretext photos, so no query is looked at. The other half of the equation, how similar the drawing is to its nearest
photos, is the same for all photos of a query and leaves their order alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

NEIGHBOURS = 10
"""As in the paper."""
EDGES = 4096
"""At most so many edge maps are looked at, spread evenly."""
BLOCK = 1024


def nearness(photos: Vectors, edges: NDArray[np.floating], neighbours: int = NEIGHBOURS) -> Vectors:
    """Mean similarity of each photo to the edge maps nearest to it, which CSLS takes from twice each similarity.

    Args:
        photos: float32[N, D], rows of length 1.
        edges: float[M, D], rows of length 1; M at least 1.
        neighbours: how many edge maps count, at most M.

    Returns:
        float32[N].
    """
    kept = min(neighbours, len(edges))
    columns = np.asarray(edges, np.float32).T
    parts = [
        np.partition(photos[start : start + BLOCK] @ columns, -kept, axis=1)[:, -kept:].mean(axis=1)
        for start in range(0, len(photos), BLOCK)
    ]
    return np.concatenate([np.empty(0), *parts]).astype(np.float32)
