"""Generalised multiview analysis: several subspace methods as one eigenproblem.

Sharma, Kumar, Daume and Jacobs (Generalized Multiview Analysis: A Discriminative Latent Space, CVPR 2012) seek one
direction per domain, v = (v_1, v_2), that is good in its own domain and brings what belongs together close:

    max  v_1' A_1 v_1 + mu v_2' A_2 v_2 + 2 alpha v_1' Z_1 Z_2' v_2
    subject to  v_1' B_1 v_1 + gamma v_2' B_2 v_2 = 1,

which is the generalised eigenproblem

    [ A_1            alpha Z_1 Z_2' ] [v_1]          [ B_1     0       ] [v_1]
    [ alpha Z_2 Z_1'      mu A_2    ] [v_2]  =  rho  [ 0    gamma B_2  ] [v_2].

| method | A_i | B_i | columns of Z_i |
|---|---|---|---|
| BLM | X_i X_i' | I | the samples, in pairs |
| GMLDA | between-class scatter | within-class scatter | class means |
| GMMFA | X_i L_p X_i', penalty graph | X_i L_w X_i', intrinsic graph | class means |

mu and gamma balance the domains by their traces, tr(A_1)/tr(A_2) and tr(B_1)/tr(B_2), as the authors do (1 in BLM).
alpha stays free. The sizes of A and Z Z' have nothing to do with each other where A is of a graph, so alpha is told
as a multiple of tr(A_1) / ||Z_1 Z_2'||_* (trace norm), where both weigh the same; in BLM it stands for itself. Each B_i
gets a small ridge, without which it is singular.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import csr_array, diags_array
from sklearn.neighbors import NearestNeighbors

from pipeline_lib.baselines.subspace.projection import Classes, Matrix, Projections, Side, centred, one_hot, paired


@dataclass(frozen=True)
class View:
    """What one domain brings to the eigenproblem."""

    mean: Matrix  # float64[D], taken off before
    gain: Matrix  # A, float64[D, D]
    cost: Matrix  # B, float64[D, D]
    anchors: Matrix  # Z', float64[M, D]; row m belongs to row m of the other domain


def eigenproblem(
    views: tuple[View, View], coupling: float, ridge: float, *, balanced: bool = True
) -> tuple[Matrix, Matrix]:
    """The two block matrices above, both float64[D + E, D + E].

    Args:
        views: of photos and of sketches.
        coupling: alpha, as a multiple of what makes both terms weigh the same if `balanced`.
        ridge: added to each B_i, as a fraction of its mean diagonal.
        balanced: mu and gamma by the traces; else 1.
    """
    photo, sketch = views
    cross = photo.anchors.T @ sketch.anchors
    if balanced:
        cross *= np.trace(photo.gain) / np.linalg.norm(cross, "nuc")
    cross *= coupling
    costs = [_ridged(view.cost, ridge) for view in views]
    mu = np.trace(photo.gain) / np.trace(sketch.gain) if balanced else 1.0
    gamma = np.trace(costs[0]) / np.trace(costs[1]) if balanced else 1.0
    left = np.block([[photo.gain, cross], [cross.T, mu * sketch.gain]])
    right = np.zeros_like(left)
    width = len(photo.mean)
    right[:width, :width], right[width:, width:] = costs[0], gamma * costs[1]
    return left, right


def solve(
    views: tuple[View, View], components: int, coupling: float, ridge: float, *, balanced: bool = True
) -> Projections:
    """The `components` eigenvectors of largest eigenvalue, cut into the two domains' parts."""
    photo, sketch = views
    left, right = eigenproblem(views, coupling, ridge, balanced=balanced)
    size = len(left)
    if not 1 <= components <= size:
        raise ValueError(f"components {components} must be 1 to {size}, the dimensions of both domains together")
    _, vectors = eigh(left, right, subset_by_index=[size - components, size - 1])
    vectors = vectors[:, ::-1]
    width = len(photo.mean)
    return Projections(Side(photo.mean, vectors[:width]), Side(sketch.mean, vectors[width:]))


def fit_blm(photos: Matrix, sketches: Matrix, components: int, coupling: float = 1.0) -> Projections:
    """The bilinear model of Tenenbaum and Freeman (2000), style = domain, content = what is shown.

    Its asymmetric form y^s_c = A^s b_c is fitted by the singular value decomposition of the observations stacked over
    styles. The left singular vectors are the eigenvectors above for coupling 1, and the content of a new observation is
    read off by projecting it on its style's part.

    Args:
        photos: float64[N, D], row n paired with row n of `sketches`.
        sketches: float64[N, E].
        components: K, at most D + E.
        coupling: alpha.
    """
    paired(photos, sketches)
    return solve((_pair_view(photos), _pair_view(sketches)), components, coupling, ridge=0.0, balanced=False)


def fit_gmlda(
    photos: Matrix,
    photo_labels: Classes,
    sketches: Matrix,
    sketch_labels: Classes,
    components: int,
    coupling: float = 3.0,
    ridge: float = 0.1,
) -> Projections:
    """Generalised multiview linear discriminant analysis.

    Args:
        photos: float64[N, D]; needs no pairs.
        photo_labels: int64[N], classes.
        sketches: float64[M, E].
        sketch_labels: int64[M].
        components: K, at most D + E; the number of classes less one carries the information.
        coupling: alpha, relative.
        ridge: on the within-class scatter, as a fraction of its mean diagonal.

    Raises:
        ValueError: the domains share no two classes.
    """
    classes = _shared(photo_labels, sketch_labels)
    views = (_lda_view(photos, photo_labels, classes), _lda_view(sketches, sketch_labels, classes))
    return solve(views, components, coupling, ridge)


def fit_gmmfa(
    photos: Matrix,
    photo_labels: Classes,
    sketches: Matrix,
    sketch_labels: Classes,
    components: int,
    coupling: float = 3.0,
    ridge: float = 0.1,
    neighbours: tuple[int, int] = (5, 20),
) -> Projections:
    """Generalised multiview marginal Fisher analysis.

    Marginal Fisher analysis (Yan et al. 2007) replaces the scatters by graphs: the intrinsic graph joins each sample
    with its nearest `neighbours[0]` of its class, the penalty graph with its nearest `neighbours[1]` of other classes.
    Other arguments as in `fit_gmlda`.
    """
    classes = _shared(photo_labels, sketch_labels)
    views = (
        _graph_view(photos, photo_labels, classes, neighbours),
        _graph_view(sketches, sketch_labels, classes, neighbours),
    )
    return solve(views, components, coupling, ridge)


def _ridged(cost: Matrix, ridge: float) -> Matrix:
    # A domain without any spread within classes (one photo a class) has no scale of its own.
    scale = np.trace(cost) / len(cost) or 1.0
    return cost + ridge * scale * np.eye(len(cost))


def _shared(photo_labels: Classes, sketch_labels: Classes) -> Classes:
    classes = np.intersect1d(photo_labels, sketch_labels)
    if len(classes) < 2:
        raise ValueError("at least two classes must have both photos and sketches")
    return classes


def _class_means(x: Matrix, labels: Classes, classes: Classes) -> Matrix:
    member = one_hot(labels, classes)
    means: Matrix = (member.T @ x) / member.sum(axis=0)[:, None]
    return means


def _pair_view(values: Matrix) -> View:
    x, mean = centred(values)
    return View(mean, x.T @ x, np.eye(x.shape[1]), x)


def _graph_view(values: Matrix, labels: Classes, classes: Classes, neighbours: tuple[int, int]) -> View:
    x, mean = centred(values)
    within = _laplacian_form(x, labels, neighbours[0], same=True)
    between = _laplacian_form(x, labels, neighbours[1], same=False)
    return View(mean, between, within, _class_means(x, labels, classes))


def _lda_view(values: Matrix, labels: Classes, classes: Classes) -> View:
    x, mean = centred(values)
    own = np.unique(labels)
    member = one_hot(labels, own)
    means = _class_means(x, labels, own)
    between = means.T @ (means * member.sum(axis=0)[:, None])
    rest = x - member @ means
    return View(mean, between, rest.T @ rest, _class_means(x, labels, classes))


def _laplacian_form(x: Matrix, labels: Classes, neighbours: int, *, same: bool) -> Matrix:
    """X' L X of the graph that joins each row with its nearest rows of the same class, or of other classes."""
    rows, columns = [], []
    for label in np.unique(labels):
        inside = np.flatnonzero(labels == label)
        pool = inside if same else np.flatnonzero(labels != label)
        # Among its own class a sample is its own nearest neighbour, and is left out.
        wanted = min(neighbours + same, len(pool))
        if wanted <= same:
            continue
        near = NearestNeighbors(n_neighbors=wanted).fit(x[pool]).kneighbors(x[inside], return_distance=False)
        rows.append(np.repeat(inside, wanted))
        columns.append(pool[near].ravel())
    count = len(x)
    if not rows:
        return np.zeros((x.shape[1], x.shape[1]))
    i, j = np.concatenate(rows), np.concatenate(columns)
    graph = csr_array((np.ones(len(i)), (i, j)), shape=(count, count))
    graph.setdiag(0)
    graph = graph.maximum(graph.T)
    laplacian = diags_array(graph.sum(axis=1)) - graph
    form: Matrix = x.T @ (laplacian @ x)
    return (form + form.T) / 2
