"""Writes the results blocks of README.md and docs/retrieval.md from the committed metrics: `python -m tools.readme`."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline_lib.data.files import write_text
from pipeline_lib.errors import PipelineError
from pipeline_lib.report.results import CHOSEN_ON, FINAL, FOLDERS, ablation, results, study, with_results

ROOT = Path(__file__).resolve().parents[1]
WHOLE = ("sketchy",)  # of the study's parts, the whole gallery
BEST = ("pretext_csls",)  # of its alignments, the one that finds most without a look at the queries
FITTED = ("pretext_mean", "pretext_whitened", *BEST)


def main() -> None:
    """Rewrites both."""
    folders = {title: ROOT / folder for title, folder in FOLDERS.items()}
    path = ROOT / "README.md"
    text = with_results(path.read_text(encoding="utf-8"), results(folders))
    text = with_results(text, ablation(ROOT / "metrics" / "ablation.csv"))
    table, page = ROOT / "metrics" / "retrieval_study.csv", ROOT / "docs" / "retrieval.md"
    write_text(path, with_results(text, study(table, WHOLE, BEST)))
    write_text(page, with_results(page.read_text(encoding="utf-8"), study(table, (CHOSEN_ON, *FINAL), FITTED)))


if __name__ == "__main__":
    try:
        main()
    except PipelineError as failure:
        sys.exit(f"error: {failure}")
