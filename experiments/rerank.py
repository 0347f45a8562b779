"""Figures of lists re-ranked by how alike the photos are: `python -m experiments.rerank NAME...`, recipes of runs.

Query expansion: the photos found first search along with the drawing, weighted by a power of their similarity
(Radenovic, Tolias and Chum 2018, alpha query expansion). Jaccard: photos come first whose mutual neighbours are those
that the drawing found (Zhong, Zheng, Cao and Li 2017, k-reciprocal encoding); a drawing lies in another domain than the
photos and is hardly ever among a photo's own neighbours, so only photos have to be mutual neighbours.

Lists start from `pretext_csls`; photos are compared by their whitened vectors. Queries stay independent of one another.
Writes metrics/retrieval_study_rerank.csv.
"""

from collections.abc import Iterator

import numpy as np

from experiments.study import BEST, Finished, Line, command, figures, update_table
from pipeline_lib.embedding.vectors import Vectors

FOUND = (3, 10, 30)  # photos found first that become queries, too
POWER = 3.0  # alpha, as in the paper
WEIGHTS = (0.25, 0.5, 1.0)  # of the photos' similarity, or of the overlap, beside the drawing's own similarity
NEIGHBOURS = (10, 20)  # k1; k2 is 0.3 of it, as in the paper's settings


def expanded(scores: Vectors, alike: Vectors, found: int, weight: float) -> Vectors:
    """Scores that the photos found first contribute to, float32[M, N].

    Args:
        scores: float32[M, N], drawings against photos.
        alike: float32[N, N], photos against photos.
        found: how many of each drawing's photos contribute, at most N.
        weight: of their mean similarity, beside the score.
    """
    return np.asarray(scores + weight * (_weights(scores, found) @ alike), np.float32)


def jaccard(scores: Vectors, alike: Vectors, neighbours: int) -> Vectors:
    """How much the photos that a drawing found and a photo's mutual neighbours overlap, 0..1.

    It is the sum of smaller over the sum of larger weights (eq. 10 of the paper, 1 minus the distance), float32[M, N].
    `scores` and `alike` are as in `expanded`; `neighbours` is k1, how many neighbours count, at most N.
    """
    codes = _codes(alike, neighbours)
    overlap, sums = np.empty(scores.shape, np.float32), codes.sum(axis=1)
    for row, code in enumerate(_weights(scores, max(1, round(0.3 * neighbours))) @ codes):
        columns = np.flatnonzero(code)
        smaller = np.minimum(codes[:, columns], code[columns]).sum(axis=1)
        overlap[row] = smaller / (sums + code.sum() - smaller)
    return overlap


def _weights(scores: Vectors, found: int) -> Vectors:
    """The best `found` of each row, weighted by a power of their score above 0, summing to 1: float32[M, N]."""
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :found]
    values = np.maximum(np.take_along_axis(scores, nearest, axis=1), 1e-6) ** POWER
    weights = np.zeros(scores.shape, np.float32)
    np.put_along_axis(weights, nearest, values / values.sum(axis=1, keepdims=True), axis=1)
    return weights


def _codes(alike: Vectors, neighbours: int) -> Vectors:
    """Each photo's mutual neighbours, weighted by exp(-distance), rows summing to 1: float32[N, N]."""
    order = np.argsort(-alike, axis=1, kind="stable")[:, :neighbours]
    near = np.zeros(alike.shape, bool)
    np.put_along_axis(near, order, np.True_, axis=1)
    # A photo is its own neighbour, so that no row is empty.
    mutual = (near & near.T) | np.eye(len(alike), dtype=bool)
    weights = np.where(mutual, np.exp(alike - 1), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def settings(scores: Vectors, alike: Vectors) -> Iterator[tuple[Line, Vectors]]:
    """Every setting with its scores; the first leaves them as they are."""
    yield {"method": "none", "photos": 0, "weight": 0.0}, scores
    for found in FOUND:
        for weight in WEIGHTS:
            yield {"method": "expansion", "photos": found, "weight": weight}, expanded(scores, alike, found, weight)
    for neighbours in NEIGHBOURS:
        overlap = jaccard(scores, alike, neighbours)
        for weight in WEIGHTS:
            yield {"method": "jaccard", "photos": neighbours, "weight": weight}, scores + weight * overlap


def measure(row: Finished) -> Iterator[Line]:
    """A line per part of Sketchy and setting."""
    compared = row.whitened()
    for dataset, part in row.parts().items():
        shown = compared[part[0]]
        for how, scores in settings(row.scores(BEST, part), shown @ shown.T):
            yield {"dataset": dataset, "alignment": BEST, **how, **figures(scores, *row.labels(part))}


if __name__ == "__main__":
    command(__doc__, lambda names: update_table("retrieval_study_rerank", names, measure))
