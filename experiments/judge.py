"""Measures a row of the retrieval study and writes its table: `python -m experiments.judge DATA OUT [--final]`.

A part of Sketchy is measured on its own gallery: `sketchy_even` holds the photos and sketches of the classes at even
places (from 1) of the alphabetical list, `sketchy_odd` those of the others, `sketchy` all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.grid import ROOT, read_grid
from experiments.study import OUT, STUDY
from pipeline_lib.baselines.similarity import score_blocks
from pipeline_lib.data.files import read_json, write_json
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.alignment import KINDS, Kind
from pipeline_lib.retrieval.comparison import write_csv
from pipeline_lib.retrieval.evaluation import Evaluation, evaluate_scores, rounded
from pipeline_lib.retrieval.fitting import of_kind
from pipeline_lib.retrieval.ranking import rank_scores
from pipeline_lib.retrieval.vectors import EmbeddingTable, Labels, Vectors, open_retrieval

RESAMPLES, SEED = 2000, 0
PHOTOS = 5
# Neither hubs, which are known by drawings, nor the drawings of a test have a say in how alike photos are.
OF_PHOTOS: tuple[Kind, ...] = ("none", "pretext_mean", "pretext_whitened")
FIGURES = ("instance_hit_at_1", "instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5", "map")
WITH_INTERVAL = ("instance_hit_at_5", "class_hit_at_5")
TABLE = Path("metrics/retrieval_study.csv")

Rows = NDArray[np.intp]


def parts(photos: Labels, sketches: Labels, *, final: bool) -> dict[str, tuple[Rows, Rows]]:
    """Per data set the rows of its photos and of its sketches."""
    names = np.unique(photos.class_names)
    classes = {"sketchy_even": names[1::2]}
    if final:
        classes |= {"sketchy_odd": names[::2], "sketchy": names}
    return {
        name: (
            np.flatnonzero(np.isin(photos.class_names, members)),
            np.flatnonzero(np.isin(sketches.class_names, members)),
        )
        for name, members in classes.items()
    }


def scored(photos: EmbeddingTable, sketches: EmbeddingTable, kind: Kind, part: tuple[Rows, Rows]) -> Vectors:
    """The scores of a part's M sketches against its N photos, float32[M, N]."""
    return np.concatenate(list(score_blocks(photos, sketches, kind, part)))


def measure(data: Path, *, final: bool) -> list[dict[str, Any]]:
    """One row per alignment and part.

    Raises:
        PipelineError: embeddings are missing or can't be used.
    """
    photos, sketches = open_retrieval(data / "embeddings")
    shown, alignments = photos.read(), {kind: of_kind(kind, photos, sketches) for kind in OF_PHOTOS}
    rows = []
    for dataset, part in parts(photos.labels, sketches.labels, final=final).items():
        scores = {kind: scored(photos, sketches, kind, part) for kind in KINDS}
        precisions: dict[str, float | None] = {
            kind: rounded(photo_precision(alignment.apply(shown[part[0]], "photo"), photos.labels.take(part[0])))
            for kind, alignment in alignments.items()
        }
        rows += [
            {"dataset": dataset, "alignment": name, "transductive": name == "transductive_mean"}
            | figures(values, photos.labels.take(part[0]), sketches.labels.take(part[1]))
            | {"photo_precision_at_5": precisions.get(name), "dim": photos.dimension}
            for name, values in scores.items()
        ]
    # By alignment first; sorting keeps the order of the parts.
    return sorted(rows, key=lambda row: KINDS.index(row["alignment"]))


def photo_precision(vectors: Vectors, labels: Labels) -> float:
    """The part of a photo's five nearest other photos that are of its class: what the network knows of photos alone.

    Args:
        vectors: float32[M, D], aligned photos.
        labels: theirs.
    """
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.concatenate([block.rows[:, :PHOTOS] for block in rank_scores(scores, labels.image_ids)])
    return float((labels.class_names[nearest] == labels.class_names[:, None]).mean())


def figures(scores: Vectors, gallery: Labels, queries: Labels) -> dict[str, Any]:
    """The figures of a score matrix, float32[M, N]."""
    return figures_of(evaluate_scores(scores, gallery, queries))


def figures_of(found: Evaluation) -> dict[str, Any]:
    """The figures of what was found; those of WITH_INTERVAL with the ends of their 95 % intervals."""
    intervals = found.intervals(RESAMPLES, SEED)
    row: dict[str, Any] = {name: rounded(intervals[name].estimate) for name in FIGURES}
    for name in WITH_INTERVAL:
        row |= {f"{name}_low": rounded(intervals[name].low), f"{name}_high": rounded(intervals[name].high)}
    return row | {"queries": len(found.queries), "gallery": len(found.gallery)}


def table() -> None:
    """Writes metrics/retrieval_study.csv from the finished rows, in the order of study.yaml."""
    lines = []
    for name in read_grid(STUDY).order:
        path = ROOT / OUT / f"{name}.json"
        if path.exists():
            record = read_json(path)
            found, ends = record.pop("rows"), {key: record.pop(key) for key in ("hypothesis", "command")}
            del record["set"]
            lines += [{**record, **row, **ends} for row in found]
    write_csv(ROOT / TABLE, pd.DataFrame(lines))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="figures of the retrieval study")
    parser.add_argument("paths", nargs="*", type=Path, help="data folder and target file")
    parser.add_argument("--final", action="store_true", help="also the reporting classes and the whole gallery")
    parser.add_argument("--table", action="store_true", help="write the table of all finished rows")
    given = parser.parse_args()
    try:
        if given.table:
            table()
        else:
            data, out = given.paths
            write_json(out, measure(data, final=given.final))
    except PipelineError as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
