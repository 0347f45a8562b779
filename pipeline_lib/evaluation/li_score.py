"""The score of Li et al. 2014: how similar people found the sketch and the photos that a system ranks first.

Retrieval is within a class: the 60 photos of the sketch's class are ranked. A ranking scores the sum over its first K
photos of the ratings that people gave the pair (four criteria, 0..2 each), so 0..40 for K = 5 and 0..80 for K = 10. The
figure is the mean over a class's sketches, then over classes. It is no percentage and can't be compared with hit rates.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.embedding.vectors import Strings
from pipeline_lib.index.ranking import TieBreak, rank
from pipeline_lib.intervals import LEVEL, Interval

Values = NDArray[np.float64]

KS = (5, 10)


def li_scores(scores: NDArray[np.floating], ratings: NDArray[np.number], image_ids: Strings) -> Values:
    """The score of each sketch of one class.

    Args:
        scores: [S, P], higher is better; -inf for photos that can't be scored. Ties break by image_id.
        ratings: [S, P], 0..8.
        image_ids: str[P].

    Returns:
        float64[S, len(KS)].

    Raises:
        ValueError: shapes differ, or a score is NaN.
    """
    if scores.shape != ratings.shape or scores.shape[1:] != image_ids.shape:
        raise ValueError(f"scores {scores.shape}, ratings {ratings.shape} and {image_ids.shape} photos do not fit")
    rows = rank(np.ascontiguousarray(scores, np.float32), TieBreak.of(image_ids)).rows
    ordered = np.take_along_axis(np.asarray(ratings, np.float64), rows, axis=1)
    return np.stack([ordered[:, :k].sum(axis=1) for k in KS], axis=1)


def by_chance(ratings: NDArray[np.number]) -> Values:
    """The mean score over all orders, K times the mean rating: float64[S, len(KS)]."""
    means = np.asarray(ratings, np.float64).mean(axis=1)
    return np.stack([min(k, ratings.shape[1]) * means for k in KS], axis=1)


def by_oracle(ratings: NDArray[np.number]) -> Values:
    """The best that any ranking can reach: float64[S, len(KS)]."""
    ordered = -np.sort(-np.asarray(ratings, np.float64), axis=1)
    return np.stack([ordered[:, :k].sum(axis=1) for k in KS], axis=1)


def mean_over_classes(values: Mapping[str, Values], resamples: int, seed: int) -> list[Interval]:
    """The mean over sketches, then over classes, with 95 % percentile intervals.

    Sketches are drawn with replacement within their class; the classes are fixed. The same seed and numbers of sketches
    give the same draws, so that `values` may as well be differences between two systems.

    Args:
        values: per class float64[S, C].
        resamples: how many draws.
        seed: of the draws.

    Returns:
        C intervals.
    """
    generator = np.random.default_rng(seed)
    classes: Sequence[Values] = [values[name] for name in sorted(values)]
    estimate = np.mean([part.mean(axis=0) for part in classes], axis=0)
    total = np.zeros((resamples, len(estimate)))
    for part in classes:
        drawn = generator.integers(0, len(part), (resamples, len(part)))
        total += part[drawn].mean(axis=1)
    low, high = np.quantile(total / len(classes), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [Interval(*map(float, ends)) for ends in zip(estimate, low, high, strict=True)]
