from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib import intervals
from pipeline_lib.intervals import bootstrap_difference, bootstrap_mean, bootstrap_ratio, bootstrap_ratios


def reference(
    numerators: list[float], denominators: list[float], clusters: list[str], resamples: int
) -> tuple[float, float]:
    """The definition, one draw at a time and with draws of its own."""
    rng = np.random.default_rng(99)
    names = sorted(set(clusters))
    members = {name: [row for row, c in enumerate(clusters) if c == name] for name in names}
    samples = []
    for _ in range(resamples):
        rows = [row for name in rng.choice(names, len(names)) for row in members[name]]
        samples.append(sum(numerators[row] for row in rows) / sum(denominators[row] for row in rows))
    return float(np.quantile(samples, 0.025)), float(np.quantile(samples, 0.975))


def test_interval_equals_the_definition_within_its_own_noise() -> None:
    rng = np.random.default_rng(0)
    clusters = [f"image{n}" for n in rng.integers(0, 40, 200)]
    denominators = rng.integers(1, 24, 200).astype(float)
    numerators = rng.binomial(denominators.astype(int), 0.3).astype(float)
    got = bootstrap_ratio(numerators, denominators, np.array(clusters), 6000, 0)
    low, high = reference(numerators.tolist(), denominators.tolist(), clusters, 3000)
    assert got.estimate == pytest.approx(numerators.sum() / denominators.sum())
    assert got.low == pytest.approx(low, abs=0.0015)
    assert got.high == pytest.approx(high, abs=0.0015)


def test_rows_of_one_cluster_are_drawn_together() -> None:
    # 30 photos with 20 sketches each that all hit or all miss: the sample holds 30 independent facts, not 600.
    hits = np.repeat(np.arange(30) % 2, 20).astype(float)
    together = bootstrap_ratio(hits, np.ones(600), np.repeat(np.arange(30), 20), 2000, 0)
    apart = bootstrap_ratio(hits, np.ones(600), np.arange(600), 2000, 0)
    assert together.estimate == apart.estimate == 0.5
    widths = [interval.high - interval.low for interval in (together, apart)]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(20), rel=0.15)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        chances = rng.beta(2, 3, 60)  # each photo has its own difficulty; the mean is 0.4
        hits = rng.random((60, 4)) < chances[:, None]
        interval = bootstrap_ratio(hits.ravel(), np.ones(240), np.repeat(np.arange(60), 4), 400, trial)
        covered += interval.low <= 0.4 <= interval.high
    assert 180 <= covered <= 198


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=30), st.integers(0, 10))
def test_the_interval_is_repeatable_lies_within_the_data_and_ignores_names(
    rows: list[tuple[float, int]], seed: int
) -> None:
    values, clusters = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    interval = bootstrap_ratio(values, np.ones(len(values)), clusters, 200, seed)
    assert values.min() - 1e-9 <= interval.low <= interval.high <= values.max() + 1e-9
    assert interval == bootstrap_ratio(values, np.ones(len(values)), clusters, 200, seed)
    renamed = np.array([f"photo {c}" for c in clusters])
    assert interval == bootstrap_ratio(values, np.ones(len(values)), renamed, 200, seed)


def test_drawing_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, clusters = np.random.default_rng(0).random((50, 2)), np.arange(50) // 2
    whole = bootstrap_mean(values, clusters, 300, 7)
    monkeypatch.setattr(intervals, "BLOCK_DRAWS", 60)
    np.testing.assert_allclose(bootstrap_mean(values, clusters, 300, 7), whole, rtol=1e-12)


def test_undefined_values_are_left_out_column_by_column() -> None:
    values = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, np.nan], [1.0, np.nan]])
    first, second = bootstrap_mean(values, np.arange(4), 500, 0)
    assert first.estimate == pytest.approx(2 / 3)
    assert first.low < first.estimate < first.high
    assert all(np.isnan(second))


def test_nothing_at_all_gives_no_figure() -> None:
    assert all(np.isnan(bootstrap_ratio(np.empty(0), np.empty(0), np.empty(0), 100, 0)))


def test_a_system_against_itself_differs_by_exactly_zero() -> None:
    values = np.random.default_rng(0).random((300, 3))
    values[::7, 1] = np.nan
    for interval in bootstrap_difference(values, values, np.arange(300) // 5, 500, 0):
        assert interval == (0.0, 0.0, 0.0)


def test_paired_intervals_are_narrower_where_systems_agree() -> None:
    rng = np.random.default_rng(1)
    worse = (rng.random((400, 1)) < 0.4).astype(float)
    better = np.maximum(worse, (rng.random((400, 1)) < 0.05).astype(float))
    (paired,) = bootstrap_difference(better, worse, np.arange(400), 2000, 0)
    (one,) = bootstrap_mean(better, np.arange(400), 2000, 0)
    assert paired.low > 0
    assert paired.high - paired.low < 0.5 * (one.high - one.low)


def test_systems_on_other_queries_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="same queries"):
        bootstrap_difference(np.zeros((3, 1)), np.zeros((2, 1)), np.arange(3), 100, 0)
    with pytest.raises(ValueError, match="same places"):
        bootstrap_difference(np.zeros((2, 1)), np.array([[0.0], [np.nan]]), np.arange(2), 100, 0)


@pytest.mark.parametrize(("numerator", "denominator"), [(np.nan, 1.0), (1.0, np.inf), (1.0, -1.0)])
def test_values_that_cannot_be_averaged_are_refused(numerator: float, denominator: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap_ratios(np.array([[numerator]]), np.array([[denominator]]), np.arange(1), 100, 0)
