"""The results of the README, written from the metrics files so that they cannot drift from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline_lib.data.files import read_json
from pipeline_lib.errors import PipelineError

BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"
BEGIN_ABLATION, END_ABLATION = "<!-- ablation: written by `make readme` -->", "<!-- end of ablation -->"

BEGIN_STUDY, END_STUDY = "<!-- study: written by `make readme` -->", "<!-- end of study -->"

FOLDERS = {
    "OpenMoji": "metrics",
    "OpenMoji, context prediction alone": "metrics/source",
    "VOC 2012 + Sketchy, context prediction alone": "metrics/voc_sketchy",
}
"""The data sets and settings of the README, and where their metrics lie below the repository."""
CHOSEN_ON, FINAL = "sketchy_even", ("sketchy_odd", "sketchy")
"""Parts of Sketchy: that by which the study's settings are chosen, and those that final rows are measured on."""
OURS = "context_fc6"


def rows_of(alignment: str) -> dict[str, str]:
    """Systems of comparison.csv in the order of the table, and what they are called there.

    Args:
        alignment: that of ours; the others are shown as they are and under the same.
    """
    return {
        "chance": "chance",
        "hog": "HOG on edges, learns nothing",
        f"hog+{alignment}": "the same, aligned like ours",
        "start_pool5": "frozen ImageNet AlexNet, pool5",
        f"start_pool5+{alignment}": "the same, aligned like ours",
        f"untrained_fc6+{alignment}": "fc6 before training",
        OURS: "**fc6 after training (ours)**",
    }


def results(folders: dict[str, Path]) -> str:
    """The results block.

    Args:
        folders: per data set's title the folder with pretext.json, comparison.csv and paired.csv.

    Raises:
        PipelineError: a file is missing or lacks a row.
    """
    parts = [
        "Pretext task, held-out images, chance 12.5 %; 95 % intervals in brackets:",
        "",
        "| | accuracy, % | from one patch alone | difference |",
        "|---|---|---|---|",
        *(_pretext_row(title, read_json(folder / "pretext.json")) for title, folder in folders.items()),
    ]
    for title, folder in folders.items():
        parts += ["", *_retrieval(title, folder)]
    return "\n".join([BEGIN, *parts, END])


def ablation(path: Path) -> str:
    """The ablation's block: the settings that carry a claim, their seeds together, with commits.

    Args:
        path: metrics/ablation.csv.

    Raises:
        PipelineError: the file is missing.
    """
    settings: dict[str, list[dict[Any, Any]]] = {}
    for row in _records(path):
        if row["group"] == "claim":
            settings.setdefault(row["name"].removesuffix(str(row["seed"])), []).append(row)
    lines = [
        BEGIN_ABLATION,
        "| runs | pretext, % | one patch | instance@5 | class@5 | photos | commits |",
        "|---" * 7 + "|",
    ]
    for name, rows in settings.items():
        cells = [f"`{name}{{{','.join(str(row['seed']) for row in rows)}}}`"]
        cells += [
            _spread([row[figure] for row in rows])
            for figure in ("pretext_accuracy", "pretext_accuracy_one_patch", "instance_hit_at_5", "class_hit_at_5")
        ]
        cells += [f"{rows[0]['training_images']:,}", ", ".join(dict.fromkeys(f"`{row['commit'][:7]}`" for row in rows))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, END_ABLATION])


def study(path: Path, datasets: tuple[str, ...], alignments: tuple[str, ...]) -> str:
    """The block of the retrieval study: a line per run, alignment and data set.

    Args:
        path: metrics/retrieval_study.csv.
        datasets: which parts of Sketchy to show.
        alignments: which kinds to show.

    Raises:
        PipelineError: the file is missing.
    """
    lines = [
        BEGIN_STUDY,
        "| run | measured on | alignment | instance@1 | instance@5 | class@5 | photos learned from | training, s |",
        "|---" * 8 + "|",
    ]
    for row in _records(path):
        if row["dataset"] in datasets and row["alignment"] in alignments:
            cells = [f"`{row['name']}`", f"`{row['dataset']}`", f"`{row['alignment']}`"]
            cells += [_percent(row["instance_hit_at_1"]), _interval(row, "instance_hit_at_5")]
            cells += [_interval(row, "class_hit_at_5"), f"{row['training_images']:,}", f"{row['train_seconds']:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, END_STUDY])


def with_results(text: str, block: str, page: str) -> str:
    """A page's text with a block in place of the old one; its first and last line say which.

    Raises:
        PipelineError: the text has no such block; names the page.
    """
    first, last = block.splitlines()[0], block.splitlines()[-1]
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise PipelineError(f"{page}: lacks the lines {first!r} and {last!r} between which results are written")
    return before + block + after


def _pretext_row(title: str, found: dict[str, Any]) -> str:
    cells = []
    for name in ("accuracy", "accuracy_one_patch", "accuracy_gain_over_one_patch"):
        low, high = found[f"{name}_ci95"]
        cells.append(_percent(found[name], low, high))
    return f"| {title}, {found['images']} images | " + " | ".join(cells) + " |"


def _retrieval(title: str, folder: Path) -> list[str]:
    table = _rows(folder / "comparison.csv", "system")
    if OURS not in table:
        raise PipelineError(f"{folder / 'comparison.csv'}: lacks the row {OURS}; run `dvc repro evaluate`")
    ours = table[OURS]
    rows = rows_of(ours["alignment"])
    missing = [name for name in rows if name not in table]
    if missing:
        raise PipelineError(f"{folder / 'comparison.csv'}: lacks the rows {missing}; run `dvc repro evaluate`")
    classes = not math.isnan(ours["class_hit_at_5"])
    columns = ["instance@1", "instance@5", "instance@10", *(["in class@5", "class@5", "mAP"] if classes else [])]
    lines = [
        f"**{title}**: {int(ours['queries']):,} drawings, {int(ours['gallery']):,} photos, hits in %.",
        "",
        "| | labels seen | " + " | ".join(columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for name, label in rows.items():
        row = table[name]
        cells = [
            _percent(row["instance_hit_at_1"]),
            _interval(row, "instance_hit_at_5"),
            _percent(row["instance_hit_at_10"]),
        ]
        if classes:
            cells += [_percent(row["in_class_hit_at_5"]), _interval(row, "class_hit_at_5"), _percent(row["map"])]
        lines.append(f"| {label} | {row['supervision']} | " + " | ".join(cells) + " |")
    return [*lines, "", _gain(folder, ours["alignment"], classes=classes)]


def _gain(folder: Path, alignment: str, *, classes: bool) -> str:
    path, name = folder / "paired.csv", f"untrained_fc6+{alignment}"
    paired = _rows(path, "against").get(name)
    if paired is None:
        raise PipelineError(f"{path}: lacks the row {name}; run `dvc repro evaluate`")
    words = (
        f"What training gives fc6, on the same drawings: instance@5 {_interval(paired, 'instance_hit_at_5', sign=True)}"
    )
    if classes:
        words += f", class@5 {_interval(paired, 'class_hit_at_5', sign=True)}"
    return words + " points."


def _rows(path: Path, key: str) -> dict[str, dict[Any, Any]]:
    return {str(row[key]): row for row in _records(path)}


def _records(path: Path) -> list[dict[Any, Any]]:
    if not path.exists():
        raise PipelineError(f"{path}: is not there; run `dvc repro`, `make source`, `make voc-sketchy` or `make study`")
    return pd.read_csv(path).to_dict("records")


def _interval(row: dict[Any, Any], name: str, *, sign: bool = False) -> str:
    return _percent(row[name], row[f"{name}_low"], row[f"{name}_high"], sign=sign)


def _spread(values: list[float]) -> str:
    """`36.1 (35.8 to 36.5)`: the mean over seeds, the smallest and the largest."""
    return f"{_percent(sum(values) / len(values))} ({_percent(min(values))} to {_percent(max(values))})"


def _percent(value: float, low: float | None = None, high: float | None = None, *, sign: bool = False) -> str:
    style = "+.1f" if sign else ".1f"
    text = format(100 * value, style)
    return text if low is None or high is None else f"{text} [{100 * low:{style}}, {100 * high:{style}}]"
