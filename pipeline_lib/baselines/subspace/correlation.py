"""Subspaces of pairs: canonical correlation analysis and partial least squares, by scikit-learn.

CCA (Hotelling 1936): the k-th directions a_k, b_k maximise corr(X a, Y b) and are uncorrelated with those before:

    max a' C_xy b   subject to   a' C_xx a = b' C_yy b = 1,

whose solution is the singular value decomposition of C_xx^(-1/2) C_xy C_yy^(-1/2).

PLS (Wold 1985; for matching across modalities Sharma and Jacobs 2011): the same with |a| = |b| = 1, so that
covariance takes the place of correlation; here in its symmetric (canonical) form, where what a direction explains is
taken off both sides before the next one is sought.

Needs pairs, no labels.
"""

import warnings

from sklearn.cross_decomposition import CCA, PLSCanonical
from sklearn.exceptions import ConvergenceWarning

from pipeline_lib.baselines.subspace.projection import Matrix, Projections, Side, centred, paired

MAX_ITERATIONS = 2000
TOLERANCE = 1e-9


def fit_cca(photos: Matrix, sketches: Matrix, components: int) -> Projections:
    """CCA.

    Args:
        photos: float64[N, D], row n paired with row n of `sketches`; a photo that was drawn twice stands twice.
        sketches: float64[N, E].
        components: K, at most min(N - 1, D, E).

    Returns:
        Projections onto unit-variance directions, the most correlated first.
    """
    return _fit(CCA, photos, sketches, components)


def fit_pls(photos: Matrix, sketches: Matrix, components: int) -> Projections:
    """PLS in canonical mode; arguments as in `fit_cca`."""
    return _fit(PLSCanonical, photos, sketches, components)


def _fit(method: type[CCA | PLSCanonical], photos: Matrix, sketches: Matrix, components: int) -> Projections:
    paired(photos, sketches)
    x, photo_mean = centred(photos)
    y, sketch_mean = centred(sketches)
    # Not to unit variance a dimension: after a PCA that would blow up the directions that say least.
    model = method(components, scale=False, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    with warnings.catch_warnings():
        # Of two directions with nearly equal correlation either will do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    a, b = model.x_rotations_, model.y_rotations_
    if method is CCA:
        a, b = a / (x @ a).std(axis=0), b / (y @ b).std(axis=0)
    return Projections(Side(photo_mean, a), Side(sketch_mean, b))
