"""The searchable gallery: a FAISS index of any kind over aligned photo vectors, and which photo each row is.

This module imports faiss, so a process that holds torch must not import it.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
import pyarrow as pa

from pipeline_lib.data.schemas import write_table
from pipeline_lib.embedding.alignment import Alignment
from pipeline_lib.embedding.vectors import EmbeddingTable, Strings, Vectors
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file, replacing_folder
from pipeline_lib.index.diversity import DEPTH, diversify
from pipeline_lib.index.facts import AGAIN, DIGEST, INDEX_NAME, ROWS_NAME, IndexFacts, written_rows
from pipeline_lib.index.kinds import build_index, settings_of
from pipeline_lib.index.ranking import Ranked, Rows, TieBreak, block_rows, rank
from pipeline_lib.registry import ALIGNMENTS, STEPS, load


class PhotoIndex:
    """Photos by cosine similarity of their aligned vectors.

    Attributes:
        image_ids: str[N], row -> image_id.
        facts: what it tells of itself.
        folder: where it was read from; None for one built in memory.
    """

    def __init__(
        self, index: faiss.Index, image_ids: Strings, alignment: str, folder: Path | None = None, made_by: str = ""
    ) -> None:
        """Names the rows of a FAISS index by inner product.

        Its vectors went through `alignment` (of `retrieval.alignment`); queries must go through the same. `made_by` is
        as in `IndexFacts`.
        """
        if index.ntotal != len(image_ids):
            raise ValueError(f"{index.ntotal} vectors, but {len(image_ids)} image_ids")
        self._index = index
        self._ties = TieBreak.of(image_ids)
        self.image_ids = image_ids
        self.facts = IndexFacts(len(image_ids), int(index.d), alignment, settings_of(index), made_by=made_by)
        self.folder = folder

    @classmethod
    def build(
        cls,
        photos: EmbeddingTable | Sequence[EmbeddingTable],
        alignment: Alignment,
        name: str,
        kind: str = "exact",
        reduced: int = 0,
        made_by: str = "",
    ) -> Self:
        """Aligns a gallery, of one table or several, and adds it batch by batch.

        `name` is the alignment's; `kind` and `reduced` are as `index.kind` and `index.dimension`; `made_by` is as in
        `IndexFacts`.

        Raises:
            PipelineError: a vector can't be used, or the kind doesn't fit; names the file and image, or `index.kind`.
        """
        tables = [photos] if isinstance(photos, EmbeddingTable) else photos

        def batches() -> Iterator[Vectors]:
            return (alignment.apply(batch, "photo") for table in tables for batch in table.batches())

        image_ids = np.concatenate([table.labels.image_ids for table in tables])
        index = build_index(batches, len(image_ids), alignment.aligned_dimension, kind, reduced)
        return cls(index, image_ids, name, made_by=made_by)

    def __len__(self) -> int:
        return len(self.image_ids)

    def search(self, queries: Vectors, k: int, diversity: float = 0.0) -> list[Ranked]:
        """The k best photos for each query, ties by image_id.

        Args:
            queries: float32[B, D], aligned.
            k: how many; a gallery of fewer gives all, and an index that is not exact may find fewer. Which of several
                equal photos at place k is left out is FAISS's choice unless k takes the whole gallery.
            diversity: the weight of `diversify`.

        Returns:
            One `Ranked` of one row per query: inner products of the aligned vectors, with product quantisation
            estimates of them. Scores are never rounded: an encoder may hold a whole gallery within a few 1e-4, and
            ties made by rounding would be broken by name.

        Raises:
            ValueError: the dimension does not fit, or k is below 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.facts.dimension:
            raise ValueError(f"queries {queries.shape} do not fit an index of {self.facts.dimension} numbers")
        if k < 1:
            raise ValueError("k must be at least 1")
        if not len(self) or not len(queries):
            return [Ranked(np.empty((1, 0), np.int64), np.empty((1, 0), np.float32)) for _ in queries]
        # Re-rank a longer list, so that dropped near-duplicates are replaced, however few photos are asked for.
        wide = min(max(k, DEPTH) if diversity else k, len(self))
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), wide)
        # FAISS fills up with row -1 where it has found fewer.
        kept = ((one[found >= 0], found[found >= 0]) for one, found in zip(scores, rows, strict=True))
        lists = (diversify(rank(one[None], self._ties, found[None]), self.alike, diversity) for one, found in kept)
        return [Ranked(found.rows[:, :k], found.scores[:, :k]) for found in lists]

    def rank_all(self, batches: Iterable[Vectors], diversity: float = 0.0) -> Iterator[Ranked]:
        """Full rankings of the gallery, in blocks of bounded size.

        Photos that an index does not find, since it is not exact, come last in the order of their image_ids: whoever
        searches with it does not see them.

        Args:
            batches: aligned queries, float32[B, D] each.
            diversity: as in `search`.
        """
        step = block_rows(len(self))
        for batch in batches:
            for start in range(0, len(batch), step):
                found = [
                    self._whole(one) for one in self.search(batch[start : start + step], max(1, len(self)), diversity)
                ]
                yield Ranked(*(np.concatenate(side) for side in zip(*((f.rows, f.scores) for f in found), strict=True)))

    def _whole(self, found: Ranked) -> Ranked:
        """A ranking of one query, with the photos that were not found at its end."""
        missing = len(self) - found.rows.shape[1]
        if not missing:
            return found
        rest = self._ties.by_id[np.isin(self._ties.by_id, found.rows[0], invert=True)]
        scores = np.full((1, missing), -np.inf, np.float32)
        return Ranked(np.hstack([found.rows, rest[None]]), np.hstack([found.scores, scores]))

    def alike(self, rows: Rows) -> Vectors:
        """How alike photos are, float32[K, K], of K rows, int64[K].

        Vectors are compared as the index keeps them: reduced to principal components, or as codes, where it does so.
        """
        vectors = self._core.reconstruct_batch(rows)
        across = vectors @ self._added.T
        similarities: Vectors = vectors @ vectors.T - across @ across.T
        return similarities

    @cached_property
    def _core(self) -> Any:
        """What keeps the vectors, behind what transforms them; `_index` keeps it alive: FAISS frees its children."""
        lists = faiss.try_extract_index_ivf(self._index)
        if lists is not None:
            # Inverted lists do not tell in which of them a row is. The map is made once, for diversified lists alone.
            lists.make_direct_map()
        index: Any = self._index
        return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index

    @cached_property
    def _added(self) -> Vectors:
        """float32[A, D], where numbers went that alignment appended: they say nothing of what a photo shows."""
        width = self.facts.dimension
        count = sum(load(STEPS[step]).added for step in ALIGNMENTS.get(self.facts.alignment, ()))
        # The first row stays at zero, to tell what transforms add by themselves.
        found = np.vstack([np.zeros(width), np.eye(count, width, width - count)]).astype(np.float32)
        if isinstance(self._index, faiss.IndexPreTransform):
            chain: Any = self._index.chain
            for step in range(chain.size()):
                found = chain.at(step).apply(found)
        directions: Vectors = found[1:] - found[0]
        return directions

    def save(self, folder: Path) -> None:
        """Writes `photos.faiss` and `photos.parquet` (row -> image_id) to `folder`, both or neither.

        Raises:
            PipelineError: the index can't be written.
        """
        with replacing_folder(folder) as aside:
            aside.mkdir(parents=True)
            try:
                faiss.write_index(self._index, str(aside / INDEX_NAME))
            except RuntimeError as failure:
                raise PipelineError(
                    f"{folder / INDEX_NAME}: can't be written ({failure}); is the disk full?"
                ) from failure
            rows = pa.table({"image_id": pa.array(self.image_ids.tolist(), pa.string())})
            told = {"alignment": self.facts.alignment, "made_by": self.facts.made_by}
            told[DIGEST] = digest_of_file(aside / INDEX_NAME)
            write_table(aside / ROWS_NAME, rows.replace_schema_metadata(told))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            PipelineError: a file is missing or cut, or the two do not belong together.
        """
        path = folder / INDEX_NAME
        names, told = written_rows(folder)
        image_ids = np.array(names, dtype=np.str_)
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as failure:
            raise PipelineError(f"{path}: can't be read ({failure}); {AGAIN}") from failure
        if index.ntotal != len(image_ids) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise PipelineError(
                f"{path}: does not fit the file beside it (an inner-product index is needed, and it holds "
                f"{index.ntotal} vectors, but {ROWS_NAME} {len(image_ids)} rows); {AGAIN}"
            )
        return cls(index, image_ids, told.get("alignment", ""), folder, told.get("made_by", ""))

    def check(self, *, dimension: int, alignment: str, image_ids: Strings, made_by: str = "") -> None:
        """Makes sure that the index fits what is searched with it.

        Args:
            dimension: of the query vectors.
            alignment: that the queries go through.
            image_ids: str[N], the gallery in order.
            made_by: of the queries' embeddings, as in `IndexFacts`; compared where both tell.

        Raises:
            PipelineError: it does not fit.
        """
        if self.facts.dimension != dimension:
            what = f"vectors have {self.facts.dimension} numbers, the queries {dimension}"
        elif self.facts.alignment != alignment:
            what = f"was built with alignment {self.facts.alignment}, but retrieval.alignment is {alignment}"
        elif not np.array_equal(self.image_ids, image_ids):
            what = "holds other photos than the gallery's embeddings"
        elif made_by and self.facts.made_by not in {"", made_by}:
            what = "was built from other embeddings than those of the queries"
        else:
            return
        raise PipelineError(f"{self.folder or 'the index'}: {what}; run the index stage (`dvc repro index`) again")
