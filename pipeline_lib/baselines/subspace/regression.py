"""Regression of both domains to class labels, with projections whose rows are sparse: LCFS and JFSSL.

X_1, X_2 are the centred features, [N, D] and [M, E]; Y the one-hot labels; U_1, U_2 the projections. ||U||_21, the
sum of the rows' lengths, switches whole features off. Both are solved by iterated reweighting: a root is bounded from
above by a parabola that touches it at the current value, sqrt(t) <= t / (2 sqrt(t0)) + sqrt(t0) / 2, and the sum of
parabolas has its minimum in closed form. So the objective falls in every round. Roots are smoothed by a small
constant, without which rows that are zero have no parabola.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve
from scipy.sparse import csr_array, diags_array
from sklearn.neighbors import kneighbors_graph

from pipeline_lib.baselines.subspace.projection import Classes, Matrix, Projections, Side, centred, one_hot, paired

SMOOTH_ROW = 1e-6
SMOOTH_SINGULAR = 1e-3
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Fitted:
    """A solution."""

    projections: Projections  # U_1 and U_2 with their means
    objective: list[float]  # its value after every round, falling


def fit_lcfs(
    photos: Matrix, sketches: Matrix, labels: Classes, sparsity: float = 0.1, low_rank: float = 0.01, rounds: int = 50
) -> Fitted:
    """Learning coupled feature spaces (Wang, He, Wang, Wang and Tan, ICCV 2013).

        min  1/2 sum_i ||X_i U_i - Y||_F^2 + l1 sum_i ||U_i||_21 + l2 ||[X_1 U_1, X_2 U_2]||_*

    The trace norm ||M||_* = tr (M M')^(1/2) couples the domains: rows of M are pairs, and their projections should
    span few dimensions. Its parabola is tr(S^-1 M M') / 2 with S = (M M' + m I)^(1/2), so that a round solves

        (X_i' X_i + l1 R_i + l2 X_i' S^-1 X_i) U_i = X_i' Y,   R_i = diag(1 / |row of U_i|).

    Args:
        photos: float64[N, D], row n paired with row n of `sketches`.
        sketches: float64[N, E].
        labels: int64[N], classes of the pairs.
        sparsity: l1.
        low_rank: l2.
        rounds: at most; fewer where the objective falls by less than 1e-5 of itself.
    """
    paired(photos, sketches)
    (x1, mean1), (x2, mean2) = centred(photos), centred(sketches)
    target = _targets(labels, np.unique(labels))
    xs = (x1, x2)
    us = [_ridge(x, target) for x in xs]
    history = [_lcfs_objective(xs, us, target, sparsity, low_rank)]
    for _ in range(rounds):
        basis, singular, _ = np.linalg.svd(np.hstack([x @ u for x, u in zip(xs, us, strict=True)]), full_matrices=False)
        # S^-1 = I / sqrt(m) + P diag(1 / sqrt(s^2 + m) - 1 / sqrt(m)) P', never formed: N may be large.
        floor = 1 / np.sqrt(SMOOTH_SINGULAR)
        bend = 1 / np.sqrt(singular**2 + SMOOTH_SINGULAR) - floor
        us = [
            _weighted(x, u, target, sparsity, low_rank * _low_rank_form(x, basis, bend, floor))
            for x, u in zip(xs, us, strict=True)
        ]
        history.append(_lcfs_objective(xs, us, target, sparsity, low_rank))
        if history[-2] - history[-1] < TOLERANCE * abs(history[-2]):
            break
    return Fitted(Projections(Side(mean1, us[0]), Side(mean2, us[1])), history)


def fit_jfssl(
    photos: Matrix,
    photo_labels: Classes,
    sketches: Matrix,
    sketch_labels: Classes,
    sparsity: float = 0.1,
    graph: float = 0.001,
    neighbours: int = 10,
    rounds: int = 50,
) -> Fitted:
    """Joint feature selection and subspace learning (Wang, He, Wang, Wang and Tan, PAMI 2016).

        min  sum_i ||X_i U_i - Y_i||_F^2 + l1 sum_i ||U_i||_21 + l2 tr(F' L F),   F = [X_1 U_1; X_2 U_2]

    L is the Laplacian of one graph over the samples of both domains: within a domain, edges to the nearest neighbours
    (Gaussian weights of their distance, width the median one); between domains, weight 1 for all samples of one class.
    tr(F' L F) is half the weighted sum of squared distances along edges. A round solves, one domain after the other,

        (X_i' X_i + l1 R_i + l2 X_i' L_ii X_i) U_i = X_i' Y_i - l2 X_i' L_ij X_j U_j,
        R_i = diag(1 / (2 |row of U_i|)).

    Args:
        photos: float64[N, D]; needs no pairs.
        photo_labels: int64[N], classes.
        sketches: float64[M, E].
        sketch_labels: int64[M].
        sparsity: l1.
        graph: l2.
        neighbours: of each sample in its own domain.
        rounds: at most.
    """
    (x1, mean1), (x2, mean2) = centred(photos), centred(sketches)
    classes = np.union1d(photo_labels, sketch_labels)
    xs = (x1, x2)
    members = [one_hot(labels, classes) for labels in (photo_labels, sketch_labels)]
    ys = [_targets(labels, classes) for labels in (photo_labels, sketch_labels)]
    sizes = [member.sum(axis=0) for member in members]
    # X' L_ii X, with the edges to the other domain in the degrees; X_1' L_12 X_2 has the rank of the classes.
    forms = [
        _neighbour_form(x, neighbours) + (x * (member @ other)[:, None]).T @ x
        for x, member, other in zip(xs, members, reversed(sizes), strict=True)
    ]
    cross = -(x1.T @ members[0]) @ (members[1].T @ x2)
    crosses = (cross, cross.T)
    us = [_ridge(x, y) for x, y in zip(xs, ys, strict=True)]
    history = [_jfssl_objective(xs, us, ys, forms, cross, sparsity, graph)]
    for _ in range(rounds):
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            pull = graph * crosses[i] @ us[1 - i]
            us[i] = _weighted(x, us[i], y, sparsity / 2, graph * forms[i], pull)
        history.append(_jfssl_objective(xs, us, ys, forms, cross, sparsity, graph))
        if history[-2] - history[-1] < TOLERANCE * abs(history[-2]):
            break
    return Fitted(Projections(Side(mean1, us[0]), Side(mean2, us[1])), history)


def _targets(labels: Classes, classes: Classes) -> Matrix:
    # Centred like the features: the classes' shares are told apart from nothing.
    target, _ = centred(one_hot(labels, classes))
    return target


def _ridge(x: Matrix, y: Matrix) -> Matrix:
    gram = x.T @ x
    start: Matrix = solve(gram + np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ y, assume_a="pos")
    return start


def _weighted(x: Matrix, u: Matrix, y: Matrix, sparsity: float, form: Matrix, pull: Matrix | float = 0.0) -> Matrix:
    """The minimum of one round's parabolas for one domain."""
    rows = np.sqrt((u**2).sum(axis=1) + SMOOTH_ROW)
    found: Matrix = solve(x.T @ x + np.diag(sparsity / rows) + form, x.T @ y - pull, assume_a="pos")
    return found


def _row_norms(us: list[Matrix]) -> float:
    return float(sum(np.sqrt((u**2).sum(axis=1) + SMOOTH_ROW).sum() for u in us))


def _low_rank_form(x: Matrix, basis: Matrix, bend: Matrix, floor: float) -> Matrix:
    seen = x.T @ basis
    form: Matrix = floor * (x.T @ x) + (seen * bend) @ seen.T
    return form


def _lcfs_objective(
    xs: tuple[Matrix, Matrix], us: list[Matrix], target: Matrix, sparsity: float, low_rank: float
) -> float:
    shown = [x @ u for x, u in zip(xs, us, strict=True)]
    singular = np.linalg.svd(np.hstack(shown), compute_uv=False)
    trace = np.sqrt(singular**2 + SMOOTH_SINGULAR).sum() + (len(target) - len(singular)) * np.sqrt(SMOOTH_SINGULAR)
    errors = sum(((part - target) ** 2).sum() for part in shown)
    return float(errors / 2 + sparsity * _row_norms(us) + low_rank * trace)


def _jfssl_objective(
    xs: tuple[Matrix, Matrix],
    us: list[Matrix],
    ys: list[Matrix],
    forms: list[Matrix],
    cross: Matrix,
    sparsity: float,
    graph: float,
) -> float:
    errors = sum(((x @ u - y) ** 2).sum() for x, u, y in zip(xs, us, ys, strict=True))
    smooth = (
        sum((u * (form @ u)).sum() for u, form in zip(us, forms, strict=True)) + 2 * (us[0] * (cross @ us[1])).sum()
    )
    return float(errors + sparsity * _row_norms(us) + graph * smooth)


def _neighbour_form(x: Matrix, neighbours: int) -> Matrix:
    """X' L X of the graph of nearest neighbours with Gaussian weights."""
    count = min(neighbours, len(x) - 1)
    near = csr_array(kneighbors_graph(x, count, mode="distance"))
    width = np.median(near.data) or 1.0
    near.data = np.exp(-(near.data**2) / (2 * width**2))
    near = near.maximum(near.T)
    laplacian = diags_array(near.sum(axis=1)) - near
    form: Matrix = x.T @ (laplacian @ x)
    return (form + form.T) / 2
