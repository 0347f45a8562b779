"""Tables made from the committed metrics, so that they cannot drift from them."""

from pathlib import Path
from typing import Any, Final

import pandas as pd

from pipeline_lib.errors import PipelineError

ENDS: Final = ("", "_low", "_high")
"""Of the names of a figure's columns: itself, and the ends of its interval."""
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

COMPARED: Final = {
    "`wavelet`, as digiKam and imgSeek search": ("none", "wavelet", "wavelet"),
    "`hog`": ("none", "hog", "hog"),
    "`hog+pretext_mean`": ("none", "hog+pretext_mean", "hog+pretext_mean"),
    "`spatial_pyramid_edges`": ("none", "spatial_pyramid_edges", "spatial_pyramid_edges"),
    "`alexnet_pool5`, frozen": ("ImageNet", "alexnet_pool5", "alexnet_pool5"),
    "`alexnet_pool5+pretext_mean`": ("ImageNet", "alexnet_pool5+pretext_mean", "alexnet_pool5+pretext_mean"),
    "`alexnet_pool5+pretext_whitened`": (
        "ImageNet",
        "alexnet_pool5+pretext_whitened",
        "alexnet_pool5+pretext_whitened",
    ),
    "the source's method without alignment: `source+none`, `voc-sketchy+none`": (
        "ImageNet",
        "source+none",
        "voc-sketchy+none",
    ),
    "the source's method: `source`, `voc-sketchy`": ("ImageNet", "source", "voc-sketchy"),
    "the default: `default`, `default-sketchy`": ("ImageNet", "default", "default-sketchy"),
}
"""Rows of the page of compared systems: labels seen, system on OpenMoji, system on Sketchy and Li 2014."""
FROZEN: Final = "alexnet_pool5"
"""The system that its differences are taken against."""
WEAKEST: Final = "wavelet"
"""A system that is not compared drawing by drawing."""

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


def compared(folder: Path) -> str:
    """The results block of the page of compared systems, from the folder of their metrics.

    Raises:
        PipelineError: a file is missing or lacks a row.
    """
    hits, differences = [], []
    for title, (labels, on_openmoji, on_others) in COMPARED.items():
        places = (("openmoji", on_openmoji), ("sketchy", on_others), ("li2014", on_others))
        rows = [_row(folder / "comparison.csv", system, dataset=dataset) for dataset, system in places]
        cells = [_percent(rows[0]["instance_hit_at_5"]), _percent(rows[1]["instance_hit_at_5"])]
        cells += [_percent(rows[1]["class_hit_at_5"]), f"{rows[2]['li_score_at_5']:.1f}"]
        hits.append(f"| {title} | {labels} | " + " | ".join(cells) + " |")
        if on_openmoji in {FROZEN, WEAKEST}:
            continue
        rows = [_row(folder / "paired.csv", system, dataset=name, against=FROZEN) for name, system in places]
        cells = [_interval(row, "instance_hit_at_5", "+.1f") for row in rows[:2]]
        cells.append("{:+.1f} [{:+.1f}, {:+.1f}]".format(*(rows[2][f"li_score_at_5{end}"] for end in ENDS)))
        differences.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(
        [
            BEGIN,
            "Hits at 5 in %, and Li's sum of ratings (chance 9.35, best possible 32.32):",
            "",
            "| row | labels seen | OpenMoji, instance | Sketchy, instance | Sketchy, class | Li 2014 |",
            "|---" * 6 + "|",
            *hits,
            "",
            f"Differences to `{FROZEN}` on the same drawings, in points, with 95 % intervals:",
            "",
            "| row | OpenMoji, instance | Sketchy, instance | Li 2014 |",
            "|---" * 4 + "|",
            *differences,
            END,
        ]
    )


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
    values = [_row(path, name + end, key="what")["value"] for end in ENDS]
    return "{:.1f} [{:.1f}, {:.1f}]".format(*values)


def _interval(row: dict[Any, Any], name: str, form: str = ".1f") -> str:
    value, low, high = (_percent(row[name + end], form) for end in ENDS)
    return f"{value} [{low}, {high}]"


def _percent(value: float, form: str = ".1f") -> str:
    return format(100 * value, form)
