"""The searchable gallery: an exact FAISS index over aligned photo vectors, and which photo each row is.

This module imports faiss, so a process that holds torch must not import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import faiss
import numpy as np

from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.alignment import KINDS, Alignment, Kind
from pipeline_lib.retrieval.diversity import diversify
from pipeline_lib.retrieval.index_files import IndexFiles, read_index, write_index
from pipeline_lib.retrieval.index_names import INDEX_NAME, ROWS_NAME
from pipeline_lib.retrieval.likeness import Likeness
from pipeline_lib.retrieval.ranking import Ranked, TieBreak, block_rows, rank
from pipeline_lib.retrieval.vectors import EmbeddingTable, Strings, Vectors


class PhotoIndex:
    """Photos by cosine similarity, found exactly (faiss IndexFlatIP).

    Attributes:
        image_ids: str[N], row -> image_id.
        alignment: the kind of alignment that the vectors went through; queries must go through the same.
        folder: where it was read from; None for one built in memory.
    """

    def __init__(self, index: faiss.IndexFlat, image_ids: Strings, alignment: Kind, folder: Path | None = None) -> None:
        if index.ntotal != len(image_ids):
            raise ValueError(f"{index.ntotal} vectors, but {len(image_ids)} image_ids")
        self._index = index
        self._ties = TieBreak.of(image_ids)
        self.image_ids = image_ids
        self.alignment = alignment
        self.folder = folder

    @classmethod
    def build(cls, photos: EmbeddingTable, alignment: Alignment, kind: Kind) -> PhotoIndex:
        """Aligns and adds a gallery batch by batch.

        Raises:
            PipelineError: a vector can't be used; names the file and the image.
        """
        index = faiss.IndexFlatIP(alignment.aligned_dimension)
        for batch in photos.batches():
            index.add(alignment.apply(batch, "photo"))
        return cls(index, photos.labels.image_ids, kind)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        return int(self._index.d)

    def search(self, queries: Vectors, k: int) -> Ranked:
        """The k best photos for each query, ties by image_id.

        Args:
            queries: float32[B, D], aligned.
            k: how many; a gallery of fewer gives all. Which of several equal photos at place k is left out is
                FAISS's choice unless k takes the whole gallery.

        Returns:
            Rows and inner products of the aligned vectors. Scores are never rounded: an encoder may hold a whole
            gallery within a few 1e-4, and ties made by rounding would be broken by name.

        Raises:
            ValueError: the dimension does not fit, or k is below 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(f"queries {queries.shape} do not fit an index of {self.dimension} numbers")
        if k < 1:
            raise ValueError("k must be at least 1")
        if not len(self):
            return Ranked(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), min(k, len(self)))
        return rank(scores, self._ties, rows)

    @cached_property
    def _alike(self) -> Likeness:
        return Likeness(self._index, self.alignment)

    def rank_all(self, batches: Iterable[Vectors], diversity: float = 0.0) -> Iterator[Ranked]:
        """Full rankings of the gallery, in blocks of bounded size.

        Args:
            batches: aligned queries, float32[B, D] each.
            diversity: the weight of `diversify`.
        """
        step = block_rows(len(self))
        for batch in batches:
            for start in range(0, len(batch), step):
                found = self.search(batch[start : start + step], max(1, len(self)))
                yield diversify(found, self._alike, diversity)

    def save(self, folder: Path) -> None:
        """Writes `photos.faiss` and `photos.parquet` (row -> image_id) to `folder`, both or neither."""
        write_index(folder, IndexFiles(self._index, self.image_ids, self.alignment))

    @classmethod
    def load(cls, folder: Path) -> PhotoIndex:
        """Reads what `save` wrote.

        Raises:
            PipelineError: a file is missing or cut, or the two do not belong together.
        """
        path = folder / INDEX_NAME
        index, image_ids, kind = read_index(folder, _AGAIN)
        if kind not in KINDS:
            raise PipelineError(f"{folder / ROWS_NAME}: does not tell its alignment; {_AGAIN}")
        if not isinstance(index, faiss.IndexFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise PipelineError(f"{path}: is not an exact inner-product index; {_AGAIN}")
        if index.ntotal != len(image_ids):
            raise PipelineError(
                f"{path}: holds {index.ntotal} vectors, but {ROWS_NAME} {len(image_ids)} rows; {_AGAIN}"
            )
        return cls(index, image_ids, kind, folder)

    def check(self, *, dimension: int, alignment: Kind, image_ids: Strings) -> None:
        """Makes sure that the index fits what is searched with it.

        Args:
            dimension: of the query vectors.
            alignment: that the queries go through.
            image_ids: str[N], the gallery in order.

        Raises:
            PipelineError: it does not fit.
        """
        if self.dimension != dimension:
            what = f"vectors have {self.dimension} numbers, the queries {dimension}"
        elif self.alignment != alignment:
            what = f"was built with alignment {self.alignment}, but retrieval.alignment is {alignment}"
        elif not np.array_equal(self.image_ids, image_ids):
            what = "holds other photos than the gallery's embeddings"
        else:
            return
        raise PipelineError(f"{self.folder or 'the index'}: {what}; {_AGAIN}")


_AGAIN = "run the index stage (`dvc repro index`) again"
