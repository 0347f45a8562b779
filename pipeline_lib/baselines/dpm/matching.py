"""Matches two star graphs, a root and its parts each, by reweighted random walks (Cho, Lee and Lee 2010).

Graphs are scaled so that the root is 120 px wide. A pair of matches is as consistent as the vectors that it maps onto
each other are alike: exp(-d^2 / 30^2), with d the distance between them in px, after Li et al. 2014.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Values = NDArray[np.float64]

ROOT_WIDTH = 120.0
SPREAD = 30.0
PARTS_SHARE = 0.8
# Of the random walk: how much of it follows the graph, and how sharply it favours what is likely (the paper's values).
FOLLOW = 0.2
INFLATION = 30.0
STEPS = 100
BALANCINGS = 20
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Star:
    """A root and its parts."""

    parts: Values  # float64[P, 2], centres of the parts relative to the root's centre, the root being 120 px wide
    aspect: float  # the root's width over its height
    appearance: Values  # float64[D], what the root looks like, of length 1

    @classmethod
    def of(cls, boxes: Values, appearance: Values) -> Self:
        """From boxes float64[1 + P, 4] (x0 y0 x1 y1), the root's first."""
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        width, height = boxes[0, 2:] - boxes[0, :2]
        length = max(float(np.linalg.norm(appearance)), 1e-12)
        return cls((centres[1:] - centres[0]) * (ROOT_WIDTH / width), float(width / height), appearance / length)


def similarity(first: Star, second: Star) -> float:
    """0.8 of the parts' consistency and 0.2 of the roots', the latter half appearance and half aspect ratio; 0..1."""
    aspect = min(first.aspect, second.aspect) / max(first.aspect, second.aspect)
    root = (float(first.appearance @ second.appearance) + aspect) / 2
    return PARTS_SHARE * consistency(first.parts, second.parts) + (1 - PARTS_SHARE) * root


def consistency(first: Values, second: Values) -> float:
    """How well the parts of two stars fit under their best matching.

    Args:
        first: float64[P, 2].
        second: float64[Q, 2].

    Returns:
        The mean affinity of all pairs of matches, a match with itself included; 1 for equal stars.
    """
    table = affinities(first, second)
    rows, columns = linear_sum_assignment(random_walk(table, len(first), len(second)), maximize=True)
    chosen = rows * len(second) + columns
    return float(table[np.ix_(chosen, chosen)].mean())


def affinities(first: Values, second: Values) -> Values:
    """Of all pairs of candidate matches, (i, a) at i * Q + a: float64[PQ, PQ], 0 where they exclude each other.

    The diagonal compares the vectors from the root, the rest those between parts.
    """
    count, other = len(first), len(second)
    own, others = first[:, None] - first[None, :], second[:, None] - second[None, :]
    between = own[:, None, :, None] - others[None, :, None, :]
    table = np.exp(-(between**2).sum(axis=-1) / SPREAD**2)
    same_first = np.eye(count, dtype=bool)[:, None, :, None]
    same_second = np.eye(other, dtype=bool)[None, :, None, :]
    table[np.broadcast_to(same_first != same_second, table.shape)] = 0
    i, a = np.meshgrid(np.arange(count), np.arange(other), indexing="ij")
    table[i, a, i, a] = from_root(first, second)
    flat: Values = table.reshape(count * other, count * other)
    return flat


def from_root(first: Values, second: Values) -> Values:
    """Affinities of the vectors from the root to each part: float64[P, Q]."""
    near: Values = np.exp(-((first[:, None] - second[None, :]) ** 2).sum(axis=-1) / SPREAD**2)
    return near


def random_walk(table: Values, count: int, other: int) -> Values:
    """Where a walk over candidate matches settles that jumps, now and then, to candidates that respect one-to-one.

    Args:
        table: affinities, float64[count * other, count * other].
        count: parts of the first star.
        other: parts of the second.

    Returns:
        float64[count, other], the weight of each candidate; they sum to 1.
    """
    transition = table / max(float(table.sum(axis=1).max()), 1e-300)
    state = np.full(count * other, 1 / (count * other))
    for _ in range(STEPS):
        walked = state @ transition
        walked /= max(float(walked.sum()), 1e-300)
        jump = np.exp(INFLATION * (walked / max(float(walked.max()), 1e-300) - 1)).reshape(count, other)
        for _ in range(BALANCINGS):
            jump /= jump.sum(axis=1, keepdims=True)
            jump /= jump.sum(axis=0, keepdims=True)
        following = FOLLOW * walked + (1 - FOLLOW) * (jump / jump.sum()).ravel()
        moved = float(np.abs(following - state).sum())
        state = following
        if moved < TOLERANCE:
            break
    return state.reshape(count, other)
