"""How far apart the two domains lie in an embedding, and whether it groups by content: numbers beside a t-SNE picture.

All take L2-normalised vectors (see `alignment`), photos and sketches of one data set.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import homogeneity_score, normalized_mutual_info_score
from sklearn.model_selection import GroupKFold, cross_val_score

from pipeline_lib.embedding.vectors import Strings, Vectors

COMPONENTS = 128
"""Principal components that classifier and clusters see; a linear classifier over 4,096 numbers and 5,000 images would
tell any two sets apart."""
SHUFFLES = 10
"""Of the clusters, to know what chance tells of a class."""


def cross_domain_share(photos: Vectors, sketches: Vectors, neighbours: int = 10) -> float:
    """Share of images of the other domain among each image's nearest, over both domains.

    Args:
        photos: float32[N, D], rows of length 1 or 0.
        sketches: float32[M, D], likewise.
        neighbours: how many are looked at; the image itself is left out.

    Returns:
        0 (domains apart) to about 0.5 (mixed, where both have as many images).
    """
    vectors = np.concatenate([photos, sketches])
    is_photo = np.arange(len(vectors)) < len(photos)
    neighbours = min(neighbours, len(vectors) - 1)
    crossed = 0
    for start in range(0, len(vectors), 1024):
        block = vectors[start : start + 1024]
        similarity = block @ vectors.T
        rows = np.arange(len(block))
        similarity[rows, start + rows] = -np.inf
        nearest = np.argpartition(-similarity, neighbours - 1, axis=1)[:, :neighbours]
        crossed += int((is_photo[nearest] != is_photo[start : start + len(block), None]).sum())
    return crossed / (len(vectors) * neighbours)


def domain_accuracy(photos: Vectors, sketches: Vectors, groups: Strings, seed: int) -> float:
    """Accuracy of a linear classifier that guesses the domain, by 5-fold cross-validation.

    Args:
        photos: float32[N, D].
        sketches: float32[M, D].
        groups: str[N + M], equal for a photo and its sketches, which never straddle a fold.
        seed: of the principal components.

    Returns:
        0.5 (domains can't be told apart, where both have as many images) to 1.
    """
    labels = np.repeat([0, 1], [len(photos), len(sketches)])
    features = _components(np.concatenate([photos, sketches]), seed)
    model = LogisticRegression(max_iter=1000)
    folds = GroupKFold(5).split(features, labels, groups)
    return float(np.mean(cross_val_score(model, features, labels, cv=list(folds))))


def cluster_agreement(
    photos: Vectors, sketches: Vectors, classes: Strings, clusters: int, seed: int
) -> dict[str, float]:
    """How well k-means clusters agree with class and with domain.

    Normalised mutual information of two domains with many clusters can't come near 1, and that of many classes is far
    from 0 by chance. So beside it stands how much of either the clusters tell: 0 what chance tells, 1 all of it.

    Args:
        photos: float32[N, D].
        sketches: float32[M, D].
        classes: str[N + M].
        clusters: k.
        seed: of components and clusters.

    Returns:
        `nmi_class`, `nmi_domain`: normalised mutual information, 0..1; `told_class`, `told_domain`: homogeneity
        (Rosenberg and Hirschberg 2007, V-measure, eq. 1) above that of shuffled clusters, as a share of what is left
        above it, at most 1.
    """
    domains = np.repeat([0, 1], [len(photos), len(sketches)])
    features = _components(np.concatenate([photos, sketches]), seed)
    found = KMeans(clusters, n_init=3, random_state=seed).fit_predict(features)
    agreement = {}
    for name, labels in (("class", classes), ("domain", domains)):
        agreement[f"nmi_{name}"] = float(normalized_mutual_info_score(labels, found))
        agreement[f"told_{name}"] = _told(labels, found, seed)
    return agreement


def partner_place(photos: Vectors, sketches: Vectors, target: NDArray[np.int64]) -> float:
    """Mean place of the photo that was sketched, as a share of the gallery: 0 (first) to 1, 0.5 by chance.

    Args:
        photos: float32[N, D].
        sketches: float32[M, D].
        target: int64[M], row of each sketch's photo; rows below 0 are left out.
    """
    kept = target >= 0
    similarity = sketches[kept] @ photos.T
    own = similarity[np.arange(len(similarity)), target[kept]]
    # Ties count half, so that a degenerate embedding scores as chance.
    before = (similarity > own[:, None]).sum(axis=1) + 0.5 * ((similarity == own[:, None]).sum(axis=1) - 1)
    return float(before.mean() / max(1, len(photos) - 1))


def _told(labels: NDArray[Any], clusters: NDArray[Any], seed: int) -> float:
    rng = np.random.default_rng(seed)
    chance = float(np.mean([homogeneity_score(labels, rng.permutation(clusters)) for _ in range(SHUFFLES)]))
    return (float(homogeneity_score(labels, clusters)) - chance) / max(1 - chance, 1e-12)


def _components(vectors: Vectors, seed: int) -> NDArray[np.float32]:
    count = min(COMPONENTS, *vectors.shape)
    reduced = PCA(count, random_state=seed, svd_solver="randomized").fit_transform(vectors)
    scaled: NDArray[np.float32] = (reduced / max(float(reduced.std()), 1e-12)).astype(np.float32)
    return scaled
