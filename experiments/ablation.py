"""The ablation: `make ablation`, or `python -m experiments.ablation [NAME...]`, makes rows, then their tables.

A row is a recipe of one of the ablation's groups. It is made by the pipeline's own stages as any run is, measured, and
removed; metrics/ablation/NAME.json and NAME.csv stay. A row whose JSON is there is not made again, whatever has changed
in the library since: it names the commit that made it. What params.yaml holds counts when a row is made, so a change of
its defaults that should not reach the rows belongs in recipes/ablation/_ablation.yaml.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from experiments import analyse, claims, pictures, table
from experiments.recipes import ABLATION, ROOT, Recipes
from experiments.run import made
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import read_json, write_json, write_text
from pipeline_lib.params import Params
from pipeline_lib.run import Run

CURVE = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_accuracy_one_patch")


class SkippedError(PipelineError):
    """A row can't be made here; its file says why."""


def make(name: str, recipes: Recipes, root: str) -> None:
    """Makes a row, from its recipe to its two files.

    Raises:
        PipelineError: there is no such recipe or a stage failed.
        SkippedError: its start weights are out of reach.
    """
    params, row = recipes.params_of(name), recipes[name]
    reason = lacking_weights(params)
    if reason:
        write_json(table.ROWS / f"{name}.json", {"name": name, "group": row.group, "skipped": reason})
        write_text(table.ROWS / f"{name}.csv", ",".join(CURVE) + "\n")
        raise SkippedError(f"{name}: skipped, {reason}")
    run = made(name, recipes, root, ["index", "baselines"] if row.before else ["index"])
    result = record(run, recipes)
    keep_curve(run.model / "training.csv", table.ROWS / f"{name}.csv")
    write_json(table.ROWS / f"{name}.json", result)
    if not row.before:
        shutil.rmtree(run.folder)


def lacking_weights(params: Params) -> str:
    """Why a row that starts from fc6 can't be made: no source at hand holds those weights. Empty where it can."""
    if params.train.pretrained != "fc6":
        return ""
    # It loads torch, and this process FAISS: the two do not share one on every system.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_why_not, params).result()


def _why_not(params: Params) -> str:
    from pipeline_lib.models import weights  # noqa: PLC0415

    try:
        weights.load(params.train, ROOT)
    except PipelineError as failure:
        return str(failure)
    return ""


def record(run: Run, recipes: Recipes) -> dict[str, Any]:
    """The content of metrics/ablation/NAME.json."""
    row, train, meta = recipes[run.name], run.params.train, read_json(run.model / "meta.json")
    return {
        "name": run.name,
        "group": row.group,
        "set": recipes.changes(run.name, beyond="_ablation"),
        "note": row.note,
        "dataset": "sketchy",
        **{key: getattr(train, key) for key in ("encoder", "domain", "pretrained", "batch_norm", "epochs", "seed")},
        "training_images": meta["training_images"],
        "start_weights": meta["start_weights"],
        "seconds": meta["seconds"],
        "commit": run.record["commit"],
        **analyse.measure(run),
    }


def keep_curve(history: Path, out: Path) -> None:
    """Copies what the validation curves need."""
    with history.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    write_text(out, "\n".join([",".join(CURVE), *(",".join(row[name] for name in CURVE) for row in rows)]) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="rows of the ablation, then tables, claims and pictures of what is made"
    )
    parser.add_argument("names", nargs="*", help="recipes; without any, all rows that are not made yet")
    parser.add_argument("--root", default="", help="folder that holds VOCdevkit/ and sketchy/ (default: as the recipe)")
    parser.add_argument("--table", action="store_true", help="make no row")
    given = parser.parse_args()
    failed = []
    try:
        recipes = Recipes()
        made_before = {row["name"] for row in table.finished(recipes) if "skipped" not in row}
        missing = [name for name in recipes.rows(ABLATION) if name not in made_before]
        for name in [] if given.table else given.names or missing:
            try:
                make(name, recipes, given.root)
            except SkippedError as failure:
                print(failure)
            except PipelineError as failure:
                failed.append(str(failure))
        table.write(recipes)
        claims.write(recipes)
        pictures.draw(recipes)
    except PipelineError as failure:
        failed.append(str(failure))
    if failed:
        sys.exit("error: " + "\n".join(failed))


if __name__ == "__main__":
    main()
