from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.evaluation.li_score import by_chance, by_oracle, li_scores, mean_over_classes

IDS = np.array([f"p{number:02d}" for number in range(12)])


def ratings(seed: int, sketches: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9, (sketches, len(IDS)))


def test_the_sum_over_the_first_five_and_ten_by_hand() -> None:
    rated = np.arange(12)[None, :] % 9
    scores = -np.arange(12.0)[None, :]  # ranks 0, 1, 2, ...
    assert li_scores(scores, rated, IDS).tolist() == [[0 + 1 + 2 + 3 + 4, sum(range(9)) + 0]]


def test_ties_break_by_image_id_and_photos_without_score_come_last() -> None:
    rated = np.arange(12)[None, :] % 9
    scores = np.full((1, 12), 1.0)
    scores[0, :3] = -np.inf
    assert li_scores(scores, rated, IDS)[0, 0] == 3 + 4 + 5 + 6 + 7


@given(st.integers(0, 1000))
def test_no_ranking_beats_the_oracle(seed: int) -> None:
    rated = ratings(seed)
    scores = np.random.default_rng(seed + 1).normal(size=rated.shape)
    assert (li_scores(scores, rated, IDS) <= by_oracle(rated)).all()
    assert np.array_equal(li_scores(rated.astype(float), rated, IDS), by_oracle(rated))


def test_chance_is_the_mean_over_all_orders() -> None:
    rated = np.array([[0, 8, 3, 1, 5, 2, 7]])
    orders = list(itertools.permutations(range(7)))
    scores = np.array(orders, float)
    ids = np.array(list("abcdefg"))
    found = li_scores(scores, np.repeat(rated, len(orders), axis=0), ids).mean(axis=0)
    assert np.allclose(by_chance(rated)[0, 0], found[0])
    assert np.allclose(by_chance(rated)[0, 1], rated.sum())  # ten of seven are all


def test_classes_count_alike_whatever_their_number_of_sketches() -> None:
    values = {"a": np.array([[10.0], [20.0]]), "b": np.array([[40.0]] * 9)}
    (interval,) = mean_over_classes(values, 200, 0)
    assert interval.estimate == pytest.approx((15 + 40) / 2)
    assert interval.low == pytest.approx((10 + 40) / 2)
    assert interval.high == pytest.approx((20 + 40) / 2)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_a_system_against_itself_differs_by_nothing(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(6, 2))
    assert all(end == 0 for interval in mean_over_classes({"a": values - values}, 100, 0) for end in interval)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        li_scores(np.zeros((1, 3)), np.zeros((1, 4)), IDS)
