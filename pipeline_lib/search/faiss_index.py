"""Any kind of FAISS index with the names of its rows, as search reads it from disk.

This module imports faiss, so a process that holds torch must not import it: it runs in the worker process alone.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import faiss
import numpy as np

from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.diversity import DEPTH, diversify
from pipeline_lib.retrieval.index_files import IndexFiles, read_index, write_index
from pipeline_lib.retrieval.index_kinds import settings_of
from pipeline_lib.retrieval.index_names import INDEX_NAME, ROWS_NAME
from pipeline_lib.retrieval.likeness import Likeness
from pipeline_lib.retrieval.ranking import Ranked, TieBreak, rank
from pipeline_lib.retrieval.vectors import Strings, Vectors
from pipeline_lib.search.messages import IndexFacts


class NamedIndex:
    """A FAISS index by inner product, and the image_id of each row."""

    def __init__(self, index: faiss.Index, image_ids: Strings, alignment: str) -> None:
        if index.ntotal != len(image_ids):
            raise ValueError(f"{index.ntotal} vectors, but {len(image_ids)} image_ids")
        self._index = index
        self._ties = TieBreak.of(image_ids)
        self.image_ids = image_ids
        self.facts = IndexFacts(len(image_ids), int(index.d), alignment, settings_of(index))

    @cached_property
    def _alike(self) -> Likeness:
        return Likeness(self._index, self.facts.alignment)

    def search(self, queries: Vectors, k: int, diversity: float = 0.0) -> list[Ranked]:
        """The k best photos for each query, ties by image_id.

        Args:
            queries: float32[B, D], aligned.
            k: how many; an index that is not exact may find fewer.
            diversity: the weight of `diversify`.

        Returns:
            One `Ranked` of one row per query, scores as `Hit` tells.
        """
        if not self.facts.count or not len(queries):
            return [Ranked(np.empty((1, 0), np.int64), np.empty((1, 0), np.float32)) for _ in queries]
        # Whom a list leaves out for repeating is replaced by one from further down, however few are asked for.
        wide = min(max(k, DEPTH) if diversity else k, self.facts.count)
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), wide)
        # FAISS fills up with row -1 where it has found fewer.
        kept = [(one[found >= 0], found[found >= 0]) for one, found in zip(scores, rows, strict=True)]
        lists = (rank(one[None], self._ties, found[None]) for one, found in kept)
        diverse = (diversify(found, self._alike, diversity) for found in lists)
        return [Ranked(found.rows[:, :k], found.scores[:, :k]) for found in diverse]

    def save(self, folder: Path) -> None:
        """Writes index and names to `folder`, both or neither."""
        write_index(folder, IndexFiles(self._index, self.image_ids, self.facts.alignment))

    @classmethod
    def load(cls, folder: Path) -> NamedIndex:
        """Reads what `save`, or the index stage, wrote.

        Raises:
            PipelineError: a file is missing or cut, or the two do not belong together.
        """
        index, image_ids, alignment = read_index(folder, "delete it and build the index again")
        if index.ntotal != len(image_ids) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            path = folder / INDEX_NAME
            raise PipelineError(f"{path}: does not fit {ROWS_NAME} beside it; delete both and build the index again")
        return cls(index, image_ids, alignment)
