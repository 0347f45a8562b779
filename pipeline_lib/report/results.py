"""Tables made from the committed metrics, so that they cannot drift from them."""

from pathlib import Path
from typing import Any, Final

import pandas as pd

from pipeline_lib.errors import PipelineError

BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"

OPENMOJI, SOURCE, SKETCHY = "comparison.csv", "source/comparison.csv", "comparison/comparison.csv"
DEFAULT_SKETCHY = "default-sketchy/comparison.csv"
ROWS: Final = {
    "HOG on edges, learns nothing": ("none", (OPENMOJI, "hog+pretext_mean"), (DEFAULT_SKETCHY, "hog+pretext_mean")),
    "frozen AlexNet, aligned as the default is": (
        "ImageNet",
        (OPENMOJI, "default-start+pretext_whitened"),
        (DEFAULT_SKETCHY, "default-sketchy-start+pretext_whitened"),
    ),
    "the source's method: `source`, `voc-sketchy`": ("ImageNet", (SOURCE, "source"), (SKETCHY, "voc-sketchy")),
    "**the default: `default`, `default-sketchy`**": (
        "ImageNet",
        (OPENMOJI, "default"),
        (DEFAULT_SKETCHY, "default-sketchy"),
    ),
}
"""Rows of the README's table: labels seen, file and system on OpenMoji, file and system on Sketchy."""
DATASETS: Final = ("openmoji", "sketchy")
BEST: Final = ("best", "sketchy", "pretext_csls")
"""Row of the study that the README names below its table."""

PARTS: Final = {
    "sketchy": "Sketchy, the whole gallery",
    "sketchy_odd": "Sketchy, the 50 classes at odd places of the alphabetical list",
    "sketchy_even": "Sketchy, the 50 classes at even places, on which settings are chosen",
}
"""Parts of Sketchy that the study is measured on; final rows on all of them, the others on the last."""
ALIGNMENTS: Final = {
    "none": "none",
    "pretext_mean": "means removed",
    "pretext_whitened": "whitened",
    "pretext_csls": "whitened, hubness corrected",
}
"""Alignments of the study that look at no query."""


def results(metrics: Path) -> str:
    """The results block of the README, from the folder of the committed metrics.

    Raises:
        PipelineError: a file is missing or lacks a row.
    """
    lines = [
        BEGIN,
        "| hits in the first 5, % | labels seen | OpenMoji: the photo | Sketchy: the photo | Sketchy: its class |",
        "|---" * 5 + "|",
    ]
    for title, (labels, *places) in ROWS.items():
        found, other = (
            _row(metrics / file, system, dataset=name) for name, (file, system) in zip(DATASETS, places, strict=True)
        )
        cells = [labels, _interval(found, "instance_hit_at_5")]
        cells += [_interval(other, "instance_hit_at_5"), _interval(other, "class_hit_at_5")]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    name, dataset, alignment = BEST
    best = _row(metrics / "retrieval_study.csv", name, key="name", dataset=dataset, alignment=alignment)
    words = f"{_interval(best, 'instance_hit_at_5')} and {_interval(best, 'class_hit_at_5')}"
    return "\n".join([*lines, "", f"On Sketchy the recipe `{name}` finds {words}.", END])


def study(path: Path) -> str:
    """The page of the retrieval study (metrics/retrieval_study.csv): its rows, and a table for each part of Sketchy.

    Raises:
        PipelineError: the file is missing.
    """
    table = _read(path)
    lines = [
        "# The retrieval study, all rows",
        "",
        "Written by `make readme` from retrieval_study.csv, which holds more figures and the transductive alignment.",
        "What the rows taught: [docs/retrieval.md](../docs/retrieval.md). Hits in %, 95 % intervals over photos.",
        "",
        "| row | hypothesis | photos learned from | training, s |",
        "|---|---|---|---|",
    ]
    for row in table.drop_duplicates("name").to_dict("records"):
        seconds = f"{row['train_seconds']:.0f}"
        lines.append(f"| `{row['name']}` | {row['hypothesis']} | {row['training_images']:,} | {seconds} |")
    for part, title in PARTS.items():
        lines += ["", f"## {title}", "", "| row | alignment | instance@1 | instance@5 | class@5 |", "|---" * 5 + "|"]
        shown = table[(table["dataset"] == part) & table["alignment"].isin(list(ALIGNMENTS))]
        for row in shown.to_dict("records"):
            cells = [f"`{row['name']}`", ALIGNMENTS[row["alignment"]], _percent(row["instance_hit_at_1"])]
            cells += [_interval(row, "instance_hit_at_5"), _interval(row, "class_hit_at_5")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def with_results(text: str, block: str, page: str) -> str:
    """A page's text with `block` in place of the old one; the block's first and last line mark where it stands.

    Raises:
        PipelineError: the text has no such block; names the page.
    """
    first, last = block.splitlines()[0], block.splitlines()[-1]
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise PipelineError(f"{page}: lacks the lines {first!r} and {last!r} between which results are written")
    return before + block + after


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise PipelineError(f"{path}: is not there; check it out again")
    return pd.read_csv(path)


def _row(path: Path, name: str, key: str = "system", **where: str) -> dict[Any, Any]:
    table = _read(path)
    for column, value in {key: name, **where}.items():
        table = table[table[column] == value]
    if table.empty:
        raise PipelineError(f"{path}: lacks the row {name}; check the file out again, or make it again")
    return dict(table.iloc[0])


def _interval(row: dict[Any, Any], name: str) -> str:
    return f"{_percent(row[name])} [{_percent(row[f'{name}_low'])}, {_percent(row[f'{name}_high'])}]"


def _percent(value: float) -> str:
    return format(100 * value, ".1f")
