from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import chi2_kernel, cosine_similarity

from pipeline_lib.data.schemas import embeddings_schema, write_table
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.evaluation.similarity import bins_of, chi2, intersection, score_blocks


def histograms(seed: int, count: int, size: int = 9) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.gamma(0.3, size=(count, size)) * (rng.random((count, size)) < 0.6) + 1e-3 * np.eye(count, size)
    return np.asarray(values / values.sum(axis=1, keepdims=True), np.float32)


def table(path: Path, vectors: np.ndarray) -> EmbeddingTable:
    names = [pa.array([f"{path.stem}{row:02d}" for row in range(len(vectors))]) for _ in range(3)]
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    write_table(path, pa.table([*names, values], schema=embeddings_schema(vectors.shape[1])))
    return EmbeddingTable.open(path)


@given(st.integers(0, 1000))
@settings(deadline=None)
def test_intersection_of_histograms_is_one_less_half_their_difference(seed: int) -> None:
    photos, query = histograms(seed, 5), histograms(seed + 1, 1)[0]
    assert np.allclose(intersection(query, bins_of(photos)), 1 - np.abs(photos - query).sum(axis=1) / 2, atol=1e-6)


@given(st.integers(0, 1000))
@settings(deadline=None)
def test_chi_square_agrees_with_scikit_learn(seed: int) -> None:
    photos, query = histograms(seed, 5), histograms(seed + 1, 1)
    assert np.allclose(np.exp(chi2(query[0], bins_of(photos))), chi2_kernel(query, photos, gamma=1.0)[0], atol=1e-5)


@pytest.mark.parametrize("form", ["none", "intersection", "chi2", "hellinger", "transductive_mean"])
def test_a_part_is_scored_as_if_there_were_nothing_else(form: str, tmp_path: Path) -> None:
    photos, sketches = histograms(0, 8), histograms(1, 6)
    rows = np.array([1, 4, 5]), np.array([0, 3, 4])
    part = np.concatenate(
        list(score_blocks(table(tmp_path / "p", photos), table(tmp_path / "s", sketches), form, rows))
    )
    alone = [table(tmp_path / "p2", photos[rows[0]]), table(tmp_path / "s2", sketches[rows[1]])]
    everything = np.arange(3), np.arange(3)
    assert np.allclose(part, np.concatenate(list(score_blocks(alone[0], alone[1], form, everything))), atol=1e-6)


def test_the_plain_form_is_the_cosine(tmp_path: Path) -> None:
    photos, sketches = histograms(0, 8), histograms(1, 6)
    found = score_blocks(
        table(tmp_path / "p", photos), table(tmp_path / "s", sketches), "none", (np.arange(8), np.arange(6))
    )
    assert np.allclose(np.concatenate(list(found)), cosine_similarity(sketches, photos), atol=1e-6)


def test_an_unknown_form_is_refused(tmp_path: Path) -> None:
    one = table(tmp_path / "p", histograms(0, 8))
    with pytest.raises(ValueError, match="unknown"):
        score_blocks(one, one, "euclid", (np.arange(8), np.arange(8)))
