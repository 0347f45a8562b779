"""Alignments against formulas written out, and what is fitted, saved and refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from pipeline_lib.embedding.alignment import (
    FILE_NAME,
    KINDS,
    Alignment,
    Domain,
    Kind,
    Mean,
    fit_pretext,
    normalise,
    of_kind,
)
from pipeline_lib.embedding.hubness import Hubness
from pipeline_lib.embedding.vectors import BATCH_ROWS, EmbeddingTable, Labels
from pipeline_lib.embedding.whitening import Whitening
from pipeline_lib.errors import PipelineError
from tests.support import write_embeddings

Matrix = NDArray[np.float32]
numbers = st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
matrices = npst.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(2, 6)), elements=numbers).filter(
    lambda m: bool(np.abs(m).sum(axis=1).min() > 0)
)
WHITENED = ("mean", "whitening")


@dataclass(frozen=True)
class Held(EmbeddingTable):
    """A table whose batches are in memory."""

    parts: Sequence[Matrix] = ()

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[Matrix]:  # noqa: ARG002  as they were given
        yield from self.parts


def held(parts: Sequence[Matrix], dimension: int) -> Held:
    ids = [str(number) for number in range(sum(map(len, parts)))]
    return Held(Path("held"), Labels.of(ids, ids, ids), dimension, parts)


def fit(photos: Sequence[Matrix], sketches: Sequence[Matrix]) -> Alignment:
    """Means of batches of vectors."""
    dimension = photos[0].shape[1]
    return Alignment(dimension).fitted(("mean",), held(photos, dimension), held(sketches, dimension))


def mean_of(alignment: Alignment) -> Mean:
    step = alignment.steps["mean",]
    assert isinstance(step, Mean)
    return step


def whitening_of(alignment: Alignment) -> Whitening:
    step = alignment.steps[WHITENED]
    assert isinstance(step, Whitening)
    return step


@given(matrices)
def test_normalised_rows_have_length_one_and_keep_their_direction(vectors: Matrix) -> None:
    unit = normalise(vectors)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(unit * np.linalg.norm(vectors, axis=1, keepdims=True), vectors, rtol=1e-4, atol=1e-4)


@given(matrices)
def test_alignment_none_only_normalises(vectors: Matrix) -> None:
    none = Alignment(vectors.shape[1])
    np.testing.assert_array_equal(none.apply(vectors, "photo"), normalise(vectors))
    np.testing.assert_array_equal(none.apply(vectors, "sketch"), normalise(vectors))


@given(matrices, matrices.map(np.abs), st.floats(0.01, 100))
def test_aligned_rows_have_length_one_or_zero_whatever_their_scale(photos: Matrix, other: Matrix, scale: float) -> None:
    sketches = np.resize(other, (len(other), photos.shape[1])) + np.float32(0.5)
    alignment = fit([photos], [sketches])
    aligned = alignment.apply(photos, "photo")
    lengths = np.linalg.norm(aligned, axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-5) | (lengths == 0))
    # Where a row almost equals the mean, rounding decides its direction.
    clear = np.linalg.norm(normalise(photos) - mean_of(alignment).photo, axis=1) > 1e-2
    scaled = alignment.apply(photos * np.float32(scale), "photo")
    np.testing.assert_allclose(scaled[clear], aligned[clear], atol=1e-4)


@given(matrices, matrices)
def test_each_domain_loses_its_own_mean(photos: Matrix, other: Matrix) -> None:
    sketches = np.resize(other, (len(other), photos.shape[1])) + np.float32(0.25)
    sketches = sketches[np.abs(sketches).sum(axis=1) > 0]
    if not len(sketches):
        return
    alignment = fit([photos], [sketches])
    np.testing.assert_allclose((normalise(photos) - mean_of(alignment).photo).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose((normalise(sketches) - mean_of(alignment).sketch).mean(axis=0), 0, atol=1e-6)


@settings(max_examples=30)
@given(matrices, st.integers(1, 5))
def test_means_do_not_depend_on_how_rows_are_batched(vectors: Matrix, size: int) -> None:
    batches = [vectors[start : start + size] for start in range(0, len(vectors), size)]
    whole, parts = fit([vectors], [vectors]), fit(batches, batches)
    np.testing.assert_allclose(mean_of(parts).photo, mean_of(whole).photo, atol=1e-7)
    np.testing.assert_array_equal(mean_of(parts).photo, mean_of(parts).sketch)


def test_alignment_by_hand() -> None:
    photos = np.array([[3, 0], [0, 2]], np.float32)  # unit: (1, 0), (0, 1); mean (.5, .5)
    sketches = np.array([[0, -5]], np.float32)  # mean (0, -1)
    alignment = fit([photos], [sketches])
    np.testing.assert_allclose(mean_of(alignment).photo, [0.5, 0.5])
    np.testing.assert_allclose(mean_of(alignment).sketch, [0, -1])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(alignment.apply(photos, "photo"), [[half, -half], [-half, half]], rtol=1e-6)
    np.testing.assert_allclose(alignment.apply(photos[:1], "sketch"), [[half, half]], rtol=1e-6)


def test_a_vector_that_is_its_domains_mean_becomes_zero_not_noise() -> None:
    vector = np.random.default_rng(1).standard_normal((1, 4096)).astype(np.float32)
    alignment = fit([vector], [vector + 1])
    assert not alignment.apply(vector * 7, "photo").any()
    assert alignment.apply(vector * 7, "sketch").any()


def test_removing_means_undoes_a_shift_between_domains() -> None:
    rng = np.random.default_rng(0)
    content = rng.standard_normal((200, 32)).astype(np.float32)
    photos, sketches = content + 3, content + 5 * rng.standard_normal(32).astype(np.float32)

    def found(alignment: Alignment) -> float:
        scores = alignment.apply(sketches, "sketch") @ alignment.apply(photos, "photo").T
        return float(np.mean(scores.argmax(axis=1) == np.arange(200)))

    assert found(fit([photos], [sketches])) > 0.9
    assert found(Alignment(32)) < 0.5


def test_facing_by_hand() -> None:
    alignment = Alignment(4, facing=4.0)
    # A vector and that of the mirror image, (1, 0) and (0, 1), share (1, 1) and differ in (1, -1), now twice as long.
    (found,) = alignment.apply(np.array([[3, 0, 0, 5]], np.float32), "photo")
    np.testing.assert_allclose(found, np.array([1, 1, 2, -2]) / np.sqrt(10), rtol=1e-6)
    assert alignment.dimension == alignment.aligned_dimension == 4
    two = replace(alignment, steps={("whitening",): whitening((2, 1))}, chain=("whitening",))
    with pytest.raises(ValueError, match="longer"):  # a whitening of two parts for vectors of one
        two.apply(np.ones((1, 4), np.float32), "photo")


def whitening(widths: Sequence[int]) -> Whitening:
    rng = np.random.default_rng(0)
    differences = rng.standard_normal((40, sum(widths))).astype(np.float32)
    return Whitening.of_differences(differences, Alignment(sum(widths), tuple(widths)))


@pytest.mark.parametrize("widths", [(), (5, 7)])
def test_facing_weighs_what_mirror_images_differ_in(widths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    mean, photos, sketches = (rng.standard_normal(shape).astype(np.float32) for shape in (12, (6, 24), (4, 24)))
    steps = {("mean",): Mean(mean, -mean), WHITENED: whitening(widths or (12,))}
    plain = Alignment(12, widths, steps=steps, chain=WHITENED)
    ends = np.cumsum(widths)[:-1]

    def similarity(first: Matrix, second: Matrix, facing: float) -> Matrix:
        alignment = replace(plain, dimension=24, facing=facing)
        return np.asarray(alignment.apply(first, "photo") @ alignment.apply(second, "sketch").T)

    def sides(vectors: Matrix, domain: Domain) -> tuple[list[Matrix], list[Matrix]]:
        own, other = (plain.apply(view, domain) for view in np.hsplit(vectors, 2))
        return np.split(own + other, ends, axis=1), np.split(own - other, ends, axis=1)

    for facing in (1.0, 2.5):
        expected = []
        for even, odd, even_, odd_ in zip(*sides(photos, "photo"), *sides(sketches, "sketch"), strict=True):
            lengths = [
                np.sqrt((e**2).sum(axis=1) + facing * (o**2).sum(axis=1)) for e, o in ((even, odd), (even_, odd_))
            ]
            expected.append((even @ even_.T + facing * odd @ odd_.T) / np.outer(*lengths))
        np.testing.assert_allclose(similarity(photos, sketches, facing), np.mean(expected, axis=0), atol=1e-5)
    # Two images that are both mirrored are as alike as they were; one alone is not.
    photos_, sketches_ = (np.hstack(np.hsplit(vectors, 2)[::-1]) for vectors in (photos, sketches))
    np.testing.assert_allclose(similarity(photos_, sketches_, 2.5), similarity(photos, sketches, 2.5), atol=1e-5)
    assert not np.allclose(similarity(photos_, sketches, 2.5), similarity(photos, sketches, 2.5), atol=1e-2)


def test_a_mirrored_photo_and_its_mirrored_edges_are_a_pair_to_fit_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    both = {name: rng.standard_normal((12, 10)).astype(np.float32) for name in ("pretext_photos", "pretext_edges")}
    ids = [str(number) for number in range(24)]
    for name, vectors in both.items():
        write_embeddings(tmp_path / "facing" / f"{name}.parquet", ids[:12], vectors)
        write_embeddings(tmp_path / "apart" / f"{name}.parquet", ids, np.concatenate(np.hsplit(vectors, 2)))
    facing, apart = fit_pretext(tmp_path / "facing", facing=2.0), fit_pretext(tmp_path / "apart")
    np.testing.assert_allclose(mean_of(facing).photo, mean_of(apart).photo, atol=1e-6)
    np.testing.assert_allclose(mean_of(facing).sketch, mean_of(apart).sketch, atol=1e-6)
    vectors = rng.standard_normal((3, 5)).astype(np.float32)
    first, second = (whitening_of(each).apply(vectors, "photo", Alignment(5)) for each in (facing, apart))
    np.testing.assert_allclose(first, second, atol=1e-5)
    hubness = facing.steps["mean", "whitening", "hubness"]
    assert isinstance(hubness, Hubness)
    assert hubness.edges.shape == (12, 10)


def test_a_fitted_alignment_comes_back_whole(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)
    for name in ("pretext_photos", "pretext_edges"):
        rows = np.random.default_rng(len(name)).standard_normal((9, 6)).astype(np.float32)
        write_embeddings(tmp_path / f"{name}.parquet", [str(number) for number in range(9)], rows)
    fitted = fit_pretext(tmp_path, (1, 2), 3.0)
    fitted.save(tmp_path / FILE_NAME)
    loaded = Alignment.load(tmp_path / FILE_NAME)
    assert (loaded.widths, loaded.facing, loaded.dimension) == ((1, 2), 3.0, 6)
    assert [loaded.as_kind(kind).aligned_dimension for kind in ("pretext_whitened", "pretext_csls")] == [6, 7]
    for kind in ("none", "pretext_mean", "pretext_whitened", "pretext_csls"):
        expected = fitted.as_kind(kind).apply(vectors, "photo")
        np.testing.assert_array_equal(loaded.as_kind(kind).apply(vectors, "photo"), expected)


def test_steps_that_are_fitted_are_not_fitted_again(tmp_path: Path) -> None:
    photos, sketches = tables(tmp_path, sketches=5)
    first = Alignment(3).fitted(("mean",), photos, sketches)
    both = first.fitted(WHITENED, photos, sketches)
    assert both.steps["mean",] is first.steps["mean",]
    assert list(both.steps) == [("mean",), WHITENED]
    assert both.chain == WHITENED


def test_saved_means_come_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mean = Mean(*(rng.standard_normal(8).astype(np.float32) for _ in range(2)))
    saved = Alignment(8, steps={("mean",): mean})
    saved.save(tmp_path / FILE_NAME)
    loaded = Alignment.load(tmp_path / FILE_NAME)
    np.testing.assert_array_equal(mean_of(loaded).photo, mean_of(saved).photo)
    np.testing.assert_array_equal(mean_of(loaded).sketch, mean_of(saved).sketch)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "step"])
def test_an_alignment_file_that_cannot_be_used_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / FILE_NAME
    if damage == "cut":
        Alignment(8).save(path)
        path.write_bytes(path.read_bytes()[:-5])
    if damage == "step":
        Alignment(8, steps={("centring",): Mean(*np.zeros((2, 8), np.float32))}).save(path)
    if damage == "other":
        path.write_text("not safetensors")
    with pytest.raises(PipelineError, match=FILE_NAME):
        Alignment.load(path)


def tables(folder: Path, *, sketches: int = 4) -> tuple[EmbeddingTable, EmbeddingTable]:
    rng = np.random.default_rng(0)
    for name, rows in (("photos", 5), ("sketches", sketches), ("pretext_photos", 6), ("pretext_edges", 6)):
        vectors = rng.standard_normal((rows, 3)).astype(np.float32)
        prefix = name.removesuffix("_photos").removesuffix("_edges")  # a pretext photo and its edges are one image
        write_embeddings(folder / f"{name}.parquet", [f"{prefix}{n}" for n in range(rows)], vectors)
    photos, queries = (EmbeddingTable.open(folder / f"{name}.parquet") for name in ("photos", "sketches"))
    return photos, queries


def test_each_kind_is_fitted_on_what_its_name_says(tmp_path: Path) -> None:
    photos, sketches = tables(tmp_path)
    assert of_kind("none", photos, sketches) == Alignment(3)
    transductive = of_kind("transductive_mean", photos, sketches)
    np.testing.assert_allclose(mean_of(transductive).photo, normalise(photos.read()).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(mean_of(transductive).sketch, normalise(sketches.read()).mean(axis=0), atol=1e-6)
    pretext = of_kind("pretext_mean", photos, sketches)
    edges = EmbeddingTable.open(tmp_path / "pretext_edges.parquet").read()
    np.testing.assert_allclose(mean_of(pretext).sketch, normalise(edges).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_every_kind_aligns_each_part_of_joined_vectors_by_itself(tmp_path: Path, kind: Kind) -> None:
    photos, sketches = tables(tmp_path)
    fit_pretext(tmp_path, (1, 2)).save(tmp_path / FILE_NAME)
    aligned = of_kind(kind, photos, sketches).apply(photos.read(), "photo")
    parts = [np.linalg.norm(part, axis=1) for part in (aligned[:, :1], aligned[:, 1:3])]
    np.testing.assert_allclose(parts, np.sqrt(0.5), rtol=1e-5)


def test_pretext_mean_reads_the_fitted_file_where_there_is_one(tmp_path: Path) -> None:
    photos, sketches = tables(tmp_path)
    mean = Mean(np.full(3, 0.1, np.float32), np.full(3, 0.2, np.float32))
    Alignment(3, steps={("mean",): mean}).save(tmp_path / FILE_NAME)
    np.testing.assert_array_equal(mean_of(of_kind("pretext_mean", photos, sketches)).sketch, mean.sketch)


def test_means_of_another_dimension_are_refused(tmp_path: Path) -> None:
    photos, sketches = tables(tmp_path)
    Alignment(4).save(tmp_path / FILE_NAME)
    with pytest.raises(PipelineError, match=r"alignment\.safetensors.* 4 numbers, but 3"):
        of_kind("pretext_mean", photos, sketches)
    other = EmbeddingTable.open(write_embeddings(tmp_path / "b.parquet", ["a"], np.ones((1, 4), np.float32)))
    with pytest.raises(PipelineError, match=r"b\.parquet.* 4 numbers, but 3"):
        Alignment(3).fitted(("mean",), photos, other)


def test_no_queries_to_fit_on_names_the_param(tmp_path: Path) -> None:
    photos, sketches = tables(tmp_path, sketches=0)
    with pytest.raises(PipelineError, match=r"sketches\.parquet.*retrieval\.alignment"):
        of_kind("transductive_mean", photos, sketches)
    with pytest.raises(PipelineError, match="no vectors to take a mean of"):
        fit([photos.read()], [])
