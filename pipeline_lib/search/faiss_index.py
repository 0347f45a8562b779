"""Any kind of FAISS index with the names of its rows, as search reads it from disk.

This module imports faiss, so a process that holds torch must not import it: it runs in the worker process alone.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa

from pipeline_lib.data.files import publish_folder
from pipeline_lib.data.schemas import read_table, write_table
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.index_kinds import settings_of
from pipeline_lib.retrieval.ranking import Ranked, TieBreak, rank
from pipeline_lib.retrieval.vectors import Strings, Vectors
from pipeline_lib.search.messages import INDEX_NAME, ROWS_NAME, IndexFacts


class NamedIndex:
    """A FAISS index by inner product, and the image_id of each row."""

    def __init__(self, index: faiss.Index, image_ids: Strings, alignment: str) -> None:
        if index.ntotal != len(image_ids):
            raise ValueError(f"{index.ntotal} vectors, but {len(image_ids)} image_ids")
        self._index = index
        self._ties = TieBreak.of(image_ids)
        self.image_ids = image_ids
        self.facts = IndexFacts(len(image_ids), int(index.d), alignment, settings_of(index))

    def search(self, queries: Vectors, k: int) -> list[Ranked]:
        """The k best photos for each query, ties by image_id.

        Args:
            queries: float32[B, D], aligned.
            k: how many; an index that is not exact may find fewer.

        Returns:
            One `Ranked` of one row per query, scores in -1..1.
        """
        if not self.facts.count or not len(queries):
            return [Ranked(np.empty((1, 0), np.int64), np.empty((1, 0), np.float32)) for _ in queries]
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), min(k, self.facts.count))
        # FAISS fills up with row -1 where it has found fewer.
        kept = [(one[found >= 0], found[found >= 0]) for one, found in zip(scores, rows, strict=True)]
        return [rank(one[None], self._ties, found[None]) for one, found in kept]

    def save(self, folder: Path) -> None:
        """Writes index and names to `folder`, both or neither."""
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            try:
                faiss.write_index(self._index, str(aside / INDEX_NAME))
            except RuntimeError as failure:
                raise PipelineError(f"{folder}: can't be written ({failure}); is the disk full?") from failure
            rows = pa.table({"image_id": pa.array(self.image_ids.tolist(), pa.string())})
            write_table(aside / ROWS_NAME, rows.replace_schema_metadata({"alignment": self.facts.alignment}))
            publish_folder(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> NamedIndex:
        """Reads what `save`, or the index stage, wrote.

        Raises:
            PipelineError: a file is missing or cut, or the two do not belong together.
        """
        path = folder / INDEX_NAME
        table = read_table(folder / ROWS_NAME, pa.schema([("image_id", pa.string())]))
        alignment = (table.schema.metadata or {}).get(b"alignment", b"").decode()
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as failure:
            raise PipelineError(f"{path}: can't be read ({failure}); delete it and build the index again") from failure
        if index.ntotal != table.num_rows or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise PipelineError(f"{path}: does not fit {ROWS_NAME} beside it; delete both and build the index again")
        return cls(index, np.array(table.column("image_id").to_pylist(), dtype=np.str_), alignment)
