"""Builds an index from embedding tables, or changes the one that is there by the photos that have come and gone.

This module imports faiss, so a process that holds torch must not import it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

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
from pipeline_lib.index.facts import INDEX_NAME, LISTS_NAME, BuildJob, IndexFacts, index_key, told, written_rows
from pipeline_lib.index.kinds import choose_kind, inner_of, lists_for, probes_for
from pipeline_lib.index.photo_index import PhotoIndex, read, rows_of

SETTINGS, TRAINED, ADDED = "settings", "trained on", "added since"
"""In the metadata of an index: a digest of its settings, the photos that its lists were fitted on, later ones."""
MOST_NEW: Final = 0.5
"""New photos, as a share of those that the lists were fitted on, from which they are fitted again."""


def build(job: BuildJob) -> IndexFacts:
    """Builds and writes an index, or changes the one that is there: of the same making, with inverted lists in memory.

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
    return index, {SETTINGS: _settings(job, len(index)), TRAINED: str(len(index)), ADDED: "0"}


def _alignment(job: BuildJob) -> Alignment:
    if job.alignment is None:
        return Alignment(EmbeddingTable.open(job.tables[0]).dimension)
    return Alignment.load(job.alignment).as_kind(job.alignment_kind)


def _settings(job: BuildJob, count: int) -> str:
    """A digest of what an index of `count` photos is built with, beside the vectors."""
    kind = choose_kind(count) if job.kind == "auto" else job.kind
    return digest_of(job.alignment_kind, kind, job.reduced)


class Change(NamedTuple):
    """What is to be done to an index."""

    gone: NDArray[np.bool_]  # of the rows that it has
    come: NDArray[np.bool_]  # of the rows that it is to have


def _change(rows: pa.Table, wanted: pa.Table) -> Change:
    """From rows that an index has to those that it is to have: a path has one row, and its content decides."""
    (paths, contents), (new_paths, new_contents) = (
        [table[name].cast(pa.large_string()).combine_chunks() for name in ("image_id", "content")]
        for table in (rows, wanted)
    )
    places = pc.index_in(new_paths, paths)
    kept = np.asarray(pc.fill_null(pc.equal(new_contents, contents.take(places)), False))  # noqa: FBT003  Arrow's
    gone = np.ones(len(rows), np.bool_)
    gone[np.asarray(places.filter(pa.array(kept)))] = False
    return Change(gone, ~kept)


def _changed(job: BuildJob) -> tuple[PhotoIndex, dict[str, str]] | None:
    """The index that is there, with photos taken out and put in; None where it has to be built."""
    found = _there(job)
    if found is None:
        return None
    (rows, wanted), facts = found, told(found[0])
    change = _change(rows, wanted)
    added = int(facts[ADDED]) + int(change.come.sum())
    if added > MOST_NEW * int(facts[TRAINED]):
        return None
    index = _opened(job.out)
    if index is None:
        return None
    ids = rows["id"].to_numpy() if "id" in rows.column_names else np.arange(len(rows))
    index.remove_ids(faiss.IDSelectorBatch(ids[change.gone]))
    first = int(ids[-1]) + 1 if len(ids) else 0
    new = np.arange(first, first + int(change.come.sum()))
    start = 0
    for batch in _vectors(job, change.come):
        index.add_with_ids(batch, new[start : start + len(batch)])
        start += len(batch)
    inner = inner_of(index)
    inner.nprobe = probes_for(index.ntotal, inner.nlist)
    columns = ["image_id", "content"]
    left = rows.select(columns).filter(pa.array(~change.gone))
    table = pa.concat_tables([left, wanted.select(columns).filter(pa.array(change.come))])
    table = table.append_column("id", pa.array(np.concatenate([ids[~change.gone], new])))
    facts = {SETTINGS: facts[SETTINGS], TRAINED: facts[TRAINED], ADDED: str(added)}
    table = table.replace_schema_metadata(None)
    return PhotoIndex(index, table, job.alignment_kind, made_by=job.made_by), facts


def _there(job: BuildJob) -> tuple[pa.Table, pa.Table] | None:
    """The rows of the index that is there, and those that it is to have, where the one can be made of the other."""
    try:
        rows, wanted = written_rows(job.out), rows_of(job.tables)
    except PipelineError:  # none, or damaged
        return None
    facts, both = told(rows), {*rows.column_names} & {*wanted.column_names}
    same = job.made_by and (facts.get("made_by"), facts.get(SETTINGS)) == (job.made_by, _settings(job, len(wanted)))
    if not same or "content" not in both:
        return None
    # Lists grow too long, or too few photos are left in each.
    if not 0.5 <= lists_for(len(wanted)) / lists_for(int(facts[TRAINED])) <= 2:
        return None
    return rows, wanted


def _opened(folder: Path) -> faiss.Index | None:
    """The index, if photos can be taken out of it: of inverted lists in memory.

    FAISS 1.15 would add to lists in a file that were merged there, but over the vectors of other lists.
    """
    if (folder / LISTS_NAME).exists():
        return None
    index = read(folder / INDEX_NAME)
    return index if faiss.try_extract_index_ivf(index) is not None else None


def _vectors(job: BuildJob, come: NDArray[np.bool_]) -> Iterator[Vectors]:
    """The aligned vectors of the rows that have come, in order."""
    alignment, start = _alignment(job), 0
    for path in job.tables:
        with opened_shard(path) as file:
            here = come[start : start + file.metadata.num_rows]
        start += len(here)
        if here.any():
            yield alignment.apply(EmbeddingTable.open(path).read()[here], "photo")
