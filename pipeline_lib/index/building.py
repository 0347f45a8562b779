"""Builds an index from embedding tables, or brings the one that is there up to date.

What was built stays as it is, however large: photos that have come since lie beside it, are compared one by one and
are written alone. When too many have come or gone, all is built again.

This module imports faiss, so a process that holds torch must not import it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline_lib.data.schemas import opened_shard
from pipeline_lib.embedding.alignment import Alignment
from pipeline_lib.embedding.vectors import EmbeddingTable, Vectors
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of, remove, temporary
from pipeline_lib.index.facts import DIGESTS, LISTS_NAME, BuildJob, IndexFacts, index_key, told, written_rows
from pipeline_lib.index.kinds import EXACT_UP_TO, choose_kind, inner_of
from pipeline_lib.index.photo_index import PhotoIndex, rows_of, transformed
from pipeline_lib.index.ranking import Rows

SETTINGS: Final = "settings"
"""In the metadata of an index: a digest of its settings."""
MOST_CHANGED: Final = 0.1
"""New photos, and those that are gone, as a share of those that it was built of, from which it is built again."""


def build(job: BuildJob) -> IndexFacts:
    """Builds and writes an index, or brings the one that is there up to date if it is of the same making.

    Raises:
        PipelineError: a table can't be read or holds vectors that can't be used, or the kind doesn't fit.
    """
    aside = temporary(job.out.with_name(LISTS_NAME))  # a folder, since the file must be called so from the beginning
    aside.mkdir(parents=True)
    try:
        index, facts = _changed(job) or _built(job, aside / LISTS_NAME)
        index.save(job.out, facts, aside / LISTS_NAME)
    finally:
        remove(aside)
    return replace(index.facts, key=index_key(job.out))


def _built(job: BuildJob, lists: Path) -> tuple[PhotoIndex, dict[str, str]]:
    alignment = _alignment(job)
    index = PhotoIndex.build(job.tables, alignment, job.alignment_kind, job.kind, job.reduced, job.made_by, lists)
    return index, {SETTINGS: _settings(job, len(index))}


def _alignment(job: BuildJob) -> Alignment:
    if job.alignment is None:
        return Alignment(EmbeddingTable.open(job.tables[0]).dimension)
    return Alignment.load(job.alignment).as_kind(job.alignment_kind)


def _settings(job: BuildJob, count: int) -> str:
    """A digest of what an index of `count` photos is built with, beside the vectors."""
    kind = choose_kind(count) if job.kind == "auto" else job.kind
    return digest_of(job.alignment_kind, kind, job.reduced)


def _kept(rows: pa.Table, ids: Rows, wanted: pa.Table) -> Rows:
    """By which id the vector of each wanted row is known, int64[N]; -1 where there is none.

    Args:
        rows: that an index has.
        ids: int64[M], theirs.
        wanted: rows that it is to have. A row's content decides, be it under the same path or, where a photo was moved,
            under that of a row that is gone.
    """
    (paths, contents), (new_paths, new_contents) = (
        [table[name].cast(pa.large_string()).combine_chunks() for name in ("image_id", "content")]
        for table in (rows, wanted)
    )
    places = pc.index_in(new_paths, paths)
    same = np.asarray(pc.fill_null(pc.equal(new_contents, contents.take(places)), False))  # noqa: FBT003  Arrow's
    kept = np.full(len(wanted), -1)
    kept[same] = ids[np.asarray(places.filter(pa.array(same)))]
    left: dict[str, list[int]] = {}
    free = np.isin(ids, kept[same], assume_unique=True, invert=True)
    for content, place in zip(contents.filter(pa.array(free)).to_pylist(), ids[free].tolist(), strict=True):
        left.setdefault(content, []).append(place)
    for row, content in zip(np.flatnonzero(~same), new_contents.filter(pa.array(~same)).to_pylist(), strict=True):
        if found := left.get(content):
            kept[row] = found.pop()
    return kept


def _changed(job: BuildJob) -> tuple[PhotoIndex, dict[str, str]] | None:
    """The index that is there with photos beside it and others passed over; None where it has to be built."""
    there = _there(job)
    if there is None:
        return None
    rows, wanted = there
    index = PhotoIndex.of(job.out, rows)
    built, fresh = index.index.ntotal, index.fresh
    if fresh is None:
        fresh = faiss.index_factory(inner_of(index.index).d, "SQfp16", faiss.METRIC_INNER_PRODUCT)
    kept = _kept(rows, index.places(np.arange(len(rows))), wanted)
    come, since = kept < 0, np.sort(kept[kept >= built])
    many = MOST_CHANGED * built
    if len(since) + come.sum() > min(EXACT_UP_TO, many) or built - ((kept >= 0) & (kept < built)).sum() > many:
        return None
    # The rest of them move up.
    fresh.remove_ids(faiss.IDSelectorBatch(np.setdiff1d(np.arange(fresh.ntotal), since - built)))
    kept[kept >= built] = built + np.searchsorted(since, kept[kept >= built])
    kept[come] = built + len(since) + np.arange(come.sum())
    for batch in _vectors(job, come):
        fresh.add(transformed(index.index, batch))
    order = np.argsort(kept)
    table = wanted.select(["image_id", "content"]).take(pa.array(order)).append_column("id", pa.array(kept[order]))
    facts = {name: words for name, words in told(rows).items() if name in {SETTINGS, *DIGESTS.values()}}
    changed = PhotoIndex(index.index, table, job.alignment_kind, job.out, job.made_by, fresh)
    return changed, facts


def _there(job: BuildJob) -> tuple[pa.Table, pa.Table] | None:
    """The rows of the index that is there, and those that it is to have, where the one can be made of the other."""
    try:
        rows, wanted = written_rows(job.out), rows_of(job.tables)
    except PipelineError:  # none, or damaged
        return None
    facts, both = told(rows), {*rows.column_names} & {*wanted.column_names}
    same = job.made_by and (facts.get("made_by"), facts.get(SETTINGS)) == (job.made_by, _settings(job, len(wanted)))
    # A small one is built in seconds.
    return (rows, wanted) if same and "content" in both and len(wanted) > EXACT_UP_TO else None


def _vectors(job: BuildJob, come: NDArray[np.bool_]) -> Iterator[Vectors]:
    """The aligned vectors of the rows that have come, in order."""
    alignment, start = _alignment(job), 0
    for path in job.tables:
        with opened_shard(path) as file:
            here = come[start : start + file.metadata.num_rows]
        start += len(here)
        if here.any():
            yield alignment.apply(EmbeddingTable.open(path).read()[here], "photo")
