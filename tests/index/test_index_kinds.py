from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline_lib.embedding.alignment import Alignment, normalise
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.errors import PipelineError
from pipeline_lib.index.facts import BuildJob
from pipeline_lib.index.kinds import (
    KINDS,
    build_index,
    choose_kind,
    inner_of,
    lists_for,
    principal_components,
    probes_for,
    settings_of,
)
from pipeline_lib.index.photo_index import PhotoIndex
from pipeline_lib.index.worker import Worker
from tests.support import write_embeddings

Matrix = NDArray[np.float32]
WIDTH = 32


def clustered(rows: int, seed: int = 0) -> Matrix:
    """Vectors that lie in groups, as photos do."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((20, WIDTH))
    return normalise((centres[random.integers(0, 20, rows)] + 0.5 * random.standard_normal((rows, WIDTH))).astype("f4"))


def build(vectors: Matrix, kind: str, reduced: int = 0) -> faiss.Index:
    def batches() -> Iterator[Matrix]:
        yield from np.array_split(vectors, 7)

    return build_index(batches, len(vectors), vectors.shape[1], kind, reduced)


@pytest.mark.parametrize(("kind", "least"), [("exact", 1.0), ("ivf", 0.95), ("hnsw", 0.95), ("rabitq", 0.85)])
def test_every_kind_finds_most_of_what_exact_search_finds(kind: str, least: float) -> None:
    vectors, queries = clustered(4000), clustered(50, seed=1)
    wanted = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    _, found = build(vectors, kind).search(queries, 10)
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(found.tolist(), wanted.tolist(), strict=True)])
    assert recall >= least


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "exact"])
def test_fewer_numbers_keep_inner_products_as_well_as_principal_components_do(kind: str) -> None:
    vectors, queries = clustered(2000), clustered(20, seed=1)
    components = principal_components(vectors, 20)
    wanted = np.argsort(-(queries @ components.T) @ (vectors @ components.T).T, axis=1)[:, :10]
    index = build(vectors, kind, reduced=20)
    assert "20 numbers of 32" in settings_of(index)
    _, found = index.search(queries, 10)
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(found.tolist(), wanted.tolist(), strict=True)])
    assert recall >= (0.85 if kind == "rabitq" else 0.9)


def test_principal_components_are_orthonormal_and_keep_as_much_as_the_singular_vectors() -> None:
    vectors = clustered(500)
    components = principal_components(vectors, 6)
    np.testing.assert_allclose(components @ components.T, np.eye(6), atol=1e-5)
    _, lengths, _ = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(np.linalg.norm(vectors @ components.T, axis=0), lengths[:6], rtol=1e-3)


def test_principal_components_of_long_vectors_take_no_matrix_of_all_pairs_of_numbers() -> None:
    few = np.random.default_rng(0).standard_normal((40, 60_000), np.float32)  # whose covariance would take 14 GB
    components = principal_components(few, 8)
    assert components.shape == (8, 60_000)
    lengths = np.linalg.svd(few, compute_uv=False)[:8]
    np.testing.assert_allclose(np.linalg.norm(few @ components.T, axis=0), lengths, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 45, 300])
def test_even_the_smallest_galleries_can_be_of_any_kind(kind: str, rows: int) -> None:
    vectors = clustered(rows)
    index = build(vectors, kind, reduced=16)
    assert index.ntotal == rows
    scores, found = index.search(vectors[:1], 1)
    assert found[0, 0] >= 0
    assert np.isfinite(scores).all()


def test_larger_galleries_are_given_faster_and_then_smaller_kinds() -> None:
    order = [list(KINDS).index(choose_kind(count)) for count in (1, 1000, 20_000, 20_001, 10**6, 10**9)]
    assert choose_kind(1) == choose_kind(20_000) == "exact"
    assert choose_kind(20_001) != "exact"
    assert choose_kind(10**9) == "rabitq"
    assert order[0] == 0
    assert all(1 <= lists_for(count) <= max(1, count // 39) for count in (1, 39, 1000, 10**6))
    # A query is compared with as many vectors, whatever their number.
    for count in (0, 1, 1000, 10**5, 10**6, 10**7):
        probed, lists = probes_for(count, lists_for(count)), lists_for(count)
        assert 0 <= probed * count - min(160_000, count) * lists <= count


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_comes_back_from_disk_as_it_was(kind: str, tmp_path: Path) -> None:
    vectors = clustered(600)
    names = np.array([f"{row:03d}" for row in range(600)])
    before = PhotoIndex(build(vectors, kind, reduced=16), names, "none")
    before.save(tmp_path / "index")
    after = PhotoIndex.load(tmp_path / "index")
    assert after.facts == before.facts
    for a, b in zip(before.search(vectors[:5], 7), after.search(vectors[:5], 7), strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_array_equal(a.scores, b.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_finds_the_same_by_itself_and_among_many_whatever_the_threads_share_out(kind: str) -> None:
    photos = PhotoIndex(build(clustered(3000), kind), np.array([f"{row:04d}" for row in range(3000)]), "none")
    queries = clustered(40, seed=1)
    together = photos.search(queries, 10)
    for query, other in zip(queries, together, strict=True):
        (alone,) = photos.search(query[None], 10)
        np.testing.assert_array_equal(alone.rows, other.rows)
        np.testing.assert_allclose(alone.scores, other.scores, rtol=1e-5)


@pytest.mark.parametrize("alignment", ["none", "pretext_csls"])
@pytest.mark.parametrize("reduced", [0, 28])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_tells_how_alike_its_photos_are(kind: str, reduced: int, alignment: str) -> None:
    vectors = clustered(2000)
    shown = vectors.copy()
    if alignment == "pretext_csls":
        # How much of a hub a photo is stands in the last number, and says nothing of what it shows.
        vectors[:, -1] = -np.random.default_rng(1).uniform(0, 0.5, len(vectors))
        shown[:, -1] = 0
    rows = np.random.default_rng(2).permutation(2000)[:50]
    names = np.array([f"{row:04d}" for row in range(2000)])
    found = PhotoIndex(build(vectors, kind, reduced=reduced), names, alignment).alike(rows)
    wanted = shown[rows] @ shown[rows].T
    if kind == "exact" or (kind == "hnsw" and not reduced):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_few_photos_of_a_diversified_list_are_the_first_of_many(kind: str) -> None:
    vectors, queries = clustered(600), clustered(8, seed=1)
    index = PhotoIndex(build(vectors, kind, reduced=16), np.array([f"{row:03d}" for row in range(600)]), "none")
    plain, few, many = (index.search(queries, *asked) for asked in ((5,), (5, 0.5), (200, 0.5)))
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a.rows[0], b.rows[0, :5])
        np.testing.assert_array_equal(a.scores[0], b.scores[0, :5])
    assert any(not np.array_equal(a.rows, b.rows) for a, b in zip(plain, few, strict=True))


def test_an_index_lists_its_rows_only_for_diversified_lists() -> None:
    index: Any = build(clustered(600), "ivf")
    named = PhotoIndex(index, np.array([f"{row:03d}" for row in range(600)]), "none")
    for diversity, listed in ((0.0, False), (0.5, True)):
        named.search(clustered(2, seed=1), 5, diversity)
        assert index.direct_map.no() is not listed


def test_copies_of_a_photo_rank_by_name() -> None:
    vectors = np.repeat(clustered(5), 4, axis=0)
    names = np.array([f"{row:02d}" for row in np.random.default_rng(0).permutation(20)])
    (ranked,) = PhotoIndex(build(vectors, "exact"), names, "none").search(vectors[:1], 20)
    best = names[ranked.rows[0][:4]].tolist()
    assert best == sorted(names[:4].tolist())


def test_the_worker_builds_opens_and_searches_and_tells_failures_in_words(tmp_path: Path) -> None:
    names = [f"photo {row}" for row in range(30)]
    table = write_embeddings(tmp_path / "photos.parquet", names, clustered(30))
    worker = Worker()
    assert worker.answer(("search", clustered(1), 3, 0.0)) == ("failed", "no index is open")
    state, facts = worker.answer(("build", BuildJob((table,), None, "none", "auto", 16, tmp_path / "index")))
    assert (state, facts.count, facts.settings) == ("done", 30, f"exact, {WIDTH} numbers")
    assert worker.answer(("open", tmp_path / "index", 1)) == ("done", facts)
    state, ((rows, scores),) = worker.answer(("search", clustered(30)[4:5], 3, 0.0))
    assert rows[0] == 4
    assert scores[0] == pytest.approx(1, abs=1e-5)
    state, words = worker.answer(("open", tmp_path / "none", 1))
    assert state == "failed"
    assert "photos.parquet" in words


def test_an_index_that_does_not_fit_its_names_is_refused(tmp_path: Path) -> None:
    PhotoIndex(build(clustered(9), "exact"), np.array(list("abcdefghi")), "none").save(tmp_path / "a")
    PhotoIndex(build(clustered(8), "exact"), np.array(list("abcdefgh")), "none").save(tmp_path / "b")
    (tmp_path / "b/photos.faiss").replace(tmp_path / "a/photos.faiss")
    with pytest.raises(PipelineError, match="was not written with the file beside it"):
        PhotoIndex.load(tmp_path / "a")


@pytest.mark.parametrize("factory", ["IVF10,SQ8", "PCA24,IVF10,Flat", "HNSW16,SQ8", "PCA24,Flat"])
def test_a_factory_string_of_faiss_is_a_kind_of_its_own(factory: str, tmp_path: Path) -> None:
    vectors, names = clustered(600), [f"{row:03d}" for row in range(600)]
    table = EmbeddingTable.open(write_embeddings(tmp_path / "photos.parquet", names, vectors))
    index = PhotoIndex.build(table, Alignment(WIDTH), "none", factory, reduced=16)
    assert f"{24 if 'PCA24' in factory else 16} numbers of {WIDTH}" in index.facts.settings
    index.save(tmp_path / "index")
    loaded = PhotoIndex.load(tmp_path / "index")
    assert loaded.facts == index.facts
    found = loaded.search(vectors[:20], 5, 0.5)
    assert np.mean([one.rows[0, 0] == row for row, one in enumerate(found)]) > 0.8


@pytest.mark.parametrize(
    ("kind", "why"), [("nonsense", "could not parse"), ("IVF500,Flat", r"\(30\).*clusters \(500\)")]
)
def test_a_kind_that_fails_names_the_key_and_the_ways_out(kind: str, why: str) -> None:
    with pytest.raises(
        PipelineError, match=rf"index\.kind: {kind} can't be built.*{why}.*auto, exact, ivf, hnsw, rabitq"
    ):
        build(clustered(30), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_ranking_holds_every_photo_once_and_those_that_are_not_found_last_by_name(kind: str) -> None:
    vectors, queries = clustered(3000), clustered(9, seed=1)
    names = np.array([f"{row:04d}" for row in np.random.default_rng(0).permutation(3000)])
    raw: Any = build(vectors, kind)
    if kind in ("ivf", "rabitq"):
        inner_of(raw).nprobe = 3
    index = PhotoIndex(raw, names, "none")
    (block,) = index.rank_all([queries], 0.3)
    np.testing.assert_array_equal(np.sort(block.rows), np.tile(np.arange(3000), (9, 1)))
    for rows, scores, found in zip(block.rows, block.scores, index.search(queries, 3000, 0.3), strict=True):
        count = found.rows.shape[1]
        np.testing.assert_array_equal(rows[:count], found.rows[0])
        assert names[rows[count:]].tolist() == sorted(names[rows[count:]].tolist())
        assert np.isneginf(scores[count:]).all()
        assert (count == 3000) == (kind == "exact")


@pytest.mark.parametrize("kind", [*KINDS, "auto", "IVF10,Flat"])
def test_a_gallery_without_photos_can_be_of_any_kind(kind: str) -> None:
    index = PhotoIndex(build(clustered(0), kind, reduced=16), np.empty(0, np.str_), "none")
    assert [one.rows.shape for one in index.search(clustered(2), 5)] == [(1, 0)] * 2
