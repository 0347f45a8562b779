"""Indexes that are changed by the photos that have come and gone, searched in parts, and kept in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pipeline_lib.embedding.alignment import normalise
from pipeline_lib.embedding.vectors import vector_table
from pipeline_lib.errors import PipelineError
from pipeline_lib.index import kinds, photo_index
from pipeline_lib.index.building import build
from pipeline_lib.index.facts import LISTS_NAME, BuildJob, written_rows
from pipeline_lib.index.photo_index import PhotoIndex

Matrix = NDArray[np.float32]
WIDTH = 32


def vectors(rows: int, seed: int = 0) -> Matrix:
    """Vectors that lie in groups, as photos do."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((20, WIDTH))
    return normalise((centres[random.integers(0, 20, rows)] + 0.5 * random.standard_normal((rows, WIDTH))).astype("f4"))


def shard(path: Path, names: Sequence[str], made: Matrix) -> Path:
    """A shard of one's own photos, with the content of each."""
    table = vector_table(names, names, names, made.astype(np.float16))
    pq.write_table(table.append_column("content", pa.array([f"c {name}" for name in names])), path)
    return path


def job_of(folder: Path, tables: Sequence[Path], kind: str) -> BuildJob:
    return BuildJob(tuple(tables), None, "none", kind, 0, folder / "index", made_by="a model")


def named(index: PhotoIndex, queries: Matrix, k: int = 5) -> list[list[str]]:
    """The image_ids that are found."""
    return [index.image_ids.take(pa.array(found.rows[0])).to_pylist() for found in index.search(queries, k)]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("kind", ["ivf", "rabitq"])
def test_a_changed_index_finds_what_one_built_anew_finds(
    kind: str, on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_disk:
        monkeypatch.setattr(kinds, "IN_MEMORY_UP_TO", 500)
        monkeypatch.setattr(kinds, "BLOCK", 300)
    made, names = vectors(1000), [f"{row:04d}" for row in range(1000)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names[:600], made[:600]),
                            shard(tmp_path / "b.parquet", names[600:], made[600:])], kind)  # fmt: skip
    build(job)
    assert (job.out / LISTS_NAME).exists() is on_disk
    assert written_rows(job.out).column_names == ["image_id", "content"]
    # Three photos go, and one comes; of the rest nothing is computed again.
    left = [row for row in range(600) if row not in (0, 77, 599)]
    shard(tmp_path / "a.parquet", [names[row] for row in left], made[left])
    new = vectors(1, seed=5)
    shard(tmp_path / "b.parquet", [*names[600:], "new"], np.concatenate([made[600:], new]))
    if not on_disk:
        monkeypatch.setattr(photo_index, "build_index", None)
    before = PhotoIndex.load(job.out)
    facts = build(job)
    assert named(before, made[[77]], 1) == [["0077"]]  # whoever searches what was there goes on
    index = PhotoIndex.load(job.out)
    assert facts.count == len(index) == 998
    assert named(index, new, 1) == [["new"]]
    kept = np.concatenate([made[left], made[600:], new])
    wanted = np.argsort(-(queries := vectors(20, seed=3)) @ kept.T, axis=1)[:, :5]
    order = np.array([names[row] for row in left] + names[600:] + ["new"])
    hits = [len({*a} & {*b}) for a, b in zip(named(index, queries), order[wanted].tolist(), strict=True)]
    assert sum(hits) >= 80
    gone = {"0000", "0077", "0599"}
    assert not any(gone & {*found} for found in named(index, made[[0, 77, 599]], 50))
    # Diversified lists need vectors of rows, by whatever number FAISS has them.
    assert [one.rows.shape for one in index.search(queries, 5, 0.3)] == [(1, 5)] * 20


def test_an_index_that_many_photos_have_joined_is_built_anew(tmp_path: Path) -> None:
    made, names = vectors(1000), [f"{row:04d}" for row in range(1000)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names[:600], made[:600])], "ivf")
    build(job)
    for count, changed in ((700, True), (880, True), (1000, False)):
        shard(tmp_path / "a.parquet", names[:count], made[:count])
        assert build(job).count == count
        assert ("id" in PhotoIndex.load(job.out).rows.column_names) is changed


@pytest.mark.parametrize("change", [{"made_by": "another"}, {"reduced": 20}, {"kind": "rabitq"}, {"made_by": ""}])
def test_an_index_of_another_making_is_built_anew(change: dict[str, Any], tmp_path: Path) -> None:
    made, names = vectors(600), [f"{row:04d}" for row in range(600)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names[:599], made[:599])], "ivf")
    build(job)
    shard(tmp_path / "a.parquet", names, made)
    build(replace(job, **change))
    assert "id" not in PhotoIndex.load(job.out).rows.column_names


def test_a_change_that_is_cut_off_leaves_the_index_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, names = vectors(600), [f"{row:04d}" for row in range(600)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names[:599], made[:599])], "ivf")
    build(job)

    def cut(*_: object) -> None:
        raise RuntimeError("No space left")

    shard(tmp_path / "a.parquet", names, made)
    monkeypatch.setattr(faiss, "write_index", cut)
    with pytest.raises(PipelineError, match="can't be written"):
        build(job)
    monkeypatch.undo()
    assert len(PhotoIndex.load(job.out)) == 599
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "index"]
    assert build(job).count == 600


@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.parametrize("share", [0.5, 0.02, 0.0])
def test_a_search_among_some_rows_finds_the_nearest_of_them(kind: str, share: float, tmp_path: Path) -> None:
    made, names = vectors(3000), [f"{row:04d}" for row in range(3000)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names, made)], kind)
    build(replace(job, reduced=0))
    index, only = PhotoIndex.load(job.out), np.random.default_rng(1).random(3000) < share
    queries = vectors(20, seed=3)
    found = [one.rows[0] for one in index.search(queries, 5, 0.0, only)]
    assert all(only[rows].all() for rows in found)
    scores = np.where(only, queries @ made.T, -np.inf)
    wanted = np.argsort(-scores, axis=1)[:, : min(5, int(only.sum()))]
    hits = [len({*a.tolist()} & {*b.tolist()}) for a, b in zip(found, wanted, strict=True)]
    assert sum(hits) >= 0.9 * wanted.size


def test_names_take_what_their_letters_take(tmp_path: Path) -> None:
    names = [f"{row:05d}" for row in range(5000)]
    names[7] = "x" * 5000
    build(job_of(tmp_path, [shard(tmp_path / "a.parquet", names, vectors(5000))], "ivf"))
    assert PhotoIndex.load(tmp_path / "index").image_ids.nbytes < 100_000


def test_a_damaged_file_of_lists_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "IN_MEMORY_UP_TO", 500)
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", [str(row) for row in range(600)], vectors(600))], "ivf")
    build(job)
    lists = job.out / LISTS_NAME
    data = bytearray(lists.read_bytes())
    data[len(data) // 2] ^= 1
    lists.write_bytes(data)
    with pytest.raises(PipelineError, match=r"photos\.lists: is damaged"):
        PhotoIndex.load(job.out)
