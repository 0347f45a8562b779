"""Makes tables of README and docs, metrics/retrieval_study.md and the charts from metrics: `python -m tools.readme`."""

import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from pipeline_lib.errors import PipelineError
from pipeline_lib.files import replacing, write_text
from pipeline_lib.report.charts import dots, levels
from pipeline_lib.report.results import ALIGNMENTS, compared, results, study, with_results

ROOT = Path(__file__).resolve().parents[1]
METRICS, PICTURES = ROOT / "metrics", ROOT / "docs" / "pictures"
README, STUDY = ROOT / "README.md", METRICS / "retrieval_study.md"
COMPARISON = ROOT / "docs" / "comparison.md"

INSTANCE, OF_CLASS, PRETEXT = "instance_hit_at_5", "class_hit_at_5", "pretext_accuracy"
HITS = {INSTANCE: "the photo among the first 5, %", OF_CLASS: "its class among the first 5, %"}
CHANGES = (
    *("context", "contrast", "joint", "size-224", "strong", "wide", "kept", "taught"),
    *("spotlight", "slow-start", "soft", "sharp", "large-batch", "mirror"),
)
"""Rows of the study on 1,803 photos that change one thing in `contrast`, or are what it changes."""
REFERENCE = "cross-conv5-bn-s0"
"""The row of the ablation that others change one thing in."""


class Chart(NamedTuple):
    """A chart and the numbers that it shows."""

    figure: Figure
    table: pd.DataFrame

    def save(self, path: Path) -> None:
        """Writes a PNG that carries its numbers, so that a test can tell whether it is up to date."""
        with replacing(path) as aside:
            about = {"Description": self.table.to_csv(index=False), "Software": None}
            self.figure.savefig(aside, format="png", metadata=about, pil_kwargs={"optimize": True})


def charts() -> dict[str, Chart]:
    """Per name of its file a chart of docs."""
    rows = pd.read_csv(METRICS / "retrieval_study.csv")
    rows = rows.assign(series=rows["alignment"].map(ALIGNMENTS)).dropna(subset="series")
    hits = ["name", "series", *(column + end for column in HITS for end in ("", "_low", "_high"))]
    every, best = list(ALIGNMENTS.values()), [ALIGNMENTS["pretext_csls"]]

    final = rows[rows["dataset"] == "sketchy"][hits]
    order = final[final["series"] == best[0]].sort_values(INSTANCE, ascending=False)["name"]
    final = final.set_index("name").loc[list(order)].reset_index()
    changes = rows[(rows["dataset"] == "sketchy_even") & rows["series"].isin(best) & rows["name"].isin(CHANGES)][hits]

    grid = pd.read_csv(METRICS / "ablation.csv")
    ends = grid["pretext_accuracy_ci95"].str.split("-", expand=True).astype(float)
    grid = grid.assign(series="all", pretext_accuracy_low=ends[0], pretext_accuracy_high=ends[1])
    panels = {PRETEXT: "directions told, %", **HITS}
    single = grid[(grid["name"] == REFERENCE) | grid["group"].isin(["ablation", "length"])]
    single = single[["name", "series", *(column + end for column in panels for end in ("", "_low", "_high"))]]
    norm = grid["batch_norm"].map({True: "BatchNorm", False: "plain"})
    levelled = grid.assign(series=grid["domain"] + ", " + norm)[grid["group"].isin(["claim", "grid"])]
    levelled = levelled.sort_values(["domain", "batch_norm", "name"], ascending=[True, False, True])
    levelled = levelled[["name", "series", "pretrained", *panels]]
    return {
        "study.png": Chart(dots(final, HITS, every), final),
        "study_changes.png": Chart(dots(changes, HITS, best, "contrast"), changes),
        "ablation_levels.png": Chart(levels(levelled, panels), levelled),
        "ablation_changes.png": Chart(dots(single, panels, ["all"], REFERENCE), single),
    }


def main() -> None:
    """Rewrites all of them."""
    write_text(README, with_results(README.read_text(encoding="utf-8"), results(METRICS), str(README)))
    page = COMPARISON.read_text(encoding="utf-8")
    write_text(COMPARISON, with_results(page, compared(METRICS / "comparison"), str(COMPARISON)))
    write_text(STUDY, study(METRICS / "retrieval_study.csv"))
    for name, chart in charts().items():
        chart.save(PICTURES / name)


if __name__ == "__main__":
    try:
        main()
    except PipelineError as failure:
        sys.exit(f"error: {failure}")
