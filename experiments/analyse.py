"""What a finished run of the ablation found: figures, per-class hits and how far apart the domains lie.

Run by cell.py in a process of its own, since it loads FAISS: `python -m experiments.analyse DATA METRICS OUT`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.baselines.system import FORMS
from pipeline_lib.data.files import read_json, write_json
from pipeline_lib.intervals import bootstrap_difference, bootstrap_mean
from pipeline_lib.retrieval import separation
from pipeline_lib.retrieval.alignment import Kind
from pipeline_lib.retrieval.comparison import Row, System, measure
from pipeline_lib.retrieval.evaluation import rounded
from pipeline_lib.retrieval.fitting import of_kind
from pipeline_lib.retrieval.metrics import COLUMNS
from pipeline_lib.retrieval.vectors import open_retrieval

CLASSES = (
    "airplane",
    "bicycle",
    "car_(sedan)",
    "cat",
    "chair",
    "cow",
    "dog",
    "horse",
    "motorcycle",
    "sheep",
)
"""The source's ten classes, by Sketchy's names."""
PER_CLASS = ("instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5")
RESAMPLES, SEED = 2000, 0


def figures(row: Row) -> dict[str, Any]:
    """All figures of a row with their intervals, as fractions."""
    intervals = row.evaluation.intervals(RESAMPLES, SEED)
    return {name: [rounded(value) for value in intervals[name]] for name in COLUMNS}


def per_class(row: Row) -> dict[str, dict[str, list[float | None]]]:
    """hit@5 of the ten classes under three protocols, each with its interval, and over all ten."""
    columns = [COLUMNS.index(name) for name in PER_CLASS]
    classes = row.evaluation.queries.class_names
    parts = {name: classes == name for name in CLASSES} | {"all ten": np.isin(classes, CLASSES)}
    result = {}
    for name, part in parts.items():
        if part.any():
            values = row.evaluation.values[part][:, columns]
            found = bootstrap_mean(values, row.evaluation.clusters[part], RESAMPLES, SEED)
            result[name] = {
                column: [rounded(v) for v in interval] for column, interval in zip(PER_CLASS, found, strict=True)
            }
    return result


def difference(ours: Row, other: Row) -> dict[str, dict[str, list[float | None]]]:
    """Ours minus the other's hit@5, paired, over the ten classes and over all."""
    queries, first = ours.evaluation.in_order_of_queries()
    _, second = other.evaluation.in_order_of_queries()
    clusters = ours.evaluation.clusters[np.argsort(ours.evaluation.queries.image_ids, kind="stable")]
    columns = [COLUMNS.index(name) for name in PER_CLASS]
    result = {}
    for name, part in (("all ten", np.isin(queries.class_names, CLASSES)), ("all", np.ones(len(queries), bool))):
        if not part.any():
            continue
        found = bootstrap_difference(first[part][:, columns], second[part][:, columns], clusters[part], RESAMPLES, SEED)
        result[name] = {
            column: [rounded(v) for v in interval] for column, interval in zip(PER_CLASS, found, strict=True)
        }
    return result


def apart(system: System, kind: Kind) -> dict[str, float]:
    """The numbers of `retrieval.separation` for one system."""
    photos, sketches = open_retrieval(system.folder)
    alignment = of_kind(kind, photos, sketches)
    a, b = alignment.apply(photos.read(), "photo"), alignment.apply(sketches.read(), "sketch")
    rows = {name: row for row, name in enumerate(photos.labels.image_ids.tolist())}
    target = np.array([rows.get(name, -1) for name in sketches.labels.instance_ids.tolist()], np.int64)
    groups = np.concatenate([photos.labels.image_ids, sketches.labels.instance_ids])
    classes = np.concatenate([photos.labels.class_names, sketches.labels.class_names])
    agreement = separation.cluster_agreement(a, b, classes, len(np.unique(classes)), SEED)
    return {
        "cross_domain_share": round(separation.cross_domain_share(a, b), 4),
        "domain_accuracy": round(separation.domain_accuracy(a, b, groups, SEED), 4),
        "partner_place": round(separation.partner_place(a, b, target), 4),
        **{name: round(value, 4) for name, value in agreement.items()},
    }


def main(data: Path, metrics: Path, out: Path) -> None:
    """Measures ours under every alignment, and the baselines of the folder where there are any."""
    ours = System.read(data / "embeddings")
    before = [System.read(path.parent) for path in sorted((data / "baselines").glob("*/system.json"))]
    mine = {kind: measure(ours, kind, plain=kind) for kind in FORMS}
    result: dict[str, Any] = {
        "retrieval": {kind: figures(row) for kind, row in mine.items()},
        "per_class": {},
        "minus": {},
        "domains": {},
    }
    plain: tuple[Kind, ...] = ("none", "pretext_mean")
    for kind in plain:
        others = {system.name: measure(system, kind, plain=kind) for system in before}
        rows = {ours.name: mine[kind], **others}
        result["per_class"][kind] = {name: per_class(row) for name, row in rows.items()}
        result["minus"][kind] = {name: difference(mine[kind], row) for name, row in others.items()}
        result["domains"][kind] = {system.name: apart(system, kind) for system in (ours, *before)}
        result["retrieval"].update({f"{name}+{kind}": figures(row) for name, row in others.items()})
    write_json(out, {"pretext": read_json(metrics / "pretext.json"), **result})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
