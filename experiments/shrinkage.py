"""How much the whitening's one constant matters: `python -m experiments.shrinkage FOLDER...`.

Each folder holds embeddings as the embed stage writes them. Writes metrics/retrieval_study_shrinkage.csv; Sketchy is
measured on the classes that settings are chosen by, other sets whole.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.grid import ROOT
from experiments.judge import figures, parts
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.alignment import Whitening, normalise
from pipeline_lib.retrieval.comparison import write_csv
from pipeline_lib.retrieval.fitting import fit_tables
from pipeline_lib.retrieval.vectors import open_pretext, open_retrieval
from pipeline_lib.retrieval.whitening import whiten

VALUES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TABLE = Path("metrics/retrieval_study_shrinkage.csv")


def measure(folder: Path) -> list[dict[str, object]]:
    """A row per value of the constant.

    Raises:
        PipelineError: a table is missing or can't be used.
    """
    (photos, sketches), (first, second) = open_retrieval(folder), open_pretext(folder)
    means = fit_tables(first, second)
    differences = normalise(first.read()) - means.photo_mean - (normalise(second.read()) - means.sketch_mean)
    dataset, gallery, queries = "openmoji", np.arange(len(photos)), np.arange(len(sketches))
    if photos.labels.class_names[0]:
        dataset = "sketchy_even"
        gallery, queries = parts(photos.labels, sketches.labels, final=False)[dataset]
    rows = []
    shown, drawn = photos.read()[gallery], sketches.read()[queries]
    labels = (photos.labels.take(gallery), sketches.labels.take(queries))
    for value in VALUES:
        alignment = replace(means, whitenings=(Whitening(*whiten(differences, value)),))
        scores = alignment.apply(drawn, "sketch") @ alignment.apply(shown, "photo").T
        found = figures(scores, *labels)
        rows.append({"dataset": dataset, "dim": photos.dimension, "shrinkage": value, **found})
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="hits by the shrinkage of the whitening")
    parser.add_argument("folders", nargs="+", type=Path, help="folders of embeddings")
    try:
        write_csv(
            ROOT / TABLE, pd.DataFrame([row for folder in parser.parse_args().folders for row in measure(folder)])
        )
    except PipelineError as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
