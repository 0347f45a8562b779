"""How sure a mean is: percentile bootstrap intervals that resample clusters.

Sketches of one photo, or patch pairs of one image, are not independent: they succeed and fail together. So whole
clusters are drawn with replacement (the cluster bootstrap; Davison and Hinkley 1997, section 3.8), and the figure is
the ratio of summed numerators to summed denominators. The same clusters and seed give the same draws, which is what
makes differences between two systems paired.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEVEL = 0.95
# Draws held at a time: 2 Mi are 16 MB as integers.
BLOCK_DRAWS = 1 << 21


class Interval(NamedTuple):
    """A figure and the ends of its 95 % interval; all three NaN where nothing was counted."""

    estimate: float
    low: float
    high: float


def bootstrap_ratio(
    numerators: NDArray[Any], denominators: NDArray[Any], clusters: NDArray[Any], resamples: int, seed: int
) -> Interval:
    """sum(numerators) / sum(denominators) with its 95 % percentile interval.

    Args:
        numerators: [Q], such as hits, or right answers per image.
        denominators: [Q], such as 1, or questions per image; not negative.
        clusters: [Q], any values; equal ones are drawn together.
        resamples: how many times the clusters are drawn.
        seed: same seed and clusters, same draws.

    Returns:
        The interval. A single cluster, or equal values throughout, give one of width 0: that says that the sample
        shows no spread, not that the figure is exact.

    Raises:
        ValueError: lengths differ, a value is not finite or a denominator is negative.
    """
    return bootstrap_ratios(
        np.asarray(numerators)[:, None], np.asarray(denominators)[:, None], clusters, resamples, seed
    )[0]


def bootstrap_mean(values: Values, clusters: NDArray[Any], resamples: int, seed: int) -> list[Interval]:
    """Means of columns, over the rows that are not NaN in that column.

    Args:
        values: float64[Q, C]; NaN where undefined.
        clusters: [Q].
        resamples: as in `bootstrap_ratio`.
        seed: as in `bootstrap_ratio`.

    Returns:
        C intervals.
    """
    defined = ~np.isnan(values)
    return bootstrap_ratios(np.where(defined, values, 0.0), defined.astype(np.float64), clusters, resamples, seed)


def bootstrap_difference(
    first: Values, second: Values, clusters: NDArray[Any], resamples: int, seed: int
) -> list[Interval]:
    """Mean of `first` minus mean of `second`, of two systems on the same queries and the same draws.

    Args:
        first: float64[Q, C]; NaN where undefined.
        second: float64[Q, C], NaN in the same places.
        clusters: [Q].
        resamples: as in `bootstrap_ratio`.
        seed: as in `bootstrap_ratio`.

    Returns:
        C intervals; a system against itself gives exactly 0, 0, 0.

    Raises:
        ValueError: the two differ in shape or in what is defined.
    """
    if first.shape != second.shape or not np.array_equal(np.isnan(first), np.isnan(second)):
        raise ValueError("paired values must be of the same queries, undefined in the same places")
    return bootstrap_mean(first - second, clusters, resamples, seed)


def bootstrap_ratios(
    numerators: NDArray[Any], denominators: NDArray[Any], clusters: NDArray[Any], resamples: int, seed: int
) -> list[Interval]:
    """`bootstrap_ratio` of C columns at once, numerators and denominators [Q, C], on the same draws."""
    numerators, denominators = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if numerators.shape != denominators.shape or len(numerators) != len(clusters):
        raise ValueError("numerators, denominators and clusters must be of one length")
    if not (np.isfinite(numerators).all() and np.isfinite(denominators).all()) or (denominators < 0).any():
        raise ValueError("values must be finite and denominators not negative")
    width = numerators.shape[1]
    names, cluster = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(names), 2 * width))
    np.add.at(sums, cluster.reshape(-1), np.hstack([numerators, denominators]))
    estimates = _ratios(sums.sum(axis=0, keepdims=True), width)[0]
    samples = _ratios(_resampled(sums, resamples, seed), width)
    return [Interval(*_ends(estimate, samples[:, column])) for column, estimate in enumerate(estimates)]


def _resampled(sums: Values, resamples: int, seed: int) -> Values:
    """Totals of `resamples` draws of as many clusters as there are: [K, W] -> [resamples, W]."""
    count = len(sums)
    if not count:
        return np.zeros((resamples, sums.shape[1]))
    generator = np.random.default_rng(seed)
    step = max(1, BLOCK_DRAWS // count)
    parts = []
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        draws = generator.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(draws.reshape(-1), minlength=size * count).reshape(size, count)
        parts.append(times.astype(np.float64) @ sums)
    return np.concatenate(parts)


def _ratios(totals: Values, width: int) -> Values:
    numerators, denominators = totals[:, :width], totals[:, width:]
    ratios: Values = np.full_like(numerators, np.nan)
    np.divide(numerators, denominators, out=ratios, where=denominators > 0)
    return ratios


def _ends(estimate: float, samples: Values) -> tuple[float, float, float]:
    # A draw may hold none of the few clusters that count; it says nothing and is left out.
    samples = samples[~np.isnan(samples)]
    if np.isnan(estimate) or not len(samples):
        return float(estimate), float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(estimate), float(low), float(high)
