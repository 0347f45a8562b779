"""The searchable gallery: a FAISS index of any kind over aligned photo vectors, and which photo each row is.

An index that was built is never changed. Photos that come later are compared one by one beside it, in a small index of
half-precision numbers, and those that are gone are passed over (`building`).

This module imports faiss, so a process that holds torch must not import it.
"""

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.data.schemas import opened_shard, write_table
from pipeline_lib.embedding.alignment import Alignment
from pipeline_lib.embedding.vectors import EmbeddingTable, Strings, Vectors
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file, replacing_folder
from pipeline_lib.index.diversity import DEPTH, diversify
from pipeline_lib.index.facts import (
    AGAIN,
    DIGESTS,
    FRESH_NAME,
    INDEX_NAME,
    LISTS_NAME,
    ROWS_NAME,
    IndexFacts,
    told,
    written_rows,
)
from pipeline_lib.index.kinds import CAN_MAP, build_index, inner_of, settings_of
from pipeline_lib.index.ranking import Ranked, Rows, TieBreak, block_rows, rank
from pipeline_lib.registry import ALIGNMENTS, STEPS, load

FAISS: Final[Any] = faiss
"""For what its type stubs lack."""
Chosen = NDArray[np.bool_]
OVER_QUERIES, OVER_LISTS = 0, 1
"""What FAISS's threads share out where there are inverted lists: over queries alone, a single one is left to one."""
MANY: Final = 4
"""Queries for each thread from which they are what is shared out."""
FEW: Final = 8
"""A list that is at most this part of the gallery is short."""


class PhotoIndex:
    """Photos by cosine similarity of their aligned vectors.

    Attributes:
        rows: row -> image_id and, after changes, `id`, rising: its place in `index` or, from the end of that on, in
            `fresh`; perhaps further columns.
        facts: what it tells of itself.
        folder: where it was read from; None for one built in memory.
        index: the FAISS index.
        fresh: photos that have come since, as `transformed` makes them; None before the first change.
    """

    def __init__(
        self,
        index: faiss.Index,
        rows: pa.Table | Strings,
        alignment: str,
        folder: Path | None = None,
        made_by: str = "",
        fresh: faiss.Index | None = None,
    ) -> None:
        """Names the rows of a FAISS index by inner product.

        Its vectors went through `alignment` (of `retrieval.alignment`); queries must go through the same. `made_by` is
        as in `IndexFacts`.
        """
        self.rows = rows if isinstance(rows, pa.Table) else pa.table({"image_id": pa.array(rows, pa.string())})
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("an inner-product index is needed")
        self.index = index
        self.fresh = fresh
        self.folder = folder
        held = index.ntotal + (fresh.ntotal if fresh is not None else 0)
        if held != len(self.rows) if fresh is None else held <= self._ids[-1:].max(initial=-1):
            raise ValueError(f"{held} vectors, but {len(self.rows)} image_ids")
        settings = settings_of(index) + (f"; {fresh.ntotal} photos since" if fresh is not None else "")
        self.facts = IndexFacts(len(self.rows), int(index.d), alignment, settings, made_by=made_by)

    @cached_property
    def image_ids(self) -> pa.LargeStringArray:
        """The image_id of each row, in Arrow's memory: NumPy's would give each as much as the longest takes."""
        return self.rows["image_id"].cast(pa.large_string()).combine_chunks()

    @cached_property
    def _ids(self) -> Rows:
        """int64[N], rising: `id` of the rows of a changed index."""
        ids: Rows = self.rows["id"].to_numpy()
        return ids

    def places(self, rows: Rows) -> Rows:
        """Of some rows, int64[K], the places of their vectors: in `index` or, from the end of that on, in `fresh`."""
        return rows if self.fresh is None else self._ids[rows]

    @cached_property
    def _ties(self) -> TieBreak:
        """Of the whole gallery."""
        return TieBreak.of(self.image_ids)

    @classmethod
    def build(
        cls,
        photos: EmbeddingTable | Sequence[Path],
        alignment: Alignment,
        name: str,
        kind: str = "exact",
        reduced: int = 0,
        made_by: str = "",
        lists: Path | None = None,
    ) -> Self:
        """Aligns a gallery, of one table or the files of several, and adds it batch by batch.

        `name` is the alignment's; `kind` and `reduced` are as `index.kind` and `index.dimension`, `made_by` as in
        `IndexFacts`, `lists` as `build_index` takes it.

        Raises:
            PipelineError: a vector can't be used, or the kind doesn't fit; names the file and image, or `index.kind`.
        """

        def tables() -> Iterable[EmbeddingTable]:
            return [photos] if isinstance(photos, EmbeddingTable) else map(EmbeddingTable.open, photos)

        def batches() -> Iterator[Vectors]:
            return (alignment.apply(batch, "photo") for table in tables() for batch in table.batches())

        names = [photos.path] if isinstance(photos, EmbeddingTable) else photos
        rows = rows_of(names)
        index = build_index(batches, len(rows), alignment.aligned_dimension, kind, reduced, lists)
        return cls(index, rows, name, made_by=made_by)

    def __len__(self) -> int:
        return len(self.rows)

    def search(self, queries: Vectors, k: int, diversity: float = 0.0, only: Chosen | None = None) -> list[Ranked]:
        """The k best photos for each query, ties by image_id.

        Args:
            queries: float32[B, D], aligned.
            k: how many; a gallery of fewer gives all, and an index that is not exact may find fewer. Which of several
                equal photos at place k is left out is FAISS's choice unless k takes the whole gallery.
            diversity: the weight of `diversify`.
            only: bool[N], the rows that may be found; all without it.

        Returns:
            One `Ranked` of one row per query: inner products of the aligned vectors, or estimates of them where the
            index keeps codes. Scores are never rounded: an encoder may hold a whole gallery within a few 1e-4, and
            ties made by rounding would be broken by name.

        Raises:
            ValueError: the dimension does not fit, or k is below 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.facts.dimension:
            raise ValueError(f"queries {queries.shape} do not fit an index of {self.facts.dimension} numbers")
        if k < 1:
            raise ValueError("k must be at least 1")
        most = len(self) if only is None else int(only.sum())
        if not most or not len(queries):
            return [Ranked(np.empty((1, 0), np.int64), np.empty((1, 0), np.float32)) for _ in queries]
        # Re-rank a longer list, so that dropped near-duplicates are replaced, however few photos are asked for.
        wide = min(max(k, DEPTH) if diversity else k, most)
        scores, ids = self._nearest(np.ascontiguousarray(queries, np.float32), wide, only)
        rows = ids if self.fresh is None else np.where(ids < 0, -1, np.searchsorted(self._ids, ids))
        # FAISS fills up with row -1 where it has found fewer.
        kept = ((one[found >= 0], found[found >= 0]) for one, found in zip(scores, rows, strict=True))
        lists = (diversify(self._ranked(one, found), self.alike, diversity) for one, found in kept)
        return [Ranked(found.rows[:, :k], found.scores[:, :k]) for found in lists]

    def _ranked(self, scores: Vectors, rows: Rows) -> Ranked:
        """One list in order; short ones don't need all names in order."""
        if FEW * len(rows) > len(self):
            return rank(scores[None], self._ties, rows[None])
        found = rank(scores[None], TieBreak.of(self.image_ids.take(pa.array(rows))))
        return Ranked(rows[found.rows], found.scores)

    def _nearest(self, queries: Vectors, k: int, only: Chosen | None) -> tuple[Vectors, Rows]:
        """The k best places for each query, see `rows`, and their scores; -1 where fewer are found."""
        if (lists := FAISS.try_extract_index_ivf(self.index)) is not None:
            lists.parallel_mode = OVER_LISTS if len(queries) < MANY * FAISS.omp_get_max_threads() else OVER_QUERIES
        built, fresh = self._parameters if only is None else self._searched(self.places(np.flatnonzero(only)))
        found = self.index.search(queries, k, params=built)
        if self.fresh is None or not self.fresh.ntotal:
            return found
        scores, ids = self.fresh.search(transformed(self.index, queries), k, params=fresh)
        both = np.hstack([found[0], scores]), np.hstack([found[1], np.where(ids < 0, -1, ids + self.index.ntotal)])
        best = np.argsort(-both[0], axis=1, kind="stable")[:, :k]
        scores, ids = (np.take_along_axis(side, best, axis=1) for side in both)
        return scores, ids

    @cached_property
    def _parameters(self) -> tuple[Any, Any]:
        """For a search among all rows, which passes over places that are no row any more."""
        return (None, None) if self.fresh is None else self._searched(self._ids)

    def _searched(self, places: Rows) -> tuple[Any, Any]:
        """For a search among some places of `index`, and of `fresh`; None where it is among all of them."""
        built = self.index.ntotal
        first = int(np.searchsorted(places, built))
        inside = None if first == built else _among(self.index, places[:first])
        if self.fresh is None or len(places) - first == self.fresh.ntotal:
            return inside, None
        return inside, FAISS.SearchParameters(sel=_selector(places[first:] - built))

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
        ids = self.places(rows)
        built = ids < self.index.ntotal
        vectors = np.empty((len(ids), inner_of(self.index).d), np.float32)
        if built.any():
            vectors[built] = self._core.reconstruct_batch(ids[built])
        if self.fresh is not None and not built.all():
            vectors[~built] = self.fresh.reconstruct_batch(ids[~built] - self.index.ntotal)
        across = vectors @ self._added.T
        similarities: Vectors = vectors @ vectors.T - across @ across.T
        return similarities

    @cached_property
    def _core(self) -> Any:
        """What keeps the vectors, behind what transforms them; `index` keeps it alive: FAISS frees its children."""
        lists = faiss.try_extract_index_ivf(self.index)
        if lists is not None:
            # Inverted lists do not tell in which of them a row is. The map is made once, for diversified lists alone.
            lists.set_direct_map_type(FAISS.DirectMap.Array)
        index: Any = self.index
        return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index

    @cached_property
    def _added(self) -> Vectors:
        """float32[A, D], where numbers went that alignment appended: they say nothing of what a photo shows."""
        width = self.facts.dimension
        count = sum(load(STEPS[step]).added for step in ALIGNMENTS.get(self.facts.alignment, ()))
        # The first row stays at zero, to tell what transforms add by themselves.
        found = transformed(self.index, np.vstack([np.zeros(width), np.eye(count, width, width - count)]))
        directions: Vectors = found[1:] - found[0]
        return directions

    def save(self, folder: Path, more: Mapping[str, str] | None = None, lists: Path | None = None) -> None:
        """Writes `photos.faiss` and `photos.parquet` (the rows) to `folder`, all or nothing.

        Of an index that was changed, `fresh` and rows alone are written. What was built is the file that it was read
        from, by a further name, so that whoever searches what was there goes on.

        Args:
            folder: is made anew.
            more: joins the metadata of the rows; of a changed index with the digests of what was built.
            lists: the file that holds the index's lists, if they are not in memory; it moves along.

        Raises:
            PipelineError: the index can't be written.
        """
        with replacing_folder(folder) as aside:
            aside.mkdir(parents=True)
            facts = {"alignment": self.facts.alignment, "made_by": self.facts.made_by, **(more or {})}
            if self.fresh is None:
                if lists is not None and lists.exists():
                    lists.replace(aside / LISTS_NAME)
                    facts[DIGESTS[LISTS_NAME]] = digest_of_file(aside / LISTS_NAME)
                facts[DIGESTS[INDEX_NAME]] = _write(self.index, folder, aside / INDEX_NAME)
            else:
                for name in (INDEX_NAME, LISTS_NAME):
                    if self.folder is not None and (self.folder / name).exists():
                        _share(self.folder / name, aside / name)
                facts[DIGESTS[FRESH_NAME]] = _write(self.fresh, folder, aside / FRESH_NAME)
            write_table(aside / ROWS_NAME, self.rows.replace_schema_metadata(facts))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote; inverted lists stay in their file, where the system can map one, and take no memory.

        Raises:
            PipelineError: a file is missing or cut, or the two do not belong together.
        """
        rows = written_rows(folder)
        needed = [name for name in ("image_id", "id") if name in rows.column_names]  # no search needs the contents
        return cls.of(folder, rows.select(needed))

    @classmethod
    def of(cls, folder: Path, rows: pa.Table) -> Self:
        """The same, of the rows that `written_rows` has read."""
        path, facts = folder / INDEX_NAME, told(rows)
        # With this flag FAISS would not map lists that have a file of their own.
        mapped = faiss.IO_FLAG_MMAP if CAN_MAP and not (folder / LISTS_NAME).exists() else 0
        index = read(path, faiss.IO_FLAG_READ_ONLY | mapped)
        fresh = read(folder / FRESH_NAME) if DIGESTS[FRESH_NAME] in facts else None
        place, names = rows.column_names.index("image_id"), rows["image_id"].cast(pa.large_string())
        rows = rows.set_column(place, "image_id", names).combine_chunks()
        try:
            return cls(index, rows, facts.get("alignment", ""), folder, facts.get("made_by", ""), fresh)
        except ValueError as failure:
            raise PipelineError(f"{path}: does not fit the file beside it ({failure}); {AGAIN}") from failure

    def check(self, *, dimension: int, alignment: str, image_ids: Strings | pa.Array, made_by: str = "") -> None:
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
        elif not self.image_ids.equals(pa.array(image_ids).cast(pa.large_string())):
            what = "holds other photos than the gallery's embeddings"
        elif made_by and self.facts.made_by not in {"", made_by}:
            what = "was built from other embeddings than those of the queries"
        else:
            return
        raise PipelineError(f"{self.folder or 'the index'}: {what}; run the index stage (`dvc repro index`) again")


def transformed(index: faiss.Index, vectors: NDArray[np.floating[Any]]) -> Vectors:
    """Vectors as an index keeps them, float32[N, inner dimension]: without its coding."""
    found: Vectors = np.ascontiguousarray(vectors, np.float32)
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        for step in range(chain.size()):
            found = chain.at(step).apply(found)
    return found


def _selector(places: Rows) -> Any:
    """Tells FAISS of places, int64[K], rising, that may be found."""
    chosen = np.zeros(int(places[-1]) + 1 if len(places) else 1, np.bool_)
    chosen[places] = True
    return FAISS.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))


def _among(index: faiss.Index, places: Rows) -> Any:  # each kind has settings of its own
    """For a search among some places, which looks at so much more of the index that it meets as many of them."""
    inner, selector, more = inner_of(index), _selector(places), index.ntotal / len(places) if len(places) else 1.0
    if hasattr(inner, "nprobe"):
        probed = min(inner.nlist, math.ceil(inner.nprobe * more))
        params = FAISS.SearchParametersIVF(sel=selector, nprobe=probed)
    elif hasattr(inner, "hnsw"):
        visited = min(index.ntotal, math.ceil(inner.hnsw.efSearch * more))
        params = FAISS.SearchParametersHNSW(sel=selector, efSearch=visited)
    else:
        params = FAISS.SearchParameters(sel=selector)
    if isinstance(index, faiss.IndexPreTransform):
        return FAISS.SearchParametersPreTransform(index_params=params)
    return params


def _write(index: faiss.Index, folder: Path, path: Path) -> str:
    """Writes a FAISS index that belongs to a folder; returns the digest of its file."""
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as failure:
        raise PipelineError(f"{folder / path.name}: can't be written ({failure}); is the disk full?") from failure
    return digest_of_file(path)


def _share(path: Path, other: Path) -> None:
    """Gives a file that nobody changes a further name; a copy where the disk has one name a file (exFAT, some NAS)."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, other)


def read(path: Path, flags: int = 0) -> faiss.Index:
    """Reads a FAISS index; a file of its lists lies beside it.

    Raises:
        PipelineError: it can't be read.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_ONDISK_SAME_DIR | flags)
    except RuntimeError as failure:
        raise PipelineError(f"{path}: can't be read ({failure}); {AGAIN}") from failure
    lists: Any = faiss.try_extract_index_ivf(index)
    if lists is not None and hasattr(mapped := faiss.downcast_InvertedLists(lists.invlists), "prefetch_nthread"):
        mapped.prefetch_nthread = 0  # 32 threads, started for each query, take three times as long as the search
    return index


def rows_of(tables: Iterable[Path]) -> pa.Table:
    """The image_id and, where they have one, the content of each row of some embedding tables.

    Raises:
        PipelineError: a table can't be read.
    """
    found = []
    for path in tables:
        with opened_shard(path) as file:
            names = [name for name in ("image_id", "content") if name in file.schema_arrow.names]
            found.append(file.read(columns=names))
    return pa.concat_tables(found, promote_options="default")
