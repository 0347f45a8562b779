from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faiss.contrib.evaluation import knn_intersection_measure
from numpy.typing import NDArray

from pipeline_lib.embedding.alignment import Alignment, Kind, normalise
from pipeline_lib.embedding.hubness import Hubness
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.errors import PipelineError
from pipeline_lib.index.diversity import diversify
from pipeline_lib.index.photo_index import PhotoIndex
from pipeline_lib.index.ranking import Ranked, rank_scores
from tests.support import write_embeddings

ROOT = Path(__file__).resolve().parents[2]
Matrix = NDArray[np.float32]


def random_vectors(rows: int, dimension: int = 16, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)


def build(tmp_path: Path, vectors: Matrix, ids: list[str] | None = None, kind: Kind = "none") -> PhotoIndex:
    names = ids or [f"p{n:04d}" for n in range(len(vectors))]
    photos = EmbeddingTable.open(write_embeddings(tmp_path / "photos.parquet", names, vectors, row_group=100))
    return PhotoIndex.build(photos, Alignment(vectors.shape[1]), kind)


def search(index: PhotoIndex, queries: Matrix, k: int) -> Ranked:
    """The lists of all queries in one block."""
    found = index.search(queries, k)
    return Ranked(np.vstack([one.rows for one in found]), np.vstack([one.scores for one in found]))


def exact_vectors(rows: int, seed: int = 0) -> Matrix:
    """Of 64 numbers +1 or -1: their normalised inner products carry no rounding, and many are equal."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), (rows, 64))


@pytest.mark.parametrize("queries", [1, 19, 300])
def test_faiss_ranks_like_numpy_ties_included(tmp_path: Path, queries: int) -> None:
    photos, sketches = exact_vectors(500), normalise(exact_vectors(queries, seed=1))
    index = build(tmp_path, photos)
    blocks = list(index.rank_all([sketches[:7], sketches[7:]]))
    scores = sketches @ normalise(photos).T
    wanted = np.argsort(-scores, axis=1, kind="stable")  # the rows stand in the order of their image_ids
    np.testing.assert_array_equal(np.concatenate([block.rows for block in blocks]), wanted)
    found = np.concatenate([block.scores for block in blocks])
    np.testing.assert_array_equal(found, np.take_along_axis(scores, wanted, axis=1))


def test_faiss_ranks_any_vectors_like_numpy_up_to_rounding(tmp_path: Path) -> None:
    photos, sketches = random_vectors(500), normalise(random_vectors(100, seed=1))
    rows = next(build(tmp_path, photos).rank_all([sketches])).rows
    wanted = np.argsort(-sketches @ normalise(photos).T, axis=1)
    assert np.mean(rows == wanted) > 0.999
    assert knn_intersection_measure(rows[:, :50], wanted[:, :50]) > 0.999  # type: ignore[no-untyped-call]


def test_copies_of_a_photo_rank_by_image_id(tmp_path: Path) -> None:
    vectors = np.repeat(exact_vectors(10), 30, axis=0)
    ids = [f"p{n:04d}" for n in np.random.default_rng(0).permutation(300)]
    index = build(tmp_path, vectors, ids)
    names = np.array(ids)
    for block in index.rank_all([normalise(exact_vectors(40, seed=2))]):
        for row, scores in zip(block.rows, block.scores, strict=True):
            assert row.tolist() == [n for _, _, n in sorted(zip(-scores, names[row], row.tolist(), strict=True))]


def test_close_scores_are_not_ties(tmp_path: Path) -> None:
    # Cosines that differ by a millionth, the better photo last by name.
    angles = 0.5 - np.arange(20)[:, None] * 2e-6
    index = build(tmp_path, np.hstack([np.cos(angles), np.sin(angles)]).astype(np.float32))
    assert search(index, np.array([[1, 0]], np.float32), 20).rows[0].tolist() == list(range(20))[::-1]


def test_search_gives_the_head_of_the_full_ranking(tmp_path: Path) -> None:
    index = build(tmp_path, random_vectors(200))
    queries = normalise(random_vectors(5, seed=3))
    full = search(index, queries, 1000)
    assert full.rows.shape == (5, 200)
    np.testing.assert_array_equal(search(index, queries, 10).rows, full.rows[:, :10])


def test_a_saved_index_answers_as_before(tmp_path: Path) -> None:
    index = build(tmp_path, random_vectors(50), kind="pretext_mean")
    index.save(tmp_path / "index")
    loaded = PhotoIndex.load(tmp_path / "index")
    assert (loaded.facts.alignment, loaded.facts.dimension, len(loaded)) == ("pretext_mean", 16, 50)
    assert loaded.image_ids.tolist() == index.image_ids.tolist()
    queries = normalise(random_vectors(4, seed=5))
    np.testing.assert_array_equal(search(loaded, queries, 50).rows, search(index, queries, 50).rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "photos.parquet"]


def test_a_save_that_fails_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, random_vectors(50)).save(tmp_path / "index")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline_lib.index.photo_index.write_table", full_disk)
    with pytest.raises(OSError, match="No space"):
        build(tmp_path, random_vectors(60)).save(tmp_path / "index")
    assert len(PhotoIndex.load(tmp_path / "index")) == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "photos.parquet"]


def test_an_index_and_rows_of_two_builds_are_refused(tmp_path: Path) -> None:
    build(tmp_path, random_vectors(50)).save(tmp_path / "a")
    build(tmp_path, random_vectors(49)).save(tmp_path / "b")
    (tmp_path / "b" / "photos.parquet").replace(tmp_path / "a" / "photos.parquet")
    with pytest.raises(PipelineError, match=r"photos\.faiss: is damaged, or was not written with the file beside it"):
        PhotoIndex.load(tmp_path / "a")


@pytest.mark.parametrize("name", ["photos.faiss", "photos.parquet"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_index_is_named(tmp_path: Path, name: str, damage: str) -> None:
    build(tmp_path, random_vectors(50)).save(tmp_path / "index")
    path = tmp_path / "index" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(PipelineError, match=name):
        PhotoIndex.load(tmp_path / "index")


@pytest.mark.parametrize("seed", range(40))
def test_a_bit_that_flips_is_found_and_never_searched_with(tmp_path: Path, seed: int) -> None:
    build(tmp_path, random_vectors(50)).save(tmp_path / "index")
    rng = np.random.default_rng(seed)
    path = tmp_path / "index" / ("photos.faiss", "photos.parquet")[seed % 2]
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    try:
        found = PhotoIndex.load(tmp_path / "index")
    except PipelineError as failure:
        assert path.parent.name in str(failure)  # noqa: PT017  most flips end here
    else:  # a bit that no reader looks at
        assert found.image_ids.tolist() == [f"p{n:04d}" for n in range(50)]
        assert found.facts.alignment == "none"


def test_what_does_not_fit_the_index_is_told(tmp_path: Path) -> None:
    index = build(tmp_path, random_vectors(3), kind="pretext_mean")
    index.check(dimension=16, alignment="pretext_mean", image_ids=index.image_ids)
    with pytest.raises(PipelineError, match="16 numbers, the queries 8"):
        index.check(dimension=8, alignment="pretext_mean", image_ids=index.image_ids)
    with pytest.raises(PipelineError, match=r"built with alignment pretext_mean, but retrieval\.alignment is none"):
        index.check(dimension=16, alignment="none", image_ids=index.image_ids)
    with pytest.raises(PipelineError, match="other photos"):
        index.check(dimension=16, alignment="pretext_mean", image_ids=index.image_ids[::-1])
    with pytest.raises(ValueError, match="do not fit"):
        search(index, random_vectors(2, 8), 1)


@pytest.mark.parametrize("hubs", [False, True])
def test_diversified_lists_compare_photos_by_what_they_show(tmp_path: Path, *, hubs: bool) -> None:
    vectors, queries = random_vectors(80, 4), normalise(random_vectors(5, 4, seed=1))
    photos = EmbeddingTable.open(write_embeddings(tmp_path / "p.parquet", [f"p{n:04d}" for n in range(80)], vectors))
    hubness = Hubness(normalise(random_vectors(40, 4, seed=2)).astype(np.float16))
    alignment = Alignment(4, steps={("hubness",): hubness}, chain=("hubness",)) if hubs else Alignment(4)
    index = PhotoIndex.build(photos, alignment, "pretext_csls" if hubs else "none")
    found = np.concatenate([block.rows for block in index.rank_all([alignment.apply(queries, "sketch")], 0.3)])

    aligned = alignment.apply(vectors, "photo")
    scores = alignment.apply(queries, "sketch") @ aligned.T
    # How much of a hub a photo is stands in the last number, and says nothing of what it shows.
    shown = aligned[:, :4]
    wanted = diversify(next(rank_scores(scores, index.image_ids)), lambda rows: shown[rows] @ shown[rows].T, 0.3).rows
    assert np.mean(found == wanted) > 0.99
    assert not np.array_equal(wanted, np.argsort(-scores, axis=1))


def test_a_gallery_of_one_and_of_none(tmp_path: Path) -> None:
    one = build(tmp_path, random_vectors(1))
    assert search(one, normalise(random_vectors(3, seed=1)), 10).rows.tolist() == [[0], [0], [0]]
    none = build(tmp_path, random_vectors(0))
    assert search(none, normalise(random_vectors(3, seed=1)), 10).rows.shape == (3, 0)
    assert [block.rows.shape for block in none.rank_all([random_vectors(3)])] == [(3, 0)]


def test_a_gallery_of_one_that_equals_its_mean_scores_zero(tmp_path: Path) -> None:
    photos = EmbeddingTable.open(write_embeddings(tmp_path / "p.parquet", ["p"], random_vectors(1)))
    alignment = Alignment(16).fitted(("mean",), photos, photos)
    index = PhotoIndex.build(photos, alignment, "transductive_mean")
    found = search(index, alignment.apply(random_vectors(2, seed=4), "sketch"), 5)
    assert found.rows.tolist() == [[0], [0]]
    assert found.scores.tolist() == [[0.0], [0.0]]


def imported(modules: str) -> set[str]:
    code = f"import sys, {modules}; print(*(m for m in ('torch', 'faiss') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_process_loads_both_torch_and_faiss() -> None:
    room = "pipeline_lib"
    assert imported(f"{room}.index.photo_index, {room}.evaluation.evaluation, {room}.evaluation.comparison") == {
        "faiss"
    }
    # These are used by processes that hold torch.
    free = (
        "embedding.vectors",
        "embedding.alignment",
        "index.remote",
        "index.facts",
        "index.ranking",
        "index.diversity",
    )
    assert imported(", ".join(f"{room}.{name}" for name in (*free, "evaluation.metrics", "intervals", "run"))) == set()
