"""Tables made from the committed metrics, so that they cannot drift from them."""

from pathlib import Path
from typing import Any, Final

import pandas as pd

from pipeline_lib.errors import PipelineError

BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"

OPENMOJI, SOURCE, SKETCHY = "comparison.csv", "source/comparison.csv", "comparison/comparison.csv"
ROWS: Final = {
    "HOG on edges, learns nothing": ("none", (OPENMOJI, "hog+pretext_mean"), "hog+pretext_mean"),
    "frozen AlexNet, aligned as the default is": (
        "ImageNet",
        (OPENMOJI, "default-untrained+pretext_whitened"),
        "alexnet_pool5+pretext_whitened",
    ),
    "the source's method: `source`, `voc-sketchy`": ("ImageNet", (SOURCE, "source"), "voc-sketchy"),
    "**the default: `default`**": ("ImageNet", (OPENMOJI, "default"), ""),
}
"""Rows of the README's table: labels seen, file and system on OpenMoji, system on Sketchy."""
BOX: Final = "**the model that comes with the program: `photos`**"
OWN_PHOTOS: Final = ("own_photos.csv", ("sketchy_instance_hit_at_5", "sketchy_class_hit_at_5"))
"""Its row, measured through the command line: title, file and figures, %."""
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
    for title, (labels, (file, system), on_sketchy) in ROWS.items():
        cells = [labels, _interval(_row(metrics / file, system), "instance_hit_at_5")]
        names = ("instance_hit_at_5", "class_hit_at_5")
        other = _row(metrics / SKETCHY, on_sketchy, dataset="sketchy") if on_sketchy else None
        cells += [_interval(other, name) if other else "" for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    file, names = OWN_PHOTOS
    cells = ["ImageNet", "", *(_measured(metrics / file, name) for name in names)]
    lines.append(f"| {BOX} | " + " | ".join(cells) + " |")
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


def _measured(path: Path, name: str) -> str:
    """A figure of a table of figures, with the ends of its interval, %."""
    values = [_row(path, name + end, key="what")["value"] for end in ("", "_low", "_high")]
    return "{:.1f} [{:.1f}, {:.1f}]".format(*values)


def _interval(row: dict[Any, Any], name: str) -> str:
    return f"{_percent(row[name])} [{_percent(row[f'{name}_low'])}, {_percent(row[f'{name}_high'])}]"


def _percent(value: float) -> str:
    return format(100 * value, ".1f")
