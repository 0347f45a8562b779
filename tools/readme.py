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
    readme, retrieval = ROOT / "README.md", ROOT / "docs" / "retrieval.md"
    table = ROOT / "metrics" / "retrieval_study.csv"
    blocks = {
        readme: (
            results({title: ROOT / folder for title, folder in FOLDERS.items()}),
            ablation(ROOT / "metrics" / "ablation.csv"),
            study(table, WHOLE, BEST),
        ),
        retrieval: (study(table, (CHOSEN_ON, *FINAL), FITTED),),
    }
    for path, some in blocks.items():
        text = path.read_text(encoding="utf-8")
        for block in some:
            text = with_results(text, block, str(path))
        write_text(path, text)


if __name__ == "__main__":
    try:
        main()
    except PipelineError as failure:
        sys.exit(f"error: {failure}")
