"""How alike the photos of an index are, from the vectors that it keeps.

This module imports faiss, so a process that holds torch must not import it.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from pipeline_lib.retrieval.ranking import Rows
from pipeline_lib.retrieval.vectors import Vectors


class Likeness:
    """Inner products of photos, by their rows.

    Vectors are compared as the index keeps them: reduced to principal components, or as codes, where it does so.
    """

    def __init__(self, index: faiss.Index, alignment: str) -> None:
        """Finds the vectors in an index.

        Args:
            index: by inner product, of any of `index_kinds`.
            alignment: that its vectors went through.
        """
        # What is taken out of an index goes with it.
        self._index = self._core = index
        last = np.zeros(index.d, np.float32)
        # How much of a hub a photo is, the last number, says nothing of what it shows.
        last[-1] = alignment == "pretext_csls"
        if isinstance(index, faiss.IndexPreTransform):
            self._core = faiss.downcast_index(index.index)
            transform: Any = faiss.downcast_VectorTransform(index.chain.at(0))  # type: ignore[attr-defined]
            last = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in) @ last
        self._last = last

    def __call__(self, rows: Rows) -> Vectors:
        """float32[K, K] of K rows, int64[K]."""
        if isinstance(self._core, faiss.IndexIVF):
            # Inverted lists do not tell in which of them a row is. The map is made once, for whoever asks at all.
            self._core.make_direct_map()
        vectors = self._core.reconstruct_batch(rows)
        across = vectors @ self._last
        similarities: Vectors = vectors @ vectors.T - np.outer(across, across)
        return similarities
