"""Gathers the finished rows of the ablation: metrics/ablation/*.json -> metrics/ablation.csv and metrics/ablation.md.

`python -m experiments.table`, after any number of rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd

from experiments.grid import ROOT, Grid, read_grid
from pipeline_lib.data.files import read_json, write_text
from pipeline_lib.retrieval.comparison import write_csv

ROWS = ROOT / "metrics" / "ablation"
KIND: Final = "pretext_mean"
"""The alignment whose figures stand in the table; the others are in each row's JSON."""
FIGURES = ("instance_hit_at_5", "instance_hit_at_10", "in_class_hit_at_5", "class_hit_at_5", "class_hit_at_10")
TITLES = {
    "claim": "Runs that carry a claim, three seeds",
    "grid": "The rest of the grid, one seed",
    "ablation": "One change against the default (cross, conv5, BatchNorm)",
    "length": "Longer training of the default",
    "encoder": "Other encoders",
}
Record = dict[str, Any]


def finished(grid: Grid, folder: Path = ROWS) -> list[Record]:
    """The records of all rows that have been made, in the grid's order; skipped ones hold a reason alone."""
    return [read_json(folder / f"{name}.json") for name in grid.order if (folder / f"{name}.json").exists()]


def history(name: str) -> pd.DataFrame:
    """What a row's training went through, a line per epoch, columns as `cell.CURVE`."""
    return pd.read_csv(ROWS / f"{name}.csv")


def flat(record: Record) -> Record:
    """One line of metrics/ablation.csv."""
    pretext, found = record["pretext"], record["retrieval"][KIND]
    line = {
        key: record[key]
        for key in ("name", "group", "dataset", "encoder", "domain", "pretrained", "batch_norm", "epochs", "seed")
    }
    line["training_images"] = record["training_images"]
    for name in ("accuracy", "accuracy_one_patch"):
        low, high = pretext[f"{name}_ci95"]
        line |= {f"pretext_{name}": pretext[name], f"pretext_{name}_ci95": f"{low:.4f}-{high:.4f}"}
    for name in FIGURES:
        line[name] = found[name][0]
        if name.endswith("_5"):
            line |= {f"{name}_low": found[name][1], f"{name}_high": found[name][2]}
    return line | {"alignment": KIND, "seconds": record["seconds"], "commit": record["commit"]}


def percent(values: list[float]) -> str:
    """`33.1 [31.0, 35.2]` of a fraction and its interval."""
    value, low, high = (100 * number for number in values)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def markdown(grid: Grid, records: list[Record]) -> str:
    """The content of metrics/ablation.md."""
    done = [record for record in records if "skipped" not in record]
    skipped = [record for record in records if "skipped" in record]
    images = sorted({record["training_images"] for record in done})
    lines = [
        "# The ablation",
        "",
        (
            "Made by `dvc repro experiments/dvc.yaml:run`, gathered by `python -m experiments.table`; "
            f"{len(done)} of {len(grid.order)} rows are made, {len(skipped)} skipped."
        ),
        (
            f"Trained on {' or '.join(map(str, images)) or 'no'} photos (of VOC 2012 and `photos/`, less what must "
            "stay out), 26 epochs where the row says nothing else, linear warm-up over a tenth of the steps, then a "
            "cosine to 0. Pretext: accuracy on held-out photos, chance 12.5 %. Retrieval: fc6 on Sketchy at 224 px, "
            "whole gallery, means of pretext photos and edges removed. Hits in %, 95 % intervals in brackets."
        ),
    ]
    for group, title in TITLES.items():
        rows = [record for record in done if record["group"] == group]
        if not rows:
            continue
        lines += [
            "",
            f"## {title}",
            "",
            "| row | pretext | one patch | instance@5 | in class@5 | class@5 | seconds |",
            "|---|---|---|---|---|---|---|",
        ]
        for record in rows:
            pretext, found = record["pretext"], record["retrieval"][KIND]
            note = f" ({record['note']})" if record["note"] else ""
            cells = [f"`{record['name']}`{note}", percent([pretext["accuracy"], *pretext["accuracy_ci95"]])]
            cells.append(f"{100 * pretext['accuracy_one_patch']:.1f}")
            cells += [percent(found[name]) for name in ("instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5")]
            lines.append("| " + " | ".join([*cells, f"{record['seconds']:.0f}"]) + " |")
    if skipped:
        lines += ["", "## Skipped", "", "`dvc repro` makes these where what they lack is at hand.", ""]
        lines += [f"- `{record['name']}`: {record['skipped']}" for record in skipped]
    missing = [name for name in grid.order if name not in {record["name"] for record in records}]
    if missing:
        lines += ["", "## Not made yet", "", ", ".join(f"`{name}`" for name in missing)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes both files."""
    grid = read_grid()
    records = finished(grid)
    table = pd.DataFrame([flat(record) for record in records if "skipped" not in record])
    write_csv(ROOT / "metrics" / "ablation.csv", table)
    write_text(ROOT / "metrics" / "ablation.md", markdown(grid, records))
    print(f"ablation: {len(records)} of {len(grid.order)} rows gathered")


if __name__ == "__main__":
    main()
