"""Whitening against the matrix that it stands for, and what it is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline_lib.embedding.alignment import FILE_NAME, Alignment, Kind, fit_pretext, normalise, of_kind
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.embedding.whitening import RANK, whiten
from pipeline_lib.errors import PipelineError
from tests.support import write_embeddings

Matrix = NDArray[np.float32]


def differences(count: int, dimension: int, seed: int = 0) -> Matrix:
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.1, 2.0, dimension)
    return (rng.standard_normal((count, dimension)) * spread).astype(np.float32)


@pytest.mark.parametrize(("count", "dimension"), [(200, 12), (12, 12), (7, 30)])
@pytest.mark.parametrize("shrinkage", [0.1, 1.0])
def test_it_is_the_inverse_root_of_the_shrunk_covariance(count: int, dimension: int, shrinkage: float) -> None:
    values = differences(count, dimension)
    directions, gains = whiten(values, shrinkage)
    covariance = values.T.astype(np.float64) @ values / count
    level = shrinkage * np.trace(covariance) / dimension
    squares, vectors = np.linalg.eigh(covariance + level * np.eye(dimension))
    expected = vectors @ np.diag(squares**-0.5) @ vectors.T * np.sqrt(level)
    found = np.eye(dimension) + directions.T @ np.diag(gains) @ directions
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_directions_are_orthonormal_and_gains_shorten() -> None:
    directions, gains = whiten(differences(40, 16))
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-5)
    assert ((gains <= 0) & (gains > -1)).all()
    assert (np.diff(gains) >= 0).all()  # the largest differences are shortened most


def test_no_more_directions_than_the_rank_allows() -> None:
    directions, gains = whiten(differences(700, 600))
    assert directions.shape == (RANK, 600)
    assert gains.shape == (RANK,)


def test_pairs_that_do_not_differ_change_nothing() -> None:
    directions, gains = whiten(np.zeros((5, 8), np.float32))
    assert directions.shape == (0, 8)
    assert gains.shape == (0,)


def pairs_with_noise(seed: int, count: int) -> tuple[Matrix, Matrix]:
    """Content in 60 numbers, shared; a strong difference between the domains in 4 others."""
    rng = np.random.default_rng(seed)
    content = rng.standard_normal((count, 60))
    sides = [np.hstack([content, rng.standard_normal((count, 4)) * 8]) for _ in range(2)]
    return sides[0].astype(np.float32), sides[1].astype(np.float32)


def write_folder(folder: Path) -> tuple[EmbeddingTable, EmbeddingTable]:
    """Embeddings whose pretext pairs show what gallery and queries suffer from."""
    names = [f"image/{number}" for number in range(300)]
    for table, seed in (("pretext", 0), ("gallery", 1)):
        first, second = pairs_with_noise(seed, 300)
        for side, vectors in (("photos", first), ("edges" if table == "pretext" else "sketches", second)):
            name = f"pretext_{side}" if table == "pretext" else side
            write_embeddings(folder / f"{name}.parquet", names, vectors)
    return EmbeddingTable.open(folder / "photos.parquet"), EmbeddingTable.open(folder / "sketches.parquet")


def test_what_pairs_differ_in_counts_less_and_partners_are_found(tmp_path: Path) -> None:
    photos, sketches = write_folder(tmp_path)

    def found(alignment: Alignment) -> float:
        similar = alignment.apply(sketches.read(), "sketch") @ alignment.apply(photos.read(), "photo").T
        return float((similar.argmax(axis=1) == np.arange(300)).mean())

    plain, whitened = (found(of_kind(kind, photos, sketches)) for kind in ("pretext_mean", "pretext_whitened"))
    assert plain < 0.3
    assert whitened > 0.9


@pytest.mark.parametrize("kind", ["pretext_mean", "pretext_whitened", "pretext_csls"])
def test_the_fitted_file_gives_the_same_as_fitting_anew(tmp_path: Path, kind: Kind) -> None:
    photos, sketches = write_folder(tmp_path)
    anew = of_kind(kind, photos, sketches).apply(photos.read(), "photo")
    fit_pretext(tmp_path).save(tmp_path / FILE_NAME)
    np.testing.assert_allclose(of_kind(kind, photos, sketches).apply(photos.read(), "photo"), anew)
    means = of_kind("pretext_mean", photos, sketches)
    assert means.chain == ("mean",)
    assert Alignment.load(tmp_path / FILE_NAME).as_kind("none") == Alignment(photos.dimension)


def test_aligned_rows_have_length_one(tmp_path: Path) -> None:
    photos, sketches = write_folder(tmp_path)
    rows = of_kind("pretext_whitened", photos, sketches).apply(sketches.read(), "sketch")
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert not np.allclose(rows, normalise(sketches.read()))


@pytest.mark.parametrize("kind", ["pretext_whitened", "pretext_csls"])
def test_a_file_without_what_a_kind_needs_says_what_to_do(tmp_path: Path, kind: Kind) -> None:
    photos, sketches = write_folder(tmp_path)
    Alignment(photos.dimension).fitted(("mean",), photos, sketches).save(tmp_path / FILE_NAME)
    with pytest.raises(PipelineError, match=rf"{kind} was not fitted.*dvc repro"):
        of_kind(kind, photos, sketches)


def test_a_file_of_before_there_was_a_hubness_correction_still_whitens(tmp_path: Path) -> None:
    photos, sketches = write_folder(tmp_path)
    fitted = fit_pretext(tmp_path)
    older = {chain: step for chain, step in fitted.steps.items() if "hubness" not in chain}
    replace(fitted, steps=older).save(tmp_path / FILE_NAME)
    assert of_kind("pretext_whitened", photos, sketches).aligned_dimension == photos.dimension
    with pytest.raises(PipelineError, match=r"pretext_csls was not fitted.*dvc repro"):
        of_kind("pretext_csls", photos, sketches)


def test_each_part_of_a_vector_is_aligned_by_itself_and_inner_products_are_the_mean(tmp_path: Path) -> None:
    tables = write_folder(tmp_path)
    names = ("photos", "sketches", "pretext_photos", "pretext_edges")
    widths, sides = (24, 40), ("left", "right")
    for name in names:
        table = EmbeddingTable.open(tmp_path / f"{name}.parquet")
        for side, part in zip(sides, np.split(table.read(), [24], axis=1), strict=True):
            write_embeddings(tmp_path / side / f"{name}.parquet", list(table.labels.image_ids), part)

    def similar(alignment: Alignment, photos: Matrix, sketches: Matrix) -> Matrix:
        return np.asarray(alignment.apply(sketches, "sketch") @ alignment.apply(photos, "photo").T)

    whole = fit_pretext(tmp_path, widths)
    whole.save(tmp_path / FILE_NAME)
    for kind in ("pretext_mean", "pretext_whitened"):
        apart = [
            similar(
                of_kind(kind, *(read := [EmbeddingTable.open(tmp_path / side / f"{n}.parquet") for n in names[:2]])),
                *(table.read() for table in read),
            )
            for side in sides
        ]
        found = similar(Alignment.load(tmp_path / FILE_NAME).as_kind(kind), *(table.read() for table in tables))
        np.testing.assert_allclose(found, np.mean(apart, axis=0), atol=1e-5)
    assert not np.allclose(found, similar(fit_pretext(tmp_path).as_kind(kind), *(table.read() for table in tables)))


def test_parts_that_do_not_make_the_vector_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(ValueError, match=r"parts of \(3, 4\) numbers do not make a vector of 64"):
        fit_pretext(tmp_path, (3, 4))


def test_tables_of_other_images_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    first, _ = pairs_with_noise(0, 300)
    write_embeddings(tmp_path / "pretext_edges.parquet", [f"other/{number}" for number in range(300)], first)
    with pytest.raises(PipelineError, match=r"pretext_edges\.parquet: holds other images"):
        fit_pretext(tmp_path)
