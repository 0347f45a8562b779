"""The ablation: `make ablation`, or `python -m experiments.ablation [NAME...]`, makes rows, then their tables.

A row is a recipe of one of the ablation's groups. It is made by the pipeline's own stages as any run is, measured, and
removed; metrics/ablation/NAME.json and NAME.csv stay. A row whose JSON is there is not made again, whatever has changed
in the library since: it names the commit that made it. What params.yaml holds counts when a row is made, so a change of
its defaults that should not reach the rows belongs in recipes/ablation/_ablation.yaml. DVC's cache keeps what removed
runs were made of until `dvc gc --workspace`.
"""

import multiprocessing
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments import claims, pictures, table
from experiments.recipes import ABLATION, ROOT, Recipes
from experiments.run import RUNS, made, records_of, rows_command
from experiments.study import RESAMPLES, SEED
from experiments.table import CLASSES, PER_CLASS, REFERENCE
from pipeline_lib.baselines.system import FORMS
from pipeline_lib.embedding.alignment import of_kind
from pipeline_lib.embedding.vectors import Labels, open_retrieval
from pipeline_lib.errors import PipelineError
from pipeline_lib.evaluation import separation
from pipeline_lib.evaluation.comparison import Row, System
from pipeline_lib.evaluation.comparison import measure as measured
from pipeline_lib.evaluation.evaluation import rounded
from pipeline_lib.evaluation.metrics import COLUMNS, Values
from pipeline_lib.files import read_json, write_json, write_text
from pipeline_lib.intervals import Interval, bootstrap_mean
from pipeline_lib.params import Params
from pipeline_lib.run import Run

CURVE = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_accuracy_one_patch"]

Figures = dict[str, list[float | None]]
"""Per column of the metrics its value and the ends of its interval, as fractions."""


def make(name: str, recipes: Recipes, root: str) -> None:
    """Makes a row, from its recipe to its two files, which say where its start weights are out of reach."""
    row = recipes[name]
    if reason := lacking_weights(recipes.params_of(name)):
        print(f"{name}: skipped, {reason}")
        keep(name, {"name": name, "group": row.group, "skipped": reason}, pd.DataFrame(columns=CURVE))
        return
    run = made(name, recipes, root, ["index", "baselines"] if row.before else ["index"])
    keep(name, record(run, recipes), pd.read_csv(run.model / "training.csv", dtype=str, keep_default_na=False)[CURVE])
    if not row.before:
        shutil.rmtree(run.folder)


def lacking_weights(params: Params) -> str:
    """Why a row that starts from fc6 can't be made: no source at hand holds those weights. Empty where it can."""
    if params.train.pretrained != "fc6":
        return ""
    # It loads torch, and this process FAISS: the two do not share one on every system.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            pool.submit(_load_weights, params).result()
        except PipelineError as failure:
            return str(failure)
    return ""


def _load_weights(params: Params) -> None:
    from pipeline_lib.models import weights  # noqa: PLC0415

    weights.load(params.train, ROOT)


def record(run: Run, recipes: Recipes) -> dict[str, Any]:
    """The content of metrics/ablation/NAME.json."""
    row, train, meta = recipes[run.name], run.params.train, read_json(run.model / "meta.json")
    return {
        "name": run.name,
        "group": row.group,
        "set": recipes.changes(run.name, beyond="_ablation"),
        "note": row.note,
        "dataset": "sketchy",
        **{key: getattr(train, key) for key in table.SETTINGS},
        **{key: meta[key] for key in ("training_images", "start_weights", "seconds")},
        "commit": run.record["commit"],
        **measure(run),
    }


def keep(name: str, content: dict[str, Any], curve: pd.DataFrame) -> None:
    """Writes a row's two files, the curve first: a row is made once its JSON is there."""
    write_text(table.ROWS / f"{name}.csv", curve.to_csv(index=False, lineterminator="\n"))
    write_json(table.ROWS / f"{name}.json", content)


def figures(found: Mapping[str, Interval]) -> Figures:
    """Rounded intervals."""
    return {name: [rounded(value) for value in interval] for name, interval in found.items()}


def over(parts: Mapping[str, NDArray[np.bool_]], queries: Labels, values: Values) -> dict[str, Figures]:
    """Means of hit@5 under three protocols over parts of M queries: parts are bool[M], values float64[M, COLUMNS]."""
    columns = [COLUMNS.index(name) for name in PER_CLASS]
    found = {}
    for name, part in parts.items():
        if part.any():
            intervals = bootstrap_mean(values[part][:, columns], queries.clusters[part], RESAMPLES, SEED)
            found[name] = figures(dict(zip(PER_CLASS, intervals, strict=True)))
    return found


def per_class(row: Row) -> dict[str, Figures]:
    """hit@5 of the ten classes, each and over all ten."""
    queries = row.evaluation.queries
    parts = {name: queries.class_names == name for name in CLASSES}
    return over(parts | {"all ten": np.isin(queries.class_names, CLASSES)}, queries, row.evaluation.values)


def difference(ours: Row, other: Row) -> dict[str, Figures]:
    """Ours minus the other's hit@5, paired, over the ten classes and over all."""
    (queries, first), (_, second) = (row.evaluation.in_order_of_queries() for row in (ours, other))
    parts = {"all ten": np.isin(queries.class_names, CLASSES), "all": np.ones(len(queries), bool)}
    return over(parts, queries, first - second)


def apart(system: System, kind: str) -> dict[str, float]:
    """The numbers of `evaluation.separation` for one system."""
    photos, sketches = open_retrieval(system.folder)
    alignment = of_kind(kind, photos, sketches)
    a, b = alignment.apply(photos.read(), "photo"), alignment.apply(sketches.read(), "sketch")
    rows = {name: row for row, name in enumerate(photos.labels.image_ids.tolist())}
    target = np.array([rows.get(name, -1) for name in sketches.labels.instance_ids.tolist()], np.int64)
    groups = np.concatenate([photos.labels.image_ids, sketches.labels.instance_ids])
    classes = np.concatenate([photos.labels.class_names, sketches.labels.class_names])
    found = {
        "cross_domain_share": separation.cross_domain_share(a, b),
        "domain_accuracy": separation.domain_accuracy(a, b, groups, SEED),
        "partner_place": separation.partner_place(a, b, target),
        **separation.cluster_agreement(a, b, classes, len(np.unique(classes)), SEED),
    }
    return {name: round(value, 4) for name, value in found.items()}


def systems_of(run: Run) -> list[System]:
    """A run's embeddings and, where there are any, its baselines."""
    baselines = sorted(path.parent for path in (run.folder / "baselines").glob("*/system.json"))
    return [System.read(folder, run.name) for folder in (run.embeddings, *baselines)]


def measure(run: Run) -> dict[str, Any]:
    """Measures a run under every alignment, and its baselines where there are any; keys are the systems' names."""
    ours, *before = systems_of(run)
    mine = {kind: measured(ours, kind, plain=kind) for kind in FORMS}
    result: dict[str, Any] = {
        "pretext": read_json(run.model / "pretext.json"),
        "retrieval": {kind: figures(row.evaluation.intervals(RESAMPLES, SEED)) for kind, row in mine.items()},
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
        for name, row in others.items():
            result["retrieval"][f"{name}+{kind}"] = figures(row.evaluation.intervals(RESAMPLES, SEED))
    return result


def tables(recipes: Recipes) -> None:
    """Writes the tables, claims and pictures of the rows that are made."""
    records = records_of(recipes, ABLATION, table.ROWS)
    rows = [record for record in records if "skipped" not in record]
    table.write(recipes.rows(ABLATION), records)
    claims.write(rows)
    pictures.draw(rows)
    if (RUNS / REFERENCE).is_dir():
        run = Run.open(RUNS / REFERENCE)
        pictures.draw_kept(run, {system.name: system for system in systems_of(run)})


if __name__ == "__main__":
    about = "rows of the ablation, then tables, claims and pictures of what is made"
    rows_command(about, ABLATION, table.ROWS, make, tables)
