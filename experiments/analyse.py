"""What a row of the ablation found: figures, hits per class, and how far apart the domains lie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline_lib.baselines.system import FORMS
from pipeline_lib.embedding.alignment import of_kind
from pipeline_lib.embedding.vectors import open_retrieval
from pipeline_lib.evaluation import separation
from pipeline_lib.evaluation.comparison import Row, System
from pipeline_lib.evaluation.comparison import measure as measured
from pipeline_lib.evaluation.evaluation import rounded
from pipeline_lib.evaluation.metrics import COLUMNS
from pipeline_lib.files import read_json
from pipeline_lib.intervals import Interval, bootstrap_difference, bootstrap_mean
from pipeline_lib.run import Run

CLASSES = ("airplane", "bicycle", "car_(sedan)", "cat", "chair", "cow", "dog", "horse", "motorcycle", "sheep")
"""The source's ten classes, by Sketchy's names."""
PER_CLASS = ("instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5")
RESAMPLES, SEED = 2000, 0

Figures = dict[str, list[float | None]]
"""Per column of the metrics its value and the ends of its interval, as fractions."""


def per_column(names: tuple[str, ...], found: list[Interval]) -> Figures:
    """Rounded intervals by the columns' names."""
    return {name: [rounded(value) for value in interval] for name, interval in zip(names, found, strict=True)}


def figures(row: Row) -> Figures:
    """All figures of a row."""
    return per_column(tuple(COLUMNS), list(row.evaluation.intervals(RESAMPLES, SEED).values()))


def per_class(row: Row) -> dict[str, Figures]:
    """hit@5 of the ten classes under three protocols, each and over all ten."""
    columns = [COLUMNS.index(name) for name in PER_CLASS]
    classes = row.evaluation.queries.class_names
    parts = {name: classes == name for name in CLASSES} | {"all ten": np.isin(classes, CLASSES)}
    clusters, values = row.evaluation.clusters, row.evaluation.values
    return {
        name: per_column(PER_CLASS, bootstrap_mean(values[part][:, columns], clusters[part], RESAMPLES, SEED))
        for name, part in parts.items()
        if part.any()
    }


def difference(ours: Row, other: Row) -> dict[str, Figures]:
    """Ours minus the other's hit@5, paired, over the ten classes and over all."""
    queries, first = ours.evaluation.in_order_of_queries()
    _, second = other.evaluation.in_order_of_queries()
    clusters = ours.evaluation.clusters[np.argsort(ours.evaluation.queries.image_ids, kind="stable")]
    columns = [COLUMNS.index(name) for name in PER_CLASS]
    result = {}
    for name, part in (("all ten", np.isin(queries.class_names, CLASSES)), ("all", np.ones(len(queries), bool))):
        if part.any():
            sides = first[part][:, columns], second[part][:, columns]
            result[name] = per_column(PER_CLASS, bootstrap_difference(*sides, clusters[part], RESAMPLES, SEED))
    return result


def apart(system: System, kind: str) -> dict[str, float]:
    """The numbers of `evaluation.separation` for one system."""
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


def systems_of(run: Run) -> list[System]:
    """A run's embeddings and, where there are any, its baselines, named after it: runs that embed alike share them."""
    found = [replace(System.read(run.embeddings), name=run.name)]
    for path in sorted((run.folder / "baselines").glob("*/system.json")):
        system = System.read(path.parent)
        kind = system.name.rpartition("-")[2]
        found.append(system if kind == "hog" else replace(system, name=f"{run.name}-{kind}"))
    return found


def measure(run: Run) -> dict[str, Any]:
    """Measures a run under every alignment, and its baselines where there are any; keys are the systems' names."""
    ours, *before = systems_of(run)
    mine = {kind: measured(ours, kind, plain=kind) for kind in FORMS}
    result: dict[str, Any] = {
        "pretext": read_json(run.model / "pretext.json"),
        "retrieval": {kind: figures(row) for kind, row in mine.items()},
        "per_class": {},
        "minus": {},
        "domains": {},
    }
    for kind in ("none", "pretext_mean"):
        others = {system.name: measured(system, kind, plain=kind) for system in before}
        rows = {ours.name: mine[kind], **others}
        result["per_class"][kind] = {name: per_class(row) for name, row in rows.items()}
        result["minus"][kind] = {name: difference(mine[kind], row) for name, row in others.items()}
        result["domains"][kind] = {system.name: apart(system, kind) for system in (ours, *before)}
        result["retrieval"].update({f"{name}+{kind}": figures(row) for name, row in others.items()})
    return result
