"""Gathers the finished rows of the ablation: metrics/ablation/*.json -> metrics/ablation.csv and ablation.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd

from experiments.measuring import write_table
from experiments.recipes import ABLATION, ROOT, Recipes
from pipeline_lib.files import read_json, write_text

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


def finished(recipes: Recipes, folder: Path = ROWS) -> list[Record]:
    """The records of all rows that have been made, in their order; skipped ones hold nothing but a reason."""
    paths = [folder / f"{name}.json" for name in recipes.rows(ABLATION)]
    return [read_json(path) for path in paths if path.exists()]


def history(name: str) -> pd.DataFrame:
    """The course of a row's training, a line per epoch, columns as `ablation.CURVE`."""
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


def markdown(order: list[str], records: list[Record]) -> str:
    """The content of metrics/ablation.md.

    Args:
        order: names of all rows.
        records: those that are made or skipped.
    """
    done = [record for record in records if "skipped" not in record]
    skipped = [record for record in records if "skipped" in record]
    images = sorted({record["training_images"] for record in done})
    lines = [
        "# The ablation",
        "",
        (f"Written by `make ablation`; {len(done)} of {len(order)} rows are made, {len(skipped)} skipped."),
        (
            f"Trained on {' or '.join(map(str, images)) or 'no'} photos of VOC 2012 and `photos/`, without those that "
            "occur in a benchmark, for 26 epochs unless the row says otherwise; linear warm-up over a tenth of the "
            "steps, then a cosine to 0. Pretext: accuracy on held-out photos, chance 12.5 %. Retrieval: fc6 on Sketchy "
            "at 224 px, whole gallery, means of pretext photos and edges removed. Hits in %, 95 % intervals."
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
        lines += ["", "## Skipped", "", "`make ablation` makes these where their weights are at hand.", ""]
        lines += [f"- `{record['name']}`: {record['skipped']}" for record in skipped]
    missing = [name for name in order if name not in {record["name"] for record in records}]
    if missing:
        lines += ["", "## Not made yet", "", ", ".join(f"`{name}`" for name in missing)]
    return "\n".join(lines) + "\n"


def write(recipes: Recipes) -> None:
    """Writes both files."""
    records, order = finished(recipes), recipes.rows(ABLATION)
    write_table("ablation", [flat(record) for record in records if "skipped" not in record])
    write_text(ROOT / "metrics" / "ablation.md", markdown(order, records))
    print(f"ablation: {len(records)} of {len(order)} rows gathered")
