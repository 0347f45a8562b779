"""Stage report: pictures of what was learned and found.

Reads data/pairs, data/patches, data/rankings.parquet and metrics/training.csv. Pictures of the embedded data set go to
metrics/pictures/, which git keeps; pictures of other photos go to private/NAME/ of the repository, which git ignores.
"""

from __future__ import annotations

from pathlib import Path

from common import ROOT, SCRATCH, run

import pandas as pd

from pipeline_lib.data.schemas import read_catalog, read_table
from pipeline_lib.data.source import open_source
from pipeline_lib.files import exclusive, publish_folder, repository
from pipeline_lib.params import Params
from pipeline_lib.report.canvas import save_png
from pipeline_lib.report.pretext_grid import pretext_grid, read_examples
from pipeline_lib.report.retrieval_grid import NO_QUERIES, choose_queries, grid_rows, retrieval_grid
from pipeline_lib.report.training_curve import read_history, training_curve

EXAMPLES = 3


def main(params: Params, data: Path, metrics: Path) -> None:
    """Draws the pictures."""
    report, dataset = params.report, params.catalog.dataset
    catalog = read_catalog(data / "catalog.parquet")
    rankings: pd.DataFrame = read_table(data / "rankings.parquet").to_pandas()
    if rankings.empty:
        print(f"report: {NO_QUERIES}")
    chosen = choose_queries(rankings, report.queries, report.seed)
    rows = grid_rows(chosen, catalog, open_source(params.catalog, ROOT), report.neighbours)
    examples = read_examples(data / "pairs", data / "patches", EXAMPLES, report.seed)

    public = SCRATCH / "pictures"
    private = public if dataset == "openmoji" else repository(ROOT) / "private" / params.name
    with exclusive(public):
        save_png(public / "training_curve.png", training_curve(read_history(metrics / "training.csv")))
        gallery = int((catalog["role"] == "gallery").sum())
        save_png(private / "retrieval_grid.png", retrieval_grid(rows, gallery=gallery))
        save_png(private / "pretext_examples.png", pretext_grid(examples))
        publish_folder(public, metrics / "pictures")
    print(f"report: pictures in {metrics / 'pictures'}" + ("" if private == public else f" and {private}"))


if __name__ == "__main__":
    run(main)
