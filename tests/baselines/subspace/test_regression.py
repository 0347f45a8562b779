from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from pipeline_lib.baselines.subspace import regression
from pipeline_lib.baselines.subspace.regression import fit_jfssl, fit_lcfs
from tests.baselines.subspace.scores import Planted, class_hits


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), first=st.floats(0.0, 5.0), second=st.floats(0.0, 2.0))
def test_the_objective_never_rises(seed: int, first: float, second: float) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 40)
    x, y = rng.normal(size=(40, 7)) + labels[:, None], rng.normal(size=(40, 5)) - labels[:, None]
    for fitted in (
        fit_lcfs(x, y, labels, first, second),
        fit_jfssl(x[:25], labels[:25], y, labels, first, second, neighbours=4),
    ):
        history = np.array(fitted.objective)
        assert (np.diff(history) <= 1e-9 * np.abs(history[:-1])).all()


def test_lcfs_arrives_at_the_minimum_that_a_general_solver_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "TOLERANCE", 1e-12)
    monkeypatch.setattr(regression, "SMOOTH_ROW", 1e-3)
    monkeypatch.setattr(regression, "SMOOTH_SINGULAR", 1e-2)
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 30)
    x, y = rng.normal(size=(30, 5)) + labels[:, None], rng.normal(size=(30, 4)) - labels[:, None]
    xc, yc = x - x.mean(0), y - y.mean(0)
    target = np.eye(3)[labels] - np.eye(3)[labels].mean(0)

    def value(flat: np.ndarray) -> float:
        u, v = flat[:15].reshape(5, 3), flat[15:].reshape(4, 3)
        together = np.hstack([xc @ u, yc @ v])
        trace = np.sqrt(np.linalg.eigvalsh(together @ together.T).clip(0) + 1e-2).sum()
        rows = sum(np.sqrt((w**2).sum(1) + 1e-3).sum() for w in (u, v))
        errors = ((xc @ u - target) ** 2).sum() + ((yc @ v - target) ** 2).sum()
        return float(errors / 2 + 0.7 * rows + 0.4 * trace)

    fitted = fit_lcfs(x, y, labels, 0.7, 0.4, rounds=3000)
    best = minimize(value, np.zeros(27), method="BFGS", options={"gtol": 1e-7})
    assert fitted.objective[-1] == pytest.approx(best.fun, rel=1e-4)
    assert value(
        np.concatenate([fitted.projections.photo.weights.ravel(), fitted.projections.sketch.weights.ravel()])
    ) == (pytest.approx(fitted.objective[-1], rel=1e-6))


def test_jfssl_arrives_at_the_minimum_that_a_general_solver_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "TOLERANCE", 1e-12)
    monkeypatch.setattr(regression, "SMOOTH_ROW", 1e-3)
    rng = np.random.default_rng(6)
    la, lb = rng.integers(0, 3, 20), rng.integers(0, 3, 26)
    x, y = rng.normal(size=(20, 5)) + la[:, None], rng.normal(size=(26, 4)) - lb[:, None]
    xc, yc = x - x.mean(0), y - y.mean(0)
    ta, tb = (np.eye(3)[labels] - np.eye(3)[labels].mean(0) for labels in (la, lb))

    def within(values: np.ndarray) -> np.ndarray:
        distances = cdist(values, values)
        np.fill_diagonal(distances, np.inf)
        near = np.argsort(distances, axis=1)[:, :4]
        chosen = np.take_along_axis(distances, near, axis=1)
        weights = np.zeros_like(distances)
        np.put_along_axis(weights, near, np.exp(-(chosen**2) / (2 * np.median(chosen) ** 2)), axis=1)
        return np.asarray(np.maximum(weights, weights.T))

    def value(flat: np.ndarray) -> float:
        u, v = flat[:15].reshape(5, 3), flat[15:].reshape(4, 3)
        shown = np.vstack([xc @ u, yc @ v])
        between = (la[:, None] == lb[None]).astype(float)
        graph = np.block([[within(xc), between], [between.T, within(yc)]])
        smooth = 0.5 * (graph * cdist(shown, shown) ** 2).sum()
        rows = sum(np.sqrt((w**2).sum(1) + 1e-3).sum() for w in (u, v))
        errors = ((xc @ u - ta) ** 2).sum() + ((yc @ v - tb) ** 2).sum()
        return float(errors + 0.7 * rows + 0.05 * smooth)

    fitted = fit_jfssl(x, la, y, lb, 0.7, 0.05, neighbours=4, rounds=3000)
    best = minimize(value, np.zeros(27), method="BFGS", options={"gtol": 1e-7})
    assert fitted.objective[-1] == pytest.approx(best.fun, rel=1e-4)


def test_strong_sparsity_switches_off_features_that_say_nothing() -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 4, 200)
    useful = 3.0 * np.eye(4)[labels] + 0.3 * rng.normal(size=(200, 4))
    x = np.hstack([useful, rng.normal(size=(200, 10))])
    for fitted in (fit_lcfs(x, x, labels, 5.0, 0.01), fit_jfssl(x, labels, x, labels, 10.0, 0.0001)):
        rows = np.linalg.norm(fitted.projections.photo.weights, axis=1)
        assert rows[4:].max() < 0.02 * rows[:4].min()


def test_the_trace_norm_lowers_the_rank_that_projections_span() -> None:
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 6, 200)
    x = rng.normal(size=(6, 12))[labels] + 0.8 * rng.normal(size=(200, 12))
    spans = []
    for weight in (0.0, 5.0):
        found = fit_lcfs(x, x, labels, 0.01, weight).projections
        values = np.linalg.svd(found.apply(x, "photo"), compute_uv=False)
        spans.append(float(values.sum() / values.max()))
    assert spans[1] < 0.8 * spans[0]


def test_class_regression_finds_the_class_of_samples_never_seen(planted: Planted) -> None:
    train, test = planted.part(slice(300)), planted.part(slice(300, None))
    coupled = fit_lcfs(train.photos, train.sketches, train.labels).projections
    joint = fit_jfssl(train.photos[:150], train.labels[:150], train.sketches[100:], train.labels[100:]).projections
    wrong = fit_jfssl(train.photos[:150], train.labels[:150], train.sketches[100:], train.labels[:200]).projections
    assert class_hits(coupled, test.photos, test.sketches, test.labels) > 0.7
    assert class_hits(joint, test.photos, test.sketches, test.labels) > 0.7
    assert class_hits(wrong, test.photos, test.sketches, test.labels) < 0.4
