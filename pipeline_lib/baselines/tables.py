"""The tables of the comparison: figures with intervals, differences from frozen AlexNet, classes, and Markdown.

A call that measures a few systems replaces their rows and keeps the others (`updated`, `kept_reasons`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline_lib.baselines.measure import LI_COLUMNS, NAMES, Measured
from pipeline_lib.data.li2014 import SKETCHY_CLASSES, SOURCE_CLASSES
from pipeline_lib.evaluation.evaluation import rounded, with_ends
from pipeline_lib.evaluation.li_score import mean_over_classes
from pipeline_lib.intervals import Interval, bootstrap_mean
from pipeline_lib.registry import TRANSDUCTIVE

FIGURES = (
    "instance_hit_at_1",
    "instance_hit_at_5",
    "instance_hit_at_10",
    "in_class_hit_at_1",
    "in_class_hit_at_5",
    "in_class_hit_at_10",
    "class_hit_at_1",
    "class_hit_at_5",
    "class_hit_at_10",
    "map",
    *LI_COLUMNS,
)
OF_CLASS = ("instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5", *LI_COLUMNS)
AGAINST = "alexnet_pool5"
LAST = 3
FIRST = ("chance", "oracle")
DATASETS = (
    *("sketchy", "sketchy_test", "sketchy_test_unseen", "sketchy_community_test"),
    *(f"{name}{subset}" for name in ("li2014", "li2014_img") for subset in ("", "_last3", "_14", "_14_last3")),
    "openmoji",
)
"""The order of all tables: Sketchy and its parts, Li 2014 and its subsets, the embedded set."""


class Reported(NamedTuple):
    """A published figure and what it is."""

    value: float
    what: str


_LI = "ten classes, top 5"
_SKETCHY = "hits in the top 5 over the sketches of ten classes; protocol not stated"

REPORTED: dict[tuple[str, str], Reported] = {
    ("spatial_pyramid", "li2014"): Reported(11.88, f"11.88 ({_LI}; Li et al. 2014)"),
    ("li_dpm", "li2014"): Reported(18.57, f"18.57 ({_LI}; Li et al. 2014)"),
    ("li_dpm", "li2014_img"): Reported(18.57, f"18.57 ({_LI}; Li et al. 2014)"),
    ("triplet_alexnet", "li2014"): Reported(19.8, f"19.8 ({_LI}; Sangkloy et al. 2016, trained on all of Sketchy)"),
    ("alexnet_pool5", "sketchy"): Reported(12.53, f"12.53 % ({_SKETCHY}; the source)"),
    ("voc-sketchy", "sketchy"): Reported(12.87, f"12.87 % ({_SKETCHY}; the source)"),
}
"""By row and data set, what others published, apart from everything measured here.

Source: A. Joshi, O. Sakhi, S. Velury, "Unsupervised Sketch-Based Image Retrieval using Cross-Domain Context Prediction"
(2019), its table of top-5 results. The table puts sums of human ratings on Li et al. 2014 (at most 40) beside
percentages of hits on Sketchy; the two can't be compared, so each stands with its own data set.
"""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn."""

    resamples: int
    seed: int


def with_li_parts(rows: Sequence[Measured]) -> Iterator[Measured]:
    """All rows; those of Li 2014 as four: the source's ten classes or all 14, six sketches each or the last three."""
    for row in rows:
        if not row.dataset.startswith("li2014"):
            yield row
            continue
        ten = np.isin(row.queries.class_names, SOURCE_CLASSES)
        last = _last(row.queries.class_names)
        everything = np.ones(len(ten), bool)
        for suffix, mask in (("", ten), ("_last3", ten & last), ("_14", everything), ("_14_last3", last)):
            chosen = np.flatnonzero(mask)
            yield replace(
                row, dataset=row.dataset + suffix, queries=row.queries.take(chosen), values=row.values[chosen]
            )


def _last(class_names: NDArray[np.str_]) -> NDArray[np.bool_]:
    """The last three sketches of each class by name, for which the authors show results."""
    mask = np.zeros(len(class_names), bool)
    for name in np.unique(class_names):
        mask[np.flatnonzero(class_names == name)[-LAST:]] = True
    return mask


def intervals_of(row: Measured, values: NDArray[np.float64], draws: Bootstrap) -> dict[str, Interval]:
    """Each of NAMES with its interval; sketches of one photo are drawn together, those of Li 2014 within classes."""
    if not row.dataset.startswith("li2014"):
        return dict(zip(NAMES, bootstrap_mean(values, row.queries.clusters, draws.resamples, draws.seed), strict=True))
    classes = {name: values[row.queries.class_names == name, -len(LI_COLUMNS) :] for name in row.queries.class_names}
    found = mean_over_classes(classes, draws.resamples, draws.seed)
    nothing = Interval(np.nan, np.nan, np.nan)
    return dict.fromkeys(NAMES, nothing) | dict(zip(LI_COLUMNS, found, strict=True))


def comparison(rows: Sequence[Measured], draws: Bootstrap) -> pd.DataFrame:
    """One row per system, form and data set, each figure with `_low` and `_high`, and what was reported elsewhere."""
    table = []
    for row in rows:
        found = intervals_of(row, row.values, draws)
        values: dict[str, Any] = {
            "system": row.row,
            "supervision": row.record["supervision"],
            "dataset": row.dataset,
        }
        values |= {name: rounded(found[name].estimate) for name in FIGURES} | _figures(found, FIGURES)
        values |= {
            "queries": len(row.queries),
            "gallery": row.gallery,
            "transductive": row.form in TRANSDUCTIVE,
            "dim": row.record["dimension"],
            "seconds": row.record["seconds"],
            "form": row.form,
        }
        reported = REPORTED.get((row.row, row.dataset))
        values |= {"reported": reported.value if reported else None, "reported_as": reported.what if reported else None}
        table.append(values)
    return pd.DataFrame(table).astype({"dim": "Int64"})


def paired(rows: Sequence[Measured], draws: Bootstrap) -> pd.DataFrame:
    """Each row minus frozen AlexNet as it is, on the same queries of the same data set and the same draws."""
    table = []
    bars = {row.dataset: row for row in rows if row.row == AGAINST}
    for row in rows:
        bar = bars.get(row.dataset)
        if bar is None or bar.row == row.row:
            continue
        if not np.array_equal(row.queries.image_ids, bar.queries.image_ids):
            raise ValueError(f"{row.row} and {bar.row} were measured on other queries of {row.dataset}")
        found = intervals_of(row, row.values - bar.values, draws)
        values: dict[str, Any] = {"system": row.row, "against": bar.row, "dataset": row.dataset}
        table.append(values | _figures(found, FIGURES) | {"queries": len(row.queries)})
    return pd.DataFrame(table)


def per_class(rows: Sequence[Measured], draws: Bootstrap) -> pd.DataFrame:
    """The source's ten classes one by one, by their names in Li 2014, on Sketchy and on Li 2014."""
    table = []
    for row in rows:
        if row.dataset not in {"sketchy", "li2014", "li2014_img"}:
            continue
        for name in SOURCE_CLASSES:
            own = SKETCHY_CLASSES.get(name, name) if row.dataset == "sketchy" else name
            chosen = np.flatnonzero(row.queries.class_names == own)
            if not len(chosen):
                continue
            part = replace(row, queries=row.queries.take(chosen), values=row.values[chosen])
            found = intervals_of(part, part.values, draws)
            values: dict[str, Any] = {"system": row.row, "dataset": row.dataset, "class_name": name}
            table.append(values | _figures(found, OF_CLASS) | {"queries": len(chosen)})
    return pd.DataFrame(table)


def _figures(found: dict[str, Interval], names: Sequence[str]) -> dict[str, Any]:
    return {key: value for name in names for key, value in with_ends(name, found[name]).items()}


def updated(path: Path, table: pd.DataFrame, measured: Iterable[tuple[str, str]]) -> str:
    """A table on disk after a call that measured some of its systems: their rows are replaced.

    Args:
        path: CSV with columns `system` and `dataset`; may be missing.
        table: the rows measured now.
        measured: (system, data set) measured now; systems without their form.

    Returns:
        CSV in the order of data sets, then chance and the oracle, then systems by name. Rows of other systems are kept
        to the letter.
    """
    over, parts = set(measured), []
    if path.exists() and path.stat().st_size > 1:
        before = pd.read_csv(path, dtype=str, keep_default_na=False)
        parts.append(before[[owner not in over for owner in _owners(before)]])
    if len(table):
        parts.append(pd.read_csv(StringIO(table.to_csv(index=False)), dtype=str, keep_default_na=False))
    if not parts:
        return "\n"
    whole = pd.concat(parts, ignore_index=True).fillna("")
    places = [(DATASETS.index(dataset), name not in FIRST, name) for name, dataset in _owners(whole)]
    return str(whole.iloc[sorted(range(len(whole)), key=places.__getitem__)].to_csv(index=False, lineterminator="\n"))


def _owners(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The system and the data set of each row."""
    return [(system_of(name), dataset) for name, dataset in zip(table["system"], table["dataset"], strict=True)]


def system_of(row: str) -> str:
    """The system of a row's name."""
    return row.partition("+")[0]


def kept_reasons(text: str) -> dict[tuple[str, str], str]:
    """Why (system, benchmark) has no row, from a page that `markdown` wrote."""
    found: dict[tuple[str, str], str] = {}
    for names, reason in re.findall(r"^- (\S+ on [^:]+): (.*)$", text.partition(NOT_RUN)[2], re.MULTILINE):
        name, _, benchmarks = names.partition(" on ")
        found |= {(name, benchmark): reason for benchmark in benchmarks.split(", ")}
    return found


def markdown(table: pd.DataFrame, skipped: dict[tuple[str, str], str]) -> str:
    """The table to read: a section per data set, hits in %, Li's scores as they are; what was not run, and why.

    Args:
        table: content of comparison.csv.
        skipped: reason by system and benchmark.
    """
    parts = [HEAD]
    for dataset in table["dataset"].drop_duplicates():
        rows = table[table["dataset"] == dataset]
        is_li = str(dataset).startswith("li2014")
        columns = LI_MARKDOWN if is_li else MARKDOWN
        shown = [(title, cell) for title, name, cell in columns if not name or rows[name].notna().any()]
        lines = [
            f"## {dataset}: {rows['queries'].iloc[0]} sketches, {rows['gallery'].iloc[0]} photos\n",
            "| " + " | ".join(title for title, _ in shown) + " |",
            "|" + "---|" * len(shown),
        ]
        lines += ["| " + " | ".join(cell(row) for _, cell in shown) + " |" for _, row in rows.iterrows()]
        parts.append("\n".join(lines) + "\n")
    places: dict[tuple[str, str], list[str]] = {}
    for (name, benchmark), reason in sorted(skipped.items(), key=lambda item: (item[0][0], DATASETS.index(item[0][1]))):
        places.setdefault((name, reason), []).append(benchmark)
    if places:
        lines = [f"- {name} on {', '.join(benchmarks)}: {why}" for (name, why), benchmarks in places.items()]
        parts.append(f"{NOT_RUN}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


NOT_RUN = "## Not run"
HEAD = """# Systems compared

Written by `python -m experiments.comparison` from comparison.csv. Figures are measured, with 95 % bootstrap intervals;
the column *reported* alone holds published figures. Protocols: docs/comparison.md. Seconds are for the whole gallery.
"""

Cell = Callable[["pd.Series[Any]"], str]


def _figure(name: str, scale: float) -> Cell:
    def cell(row: "pd.Series[Any]") -> str:
        if pd.isna(row[name]):
            return ""
        value, low, high = (scale * float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
        return f"{value:.1f} [{low:.1f}, {high:.1f}]" if scale > 1 else f"{value:.2f} [{low:.2f}, {high:.2f}]"

    return cell


def _text(name: str, form: str = "{}") -> Cell:
    return lambda row: "" if pd.isna(row[name]) else form.format(row[name])


def _columns(figures: dict[str, str], scale: float) -> list[tuple[str, str, Cell]]:
    """Titles, the columns that they show ("" for what every table has) and what makes a cell."""
    return [
        ("system", "", _text("system")),
        ("supervision", "", _text("supervision")),
        *((title, name, _figure(name, scale)) for title, name in figures.items()),
        ("seconds", "seconds", _text("seconds", "{:.1f}")),
        ("reported", "reported", _text("reported_as")),
    ]


_HITS = {
    "instance hit@1": "instance_hit_at_1",
    "instance hit@5": "instance_hit_at_5",
    "instance hit@10": "instance_hit_at_10",
    "in class hit@5": "in_class_hit_at_5",
    "class hit@5": "class_hit_at_5",
    "class hit@10": "class_hit_at_10",
    "mAP": "map",
}
MARKDOWN = _columns(_HITS, 100)
LI_MARKDOWN = _columns(dict(zip(("sum of ratings, top 5", "sum of ratings, top 10"), LI_COLUMNS, strict=True)), 1)
