from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from pipeline_lib.index import ranking
from pipeline_lib.index.ranking import TieBreak, rank, rank_scores


def names(count: int, seed: int = 0) -> NDArray[np.str_]:
    return np.random.default_rng(seed).permutation([f"photo{n}" for n in range(count)]).astype(np.str_)


@given(
    npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 12)),
        elements=st.sampled_from([-np.inf, -2.5, -1e-30, -0.0, 0.0, 1e-30, 0.1, 0.25, 3e38, np.inf]),
    ),
    st.integers(0, 100),
)
def test_ranking_equals_sorting_by_score_and_then_by_name(scores: NDArray[np.float32], seed: int) -> None:
    ids = names(scores.shape[1], seed)
    ranked = rank(scores, TieBreak.of(ids))
    for row, got, values in zip(scores, ranked.rows, ranked.scores, strict=True):
        wanted = sorted(range(len(ids)), key=lambda column: (-row[column], ids[column]))
        assert got.tolist() == wanted
        np.testing.assert_array_equal(values, row[wanted])


def test_random_scores_equal_argsort() -> None:
    scores = np.random.default_rng(0).standard_normal((20, 500)).astype(np.float32)
    blocks = list(rank_scores(scores, names(500)))
    np.testing.assert_array_equal(np.concatenate([block.rows for block in blocks]), np.argsort(-scores, axis=1))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).integers(0, 5, (50, 30)).astype(np.float32)
    whole = np.concatenate([block.rows for block in rank_scores(scores, names(30))])
    monkeypatch.setattr(ranking, "BLOCK_SCORES", 100)
    blocks = list(rank_scores(scores, names(30)))
    assert len(blocks) == 17
    np.testing.assert_array_equal(np.concatenate([block.rows for block in blocks]), whole)


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        list(rank_scores(np.array([[1.0, np.nan]]), names(2)))


def test_scores_must_fit_the_gallery() -> None:
    with pytest.raises(ValueError, match="gallery of 3"):
        list(rank_scores(np.zeros((2, 2)), names(3)))
