"""Figures of lists that repeat themselves less: `python -m experiments.diversity NAME...`, names of study rows.

Hubs are counted less, photos compared by their whitened vectors. Writes metrics/retrieval_study_diversity.csv; the
weight is chosen by `sketchy_even`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.cell import PLACE
from experiments.grid import ROOT
from experiments.judge import figures_of, parts, scored
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.comparison import write_csv
from pipeline_lib.retrieval.diversity import diversify
from pipeline_lib.retrieval.evaluation import evaluate_rankings
from pipeline_lib.retrieval.fitting import of_kind
from pipeline_lib.retrieval.ranking import Ranked, Rows, rank_scores
from pipeline_lib.retrieval.vectors import Vectors, open_retrieval

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3)
TABLE = Path("metrics/retrieval_study_diversity.csv")


def measure(names: list[str], place: Path) -> Iterator[dict[str, Any]]:
    """A row per study row, part of Sketchy and weight.

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
            gallery, queries = photos.labels.take(part[0]), sketches.labels.take(part[1])
            shown = compared[part[0]]
            found = list(rank_scores(scored(photos, sketches, "pretext_csls", part), gallery.image_ids))
            for weight in WEIGHTS:
                values = figures_of(evaluate_rankings(_diverse(found, shown, weight), gallery, queries))
                yield {"name": name, "dataset": dataset, "alignment": "pretext_csls", "weight": weight, **values}


def _diverse(found: list[Ranked], photos: Vectors, weight: float) -> Iterator[Ranked]:
    def alike(rows: Rows) -> Vectors:
        similarities: Vectors = photos[rows] @ photos[rows].T
        return similarities

    return (diversify(block, alike, weight) for block in found)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="figures of lists that repeat themselves less")
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
