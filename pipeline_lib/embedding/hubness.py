"""Hubness correction (CSLS), for photos that are near to every drawing: a step of alignment.

Cross-domain similarity local scaling (Conneau, Lample, Ranzato, Denoyer and Jegou 2018, eq. 3) subtracts from each
similarity how similar the photo is to the drawings nearest to it. The edge maps of pretext photos stand in for
drawings, so no query is looked at. The other half of the equation, how similar the drawing is to its nearest photos, is
the same for all photos of a query and does not change their order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.embedding.alignment import Alignment, Domain, Step
from pipeline_lib.embedding.vectors import EmbeddingTable, Vectors

NEIGHBOURS = 10
"""As in the paper."""
EDGES = 4096
"""Edge maps at most, evenly spread."""
BLOCK = 1024


@dataclass(frozen=True)
class Hubness(Step):
    """One more number a vector, so that inner products order photos as CSLS does."""

    edges: NDArray[np.float16]  # float16[M, D], aligned edge maps of pretext photos
    on_whole: ClassVar[bool] = True
    added: ClassVar[int] = 1

    @classmethod
    def fit(cls, photos: EmbeddingTable, edges: EmbeddingTable, before: Alignment) -> Self:  # noqa: ARG003
        """Of edge maps, evenly spread over their table."""
        return cls(before.apply(edges.spread(EDGES), "sketch").astype(np.float16))

    def apply(self, vectors: Vectors, domain: Domain, before: Alignment) -> Vectors:  # noqa: ARG002
        """Appends minus half a photo's nearness to the edge maps; 1 to a sketch."""
        last = np.ones(len(vectors), np.float32) if domain == "sketch" else -0.5 * nearness(vectors, self.edges)
        return np.column_stack([vectors, last])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The edge maps."""
        return {"edges": self.edges}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """From what `arrays` gave."""
        return cls(np.asarray(arrays["edges"], np.float16))


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
