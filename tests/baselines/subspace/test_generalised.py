from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from pipeline_lib.baselines.subspace import generalised
from pipeline_lib.baselines.subspace.generalised import fit_blm, fit_gmlda, fit_gmmfa
from pipeline_lib.baselines.subspace.projection import Projections
from tests.baselines.subspace.scores import Planted, class_hits, instance_hits


def test_columns_solve_the_generalised_eigenproblem_of_lda_written_out(planted: Planted) -> None:
    x, y, labels = planted.photos, planted.sketches, planted.labels
    coupling, ridge = 3.0, 0.05
    found = fit_gmlda(x, labels, y, labels, 4, coupling, ridge)
    parts = []
    for values in (x, y):
        c = values - values.mean(0)
        between, within, means = np.zeros((c.shape[1],) * 2), np.zeros((c.shape[1],) * 2), []
        for label in range(8):
            rows = c[labels == label]
            mean = rows.mean(0)
            means.append(mean)
            between += len(rows) * np.outer(mean, mean)
            within += (rows - mean).T @ (rows - mean)
        within += ridge * np.trace(within) / len(within) * np.eye(len(within))
        parts.append((between, within, np.array(means)))
    (a1, b1, z1), (a2, b2, z2) = parts
    coupling *= np.trace(a1) / np.linalg.svd(z1.T @ z2, compute_uv=False).sum()
    mu, gamma = np.trace(a1) / np.trace(a2), np.trace(b1) / np.trace(b2)
    for k in range(4):
        v1, v2 = found.photo.weights[:, k], found.sketch.weights[:, k]
        left = np.concatenate([a1 @ v1 + coupling * z1.T @ z2 @ v2, coupling * z2.T @ z1 @ v1 + mu * a2 @ v2])
        right = np.concatenate([b1 @ v1, gamma * b2 @ v2])
        rho = left @ right / (right @ right)
        assert np.allclose(left, rho * right, atol=1e-6 * np.linalg.norm(left))
        assert v1 @ b1 @ v1 + gamma * v2 @ b2 @ v2 == pytest.approx(1, rel=1e-6)


def test_eigenvectors_come_in_falling_order_of_worth(planted: Planted) -> None:
    x, y, labels = planted.photos, planted.sketches, planted.labels
    four, two = fit_gmlda(x, labels, y, labels, 4), fit_gmlda(x, labels, y, labels, 2)
    assert subspace_angles(four.first(2).photo.weights, two.photo.weights).max() < 1e-6


def test_within_one_domain_lda_alone_is_fishers(planted: Planted) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    x, labels = planted.photos, planted.labels
    both = fit_gmlda(x, labels, x, labels, 14, coupling=0.0, ridge=1e-9)
    fisher = LinearDiscriminantAnalysis(solver="eigen").fit(x, labels).scalings_[:, :7]
    # Uncoupled, each eigenvalue occurs once per domain; the photo parts of all 14 span Fisher's 7 directions.
    span = np.linalg.svd(both.photo.weights, full_matrices=False)[0][:, :7]
    assert subspace_angles(span, fisher).max() < 1e-3


def test_blm_is_the_singular_value_decomposition_of_the_stacked_views(planted: Planted) -> None:
    x, y = planted.photos, planted.sketches
    found = fit_blm(x, y, 5)
    stacked = np.hstack([x - x.mean(0), y - y.mean(0)])
    wanted = np.linalg.svd(stacked, full_matrices=False)[2][:5].T
    assert subspace_angles(np.vstack([found.photo.weights, found.sketch.weights]), wanted).max() < 1e-6


def test_blm_finds_planted_pairs_never_seen_where_content_is_louder_than_noise() -> None:
    rng = np.random.default_rng(5)
    content = rng.normal(size=(400, 6))
    x = content @ rng.normal(size=(6, 20)) + 0.3 * rng.normal(size=(400, 20))
    y = content @ rng.normal(size=(6, 15)) + 0.3 * rng.normal(size=(400, 15))
    assert instance_hits(fit_blm(x[:300], y[:300], 6), x[300:], y[300:]) > 0.9
    assert instance_hits(fit_blm(x[:300], y[299::-1], 6), x[300:], y[300:]) < 0.2


@pytest.mark.parametrize("fit", [fit_gmlda, fit_gmmfa])
def test_class_methods_find_the_class_of_samples_never_seen_without_pairs(
    planted: Planted, fit: Callable[..., Projections]
) -> None:
    train, test = planted.part(slice(300)), planted.part(slice(300, None))
    # The two domains bring different numbers of samples, and no row of one belongs to a row of the other.
    found = fit(train.photos[:150], train.labels[:150], train.sketches[100:], train.labels[100:], 7)
    wrong = fit(train.photos[:150], train.labels[:150], train.sketches[100:], train.labels[:200], 7)
    assert class_hits(found, test.photos, test.sketches, test.labels) > 0.7
    assert class_hits(wrong, test.photos, test.sketches, test.labels) < 0.4


def test_the_graph_form_is_half_the_weighted_sum_of_squared_differences_along_edges() -> None:
    x = np.array([[0.0], [1.0], [5.0], [7.0]])
    labels = np.array([0, 0, 1, 1])
    # Within classes: 0-1 and 2-3. Between: 0 and 1 are nearest to 2, and 2 and 3 to 1.
    assert generalised._laplacian_form(x, labels, 1, same=True).item() == pytest.approx(1 + 4)
    assert generalised._laplacian_form(x, labels, 1, same=False).item() == pytest.approx(25 + 16 + 36)


def test_one_photo_a_class_has_no_scatter_and_still_fits(planted: Planted) -> None:
    x, y, labels = planted.photos, planted.sketches, planted.labels
    first = np.array([np.flatnonzero(labels == label)[0] for label in range(8)])
    found = fit_gmlda(x[first], labels[first], y, labels, 5)
    assert np.isfinite(found.photo.weights).all()


def test_domains_without_common_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="two classes"):
        fit_gmlda(np.eye(4), np.array([0, 0, 1, 1]), np.eye(4), np.array([2, 2, 3, 3]), 1)


def test_more_components_than_dimensions_are_refused(planted: Planted) -> None:
    with pytest.raises(ValueError, match="1 to 55"):
        fit_blm(planted.photos, planted.sketches, 56)
