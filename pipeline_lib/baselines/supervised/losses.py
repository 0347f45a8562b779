"""The two losses on sketch-photo pairs, over all pairs of a batch.

With D the distance of unit vectors, 0..2, and every photo of a batch that is not the one drawn as a negative:

- contrastive (Hadsell, Chopra and LeCun 2006), of the Siamese network: D^2 for pairs, max(0, m - D)^2 for others;
- triplet (Wang et al. 2014): max(0, m + D(sketch, its photo) - D(sketch, another photo)).

The Sketchy paper draws one negative per sketch; comparing with the whole batch takes no more encoder passes and gives
each sketch tens of them (Hermans, Beyer and Leibe 2017, whose mean over the terms that are not zero is taken).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# The root's slope is infinite at 0.
SMALLEST_SQUARE = 1e-6


def distances(sketches: Tensor, photos: Tensor) -> Tensor:
    """Euclidean distances of unit vectors.

    Args:
        sketches: float[M, D], of any length.
        photos: float[N, D], of any length.

    Returns:
        float[M, N] in 0..2.
    """
    cosine = functional.normalize(sketches) @ functional.normalize(photos).T
    return (2 - 2 * cosine).clamp_min(SMALLEST_SQUARE).sqrt()


def contrastive(distance: Tensor, drawn: Tensor, margin: float) -> Tensor:
    """Mean over pairs plus mean over the other combinations that are nearer than the margin.

    Args:
        distance: float[M, N], as `distances` gives.
        drawn: int64[M], which of the N photos each sketch depicts.
        margin: m.
    """
    own = _own(distance, drawn)
    others = (margin - distance[~own]).clamp_min(0)
    return distance[own].square().mean() + _mean_of_active(others.square())


def triplet(distance: Tensor, drawn: Tensor, margin: float) -> Tensor:
    """Mean over the triplets whose negative is not farther by the margin; arguments as in `contrastive`."""
    own = _own(distance, drawn)
    gaps = margin + distance[own][:, None] - distance
    return _mean_of_active(gaps[~own].clamp_min(0))


def _own(distance: Tensor, drawn: Tensor) -> Tensor:
    return torch.arange(distance.shape[1], device=distance.device) == drawn[:, None]


def _mean_of_active(values: Tensor) -> Tensor:
    return values.sum() / (values > 0).sum().clamp_min(1)
