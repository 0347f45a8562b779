"""Figures of lists ordered again by how alike the photos are: `python -m experiments.rerank NAME...`, study rows.

Query expansion: the photos found first search along with the drawing, weighted by a power of their similarity
(Radenovic, Tolias and Chum 2018, alpha query expansion). Jaccard: photos whose mutual neighbours are those that the
drawing found come first (Zhong, Zheng, Cao and Li 2017, k-reciprocal encoding); a drawing lies in another domain than
the photos and is hardly ever among a photo's own neighbours, so reciprocity is asked of photos alone.

Lists start from `pretext_csls`; photos are compared by their whitened vectors. No drawing looks at another one. Writes
metrics/retrieval_study_rerank.csv; settings are chosen by `sketchy_even`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.cell import PLACE
from experiments.grid import ROOT
from experiments.judge import figures, parts, scored
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.comparison import write_csv
from pipeline_lib.retrieval.fitting import of_kind
from pipeline_lib.retrieval.vectors import Vectors, open_retrieval

FOUND = (3, 10, 30)  # photos that search along
POWER = 3.0  # alpha, as in the paper
WEIGHTS = (0.25, 0.5, 1.0)  # of the photos' vote beside the drawing's own similarity, or of Jaccard's beside it
NEIGHBOURS = (10, 20)  # k1; k2 is 0.3 of it, as in the paper's settings
TABLE = Path("metrics/retrieval_study_rerank.csv")


def expanded(scores: Vectors, alike: Vectors, found: int, weight: float) -> Vectors:
    """Scores in which the photos found first have a say.

    Args:
        scores: float32[M, N], drawings against photos.
        alike: float32[N, N], photos against photos.
        found: how many of each drawing's photos search along, at most N.
        weight: of their mean similarity, beside the score.

    Returns:
        float32[M, N].
    """
    votes = _weights(scores, found)
    return np.asarray(scores + weight * (votes @ alike), np.float32)


def jaccard(scores: Vectors, alike: Vectors, neighbours: int) -> Vectors:
    """How much the photos that a drawing found and a photo's mutual neighbours overlap, 0..1.

    Args:
        scores: as in `expanded`.
        alike: as in `expanded`.
        neighbours: k1, how many neighbours count, at most N.

    Returns:
        float32[M, N], the sum of smaller over the sum of larger weights (eq. 10 of the paper, 1 minus the distance).
    """
    codes = _codes(alike, neighbours)
    few = max(1, round(0.3 * neighbours))
    drawn = _weights(scores, few) @ codes
    overlap = np.empty(scores.shape, np.float32)
    sums = codes.sum(axis=1)
    for row, code in enumerate(drawn):
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


def settings(scores: Vectors, alike: Vectors) -> Iterator[tuple[dict[str, Any], Vectors]]:
    """Every setting with its scores; the first leaves them as they are."""
    yield {"method": "none", "photos": 0, "weight": 0.0}, scores
    for found in FOUND:
        for weight in WEIGHTS:
            yield {"method": "expansion", "photos": found, "weight": weight}, expanded(scores, alike, found, weight)
    for neighbours in NEIGHBOURS:
        overlap = jaccard(scores, alike, neighbours)
        for weight in WEIGHTS:
            yield {"method": "jaccard", "photos": neighbours, "weight": weight}, scores + weight * overlap


def measure(names: list[str], place: Path) -> Iterator[dict[str, Any]]:
    """A row per study row, part of Sketchy and setting.

    Args:
        names: of study rows.
        place: the folder that holds `study-NAME/embeddings/` of each.

    Raises:
        PipelineError: a row's embeddings are missing.
    """
    for name in names:
        photos, sketches = open_retrieval(place / f"study-{name}" / "embeddings")
        compared = of_kind("pretext_whitened", photos, sketches).apply(photos.read(), "photo")
        for dataset, part in parts(photos.labels, sketches.labels, final=True).items():
            shown = compared[part[0]]
            labels = photos.labels.take(part[0]), sketches.labels.take(part[1])
            for how, scores in settings(scored(photos, sketches, "pretext_csls", part), shown @ shown.T):
                yield {"name": name, "dataset": dataset, "alignment": "pretext_csls", **how, **figures(scores, *labels)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="figures of lists ordered again by how alike the photos are")
    parser.add_argument("names", nargs="+", help="study rows")
    try:
        names = parser.parse_args().names
        found = pd.DataFrame(list(measure(names, ROOT / PLACE)))
        kept = pd.read_csv(ROOT / TABLE) if (ROOT / TABLE).exists() else found[:0]
        write_csv(ROOT / TABLE, pd.concat([kept[~kept["name"].isin(names)], found], ignore_index=True))
    except PipelineError as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
