"""The finished rows of the ablation and their tables: metrics/ablation/*.json -> metrics/ablation.csv, ablation.md."""

from collections.abc import Iterable
from typing import Any, Final

import pandas as pd

from experiments.recipes import ROOT
from experiments.study import write_table
from pipeline_lib.files import write_text

ROWS = ROOT / "metrics" / "ablation"
REFERENCE: Final = "cross-conv5-bn-s0"
"""The row that others change one thing in; its network is kept, and start weights are measured beside it."""
UNTRAINED, START = f"{REFERENCE}-untrained", f"{REFERENCE}-start"
KIND: Final = "pretext_mean"
"""The alignment whose figures stand in the table; the others are in each row's JSON."""
FIGURES = ("instance_hit_at_5", "instance_hit_at_10", "in_class_hit_at_5", "class_hit_at_5", "class_hit_at_10")
CLASSES = ("airplane", "bicycle", "car_(sedan)", "cat", "chair", "cow", "dog", "horse", "motorcycle", "sheep")
"""The source's ten classes, by Sketchy's names."""
PER_CLASS = ("instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5")
SETTINGS = ("encoder", "domain", "pretrained", "batch_norm", "epochs", "seed")
TITLES = {
    "claim": "Runs that carry a claim, three seeds",
    "grid": "The rest of the grid, one seed",
    "ablation": f"One change in `{REFERENCE}`",
    "length": f"Longer training of `{REFERENCE}`",
    "encoder": "Other encoders",
}
Record = dict[str, Any]


def history(name: str) -> pd.DataFrame:
    """The course of a row's training, a line per epoch, columns as `ablation.CURVE`."""
    return pd.read_csv(ROWS / f"{name}.csv")


def flat(record: Record) -> Record:
    """One line of metrics/ablation.csv."""
    pretext, found = record["pretext"], record["retrieval"][KIND]
    line = {key: record[key] for key in ("name", "group", "dataset", *SETTINGS, "training_images")}
    for name in ("accuracy", "accuracy_one_patch"):
        low, high = pretext[f"{name}_ci95"]
        line |= {f"pretext_{name}": pretext[name], f"pretext_{name}_ci95": f"{low:.4f}-{high:.4f}"}
    for name in FIGURES:
        line[name] = found[name][0]
        if name.endswith("_5"):
            line |= {f"{name}_low": found[name][1], f"{name}_high": found[name][2]}
    return line | {"alignment": KIND, "seconds": record["seconds"], "commit": record["commit"]}


def percent(values: Iterable[float]) -> str:
    """`33.1 [31.0, 35.2]` of a fraction and its interval."""
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * value for value in values))


def cells(record: Record) -> list[str]:
    """One line of metrics/ablation.md."""
    pretext, found = record["pretext"], record["retrieval"][KIND]
    note = f" ({record['note']})" if record["note"] else ""
    return [
        f"`{record['name']}`{note}",
        percent([pretext["accuracy"], *pretext["accuracy_ci95"]]),
        f"{100 * pretext['accuracy_one_patch']:.1f}",
        *(percent(found[name]) for name in PER_CLASS),
        f"{record['seconds']:.0f}",
    ]


def markdown(order: list[str], records: list[Record]) -> str:
    """The content of metrics/ablation.md.

    Args:
        order: names of all rows.
        records: those that are made or skipped.
    """
    skipped = [record for record in records if "skipped" in record]
    done = [record for record in records if "skipped" not in record]
    images = " or ".join(map(str, sorted({record["training_images"] for record in done})))
    lines = [
        "# The ablation",
        "",
        f"Written by `make ablation`; {len(done)} of {len(order)} rows are made, {len(skipped)} skipped.",
        (
            f"Trained on {images or 'no'} photos of VOC 2012 and `photos/`, without those that occur in a benchmark, "
            "for 26 epochs unless the row says otherwise; linear warm-up over a tenth of the steps, then a cosine to "
            "0. Pretext: accuracy on held-out photos, chance 12.5 %. Retrieval: fc6 on Sketchy at 224 px, whole "
            "gallery, means of pretext photos and edges removed. Hits in %, 95 % intervals."
        ),
    ]
    head = ["| row | pretext | one patch | instance@5 | in class@5 | class@5 | seconds |", "|---" * 7 + "|"]
    for group, title in TITLES.items():
        rows = [f"| {' | '.join(cells(record))} |" for record in done if record["group"] == group]
        lines += ["", f"## {title}", "", *head, *rows] if rows else []
    if skipped:
        lines += ["", "## Skipped", "", "`make ablation` makes these where their weights are at hand.", ""]
        lines += [f"- `{record['name']}`: {record['skipped']}" for record in skipped]
    missing = [name for name in order if name not in {record["name"] for record in records}]
    if missing:
        lines += ["", "## Not made yet", "", ", ".join(f"`{name}`" for name in missing)]
    return "\n".join(lines) + "\n"


def write(order: list[str], records: list[Record]) -> None:
    """Writes both files; arguments as in `markdown`."""
    write_table("ablation", [flat(record) for record in records if "skipped" not in record])
    write_text(ROOT / "metrics" / "ablation.md", markdown(order, records))
    print(f"ablation: {len(records)} of {len(order)} rows gathered")
