from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from pipeline_lib.baselines.subspace.correlation import fit_cca, fit_pls
from pipeline_lib.baselines.subspace.projection import Projections
from tests.baselines.subspace.scores import Planted, instance_hits


def correlations(projections: Projections, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b = projections.apply(x, "photo"), projections.apply(y, "sketch")
    return np.array([np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(a.shape[1])])


def test_cca_reaches_the_correlations_of_the_closed_form(planted: Planted) -> None:
    x, y = planted.photos, planted.sketches
    xc, yc = x - x.mean(0), y - y.mean(0)
    whitened = np.linalg.inv(sqrtm(xc.T @ xc)) @ xc.T @ yc @ np.linalg.inv(sqrtm(yc.T @ yc))
    wanted = np.linalg.svd(np.real(whitened), compute_uv=False)[:6]
    assert np.allclose(correlations(fit_cca(x, y, 6), x, y), wanted, atol=1e-4)


def test_directions_of_cca_have_unit_variance_and_are_uncorrelated(planted: Planted) -> None:
    x, y = planted.photos, planted.sketches
    shown = fit_cca(x, y, 5).apply(x, "photo").astype(np.float64)
    assert np.allclose(np.cov(shown.T, bias=True), np.eye(5), atol=1e-3)


def test_the_first_pls_direction_is_the_top_singular_pair_of_the_covariance(planted: Planted) -> None:
    x, y = planted.photos, planted.sketches
    found = fit_pls(x, y, 1)
    u, _, vt = np.linalg.svd((x - x.mean(0)).T @ (y - y.mean(0)))
    assert abs(float(u[:, 0] @ found.photo.weights[:, 0])) == pytest.approx(1, abs=1e-4)
    assert abs(float(vt[0] @ found.sketch.weights[:, 0])) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("fit", [fit_cca, fit_pls])
def test_planted_pairs_are_found_on_pairs_never_seen(planted: Planted, fit: Callable[..., Projections]) -> None:
    train, test = planted.part(slice(300)), planted.part(slice(300, None))
    found = fit(train.photos, train.sketches, 6)
    shuffled = fit(train.photos, train.sketches[::-1], 6)
    assert instance_hits(found, test.photos, test.sketches) > 0.6
    assert instance_hits(shuffled, test.photos, test.sketches) < 0.2


def test_rows_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="3 photos, 2 sketches"):
        fit_cca(np.zeros((3, 2)), np.zeros((2, 2)), 1)
