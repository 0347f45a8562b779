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
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline_lib.data.schemas import write_table
from pipeline_lib.embedding.alignment import normalise
from pipeline_lib.embedding.vectors import vector_table
from pipeline_lib.errors import PipelineError
from pipeline_lib.index import building, kinds, photo_index
from pipeline_lib.index.building import build
from pipeline_lib.index.facts import INDEX_NAME, LISTS_NAME, ROWS_NAME, BuildJob, written_rows
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


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Lets galleries of more than 400 photos count as ones that are not built again for each photo."""
    monkeypatch.setattr(building, "EXACT_UP_TO", 400)
    return monkeypatch


def changed(index: PhotoIndex) -> bool:
    return "id" in index.rows.column_names


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_a_changed_index_finds_what_one_built_anew_finds(
    kind: str, on_disk: bool, tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    if on_disk:
        large.setattr(kinds, "IN_MEMORY_UP_TO", 500)
        large.setattr(kinds, "BLOCK", 300)
    made, names = vectors(1000), [f"{row:04d}" for row in range(1000)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names[:600], made[:600]),
                            shard(tmp_path / "b.parquet", names[600:], made[600:])], kind)  # fmt: skip
    build(job)
    assert (job.out / LISTS_NAME).exists() is (on_disk and kind in {"ivf", "rabitq"})
    assert written_rows(job.out).column_names == ["image_id", "content"]
    # Three photos go, and one comes; what was built stays as it is.
    left = [row for row in range(600) if row not in (0, 77, 599)]
    shard(tmp_path / "a.parquet", [names[row] for row in left], made[left])
    new = vectors(1, seed=5)
    shard(tmp_path / "b.parquet", [*names[600:], "new"], np.concatenate([made[600:], new]))
    large.setattr(photo_index, "build_index", None)
    before, written = PhotoIndex.load(job.out), (job.out / INDEX_NAME).stat().st_ino
    facts = build(job)
    assert (job.out / INDEX_NAME).stat().st_ino == written
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
    # Diversified lists need vectors of rows, wherever they are.
    assert [one.rows.shape for one in index.search(queries, 5, 0.3)] == [(1, 5)] * 20
    assert index.alike(np.array([len(index) - 1, 5]))[0, 0] == pytest.approx(1, abs=0.02)
    assert {*named(index, queries[:1], 998)[0]} == {*order.tolist()} or kind != "exact"


steps = st.lists(
    st.lists(st.tuples(st.integers(0, 699), st.sampled_from(["go", "come", "move"])), max_size=30),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25, deadline=None)
@given(steps=steps)
def test_whatever_comes_goes_and_moves_an_exact_index_ranks_as_one_built_anew(
    steps: list[list[tuple[int, str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, made = tmp_path_factory.mktemp("index"), vectors(700)
    there = {f"{row:04d}": row for row in range(500)}
    path = folder / "a.parquet"

    def written() -> BuildJob:
        table = vector_table(there, there, there, made[list(there.values())].astype(np.float16))
        pq.write_table(table.append_column("content", pa.array([str(row) for row in there.values()])), path)
        return job_of(folder, [path], "exact")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "EXACT_UP_TO", 400)
        build(written())
        for step in steps:
            for row, what in step:
                name = f"{row:04d}"
                if what == "come":
                    there.setdefault(name, row)
                elif name in there:
                    kept = there.pop(name)
                    if what == "move":
                        there[f"moved {name}"] = kept
            build(written())
    index, queries = PhotoIndex.load(folder / "index"), vectors(5, seed=3)
    names, rows = np.array(list(there)), np.array(list(there.values()))
    scores = queries @ made[rows].astype(np.float16).astype(np.float32).T
    for found, right in zip(index.search(queries, len(index)), scores, strict=True):
        ranked = index.image_ids.take(pa.array(found.rows[0])).to_pylist()
        assert sorted(ranked) == sorted(names.tolist())
        np.testing.assert_allclose(np.sort(right)[::-1], found.scores[0], atol=2e-3)
        place = dict(zip(names.tolist(), right.tolist(), strict=True))
        np.testing.assert_allclose([place[name] for name in ranked], found.scores[0], atol=2e-3)


def test_a_moved_photo_keeps_its_vector(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    made, names = vectors(600), [f"{row:04d}" for row in range(600)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names, made)], "ivf")
    build(job)
    table = pq.read_table(tmp_path / "a.parquet")
    renamed = pa.array(["moved", *names[1:]])
    pq.write_table(table.set_column(0, "image_id", renamed), tmp_path / "a.parquet")
    large.setattr(building, "_vectors", lambda _job, come: iter(()) if not come.any() else 1 / 0)
    build(job)
    assert named(PhotoIndex.load(job.out), made[:1], 1) == [["moved"]]


def test_an_index_is_built_anew_when_many_photos_have_come_or_gone(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    made, names = vectors(1000), [f"{row:04d}" for row in range(1000)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names[:600], made[:600])], "ivf")
    build(job)
    for low, high, is_changed in (
        (0, 640, True),
        (0, 660, True),
        (0, 1000, False),
        (80, 1000, True),
        (300, 1000, False),
    ):
        shard(tmp_path / "a.parquet", names[low:high], made[low:high])
        assert build(job).count == high - low
        assert changed(PhotoIndex.load(job.out)) is is_changed
    large.setattr(building, "EXACT_UP_TO", 699)
    shard(tmp_path / "a.parquet", names[300:999], made[300:999])
    build(job)
    assert not changed(PhotoIndex.load(job.out))


@pytest.mark.usefixtures("large")
def test_an_index_that_an_earlier_version_has_changed_is_built_anew(tmp_path: Path) -> None:
    made, names = vectors(600), [f"{row:04d}" for row in range(600)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names, made)], "ivf")
    build(job)
    rows = written_rows(job.out)
    write_table(job.out / ROWS_NAME, rows.append_column("id", pa.array(np.arange(5, 605))))
    with pytest.raises(PipelineError, match="earlier version"):
        PhotoIndex.load(job.out)
    build(job)
    assert not changed(PhotoIndex.load(job.out))


def test_where_a_disk_has_one_name_a_file_what_was_built_is_copied(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    made, names = vectors(600), [f"{row:04d}" for row in range(600)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names[:599], made[:599])], "ivf")
    build(job)
    shard(tmp_path / "a.parquet", names, made)

    def refused(*_: object) -> None:
        raise PermissionError

    large.setattr(Path, "hardlink_to", refused)
    build(job)
    index = PhotoIndex.load(job.out)
    assert changed(index)
    assert named(index, made[[7, 599]], 1) == [["0007"], ["0599"]]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("change", [{"made_by": "another"}, {"reduced": 20}, {"kind": "rabitq"}, {"made_by": ""}])
def test_an_index_of_another_making_is_built_anew(change: dict[str, Any], tmp_path: Path) -> None:
    made, names = vectors(600), [f"{row:04d}" for row in range(600)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names[:599], made[:599])], "ivf")
    build(job)
    shard(tmp_path / "a.parquet", names, made)
    build(replace(job, **change))
    assert not changed(PhotoIndex.load(job.out))


def test_a_change_that_is_cut_off_leaves_the_index_as_it_was(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    made, names = vectors(600), [f"{row:04d}" for row in range(600)]
    job = job_of(tmp_path, [shard(tmp_path / "a.parquet", names[:599], made[:599])], "ivf")
    build(job)

    def cut(*_: object) -> None:
        raise RuntimeError("No space left")

    shard(tmp_path / "a.parquet", names, made)
    large.setattr(faiss, "write_index", cut)
    with pytest.raises(PipelineError, match="can't be written"):
        build(job)
    large.undo()
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
