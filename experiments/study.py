"""The retrieval study: `make study`, or `python -m experiments.study [NAME...]`, makes rows and their table.

A row is a recipe of the group `study`, with a hypothesis (`about`) and mostly one change against the recipe that it is
based on. Rows that differ in embedding alone share the trained network. Those marked `final` are also measured on the
reporting classes and on the whole gallery. Writes metrics/retrieval_study/NAME.json and metrics/retrieval_study.csv.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from experiments.measuring import Finished, Line, figures, write_table
from experiments.recipes import ROOT, Recipes
from experiments.run import made
from pipeline_lib.embedding.alignment import KINDS, of_kind
from pipeline_lib.embedding.vectors import Labels, Vectors
from pipeline_lib.errors import PipelineError
from pipeline_lib.evaluation.evaluation import rounded
from pipeline_lib.files import read_json, resolve_path, write_json
from pipeline_lib.index.ranking import rank_scores
from pipeline_lib.registry import TRANSDUCTIVE

OUT = ROOT / "metrics" / "retrieval_study"
NEAREST = 5
OF_PHOTOS = ("none", "pretext_mean", "pretext_whitened")
"""How alike photos are is told without hubness, which looks at drawings, and without the drawings of a test."""


def measure(row: Finished, *, final: bool) -> list[Line]:
    """One line per alignment and part.

    Raises:
        PipelineError: embeddings are missing or can't be used.
    """
    raw, of_photos = row.photos.read(), {kind: of_kind(kind, row.photos, row.sketches) for kind in OF_PHOTOS}
    lines = []
    for dataset, part in row.parts(final=final).items():
        labels = row.labels(part)
        precisions: dict[str, float | None] = {
            kind: rounded(photo_precision(alignment.apply(raw[part[0]], "photo"), labels[0]))
            for kind, alignment in of_photos.items()
        }
        lines += [
            {"dataset": dataset, "alignment": kind, "transductive": kind in TRANSDUCTIVE}
            | figures(row.scores(kind, part), *labels)
            | {"photo_precision_at_5": precisions.get(kind), "dim": row.photos.dimension}
            for kind in KINDS
        ]
    # By alignment first; sorting keeps the order of the parts.
    return sorted(lines, key=lambda line: KINDS.index(line["alignment"]))


def photo_precision(vectors: Vectors, labels: Labels) -> float:
    """The part of a photo's five nearest other photos that are of its class: what the network knows of photos alone.

    Args:
        vectors: float32[M, D], aligned photos.
        labels: theirs.
    """
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.concatenate([block.rows[:, :NEAREST] for block in rank_scores(scores, labels.image_ids)])
    return float((labels.class_names[nearest] == labels.class_names[:, None]).mean())


def make(name: str, recipes: Recipes, root: str) -> None:
    """Makes a row and measures it.

    Raises:
        PipelineError: there is no such recipe, or a stage failed.
    """
    run = made(name, recipes, root, ["index"])
    meta, pretext = read_json(run.model / "meta.json"), read_json(run.model / "pretext.json")
    # The networks of other runs that take part were trained, too.
    others = [resolve_path(folder, ROOT, "embed.beside") / "model" / "meta.json" for folder, _ in run.params.embed.runs]
    record = {
        "name": name,
        "set": recipes.changes(name, beyond="_study"),
        "training_images": meta["training_images"],
        "start_weights": meta["start_weights"],
        "pretext_accuracy": pretext["accuracy"],
        "match_at_1": pretext.get("match_at_1"),
        "train_seconds": round(meta["seconds"] + sum(read_json(other)["seconds"] for other in others), 1),
        "embed_seconds": read_json(run.embeddings / "system.json")["seconds"],
        "commit": run.record["commit"],
        "rows": measure(Finished.open(name), final=recipes[name].final),
    }
    write_json(OUT / f"{name}.json", record)


def table(recipes: Recipes) -> None:
    """Writes metrics/retrieval_study.csv from the rows that are made."""
    lines = []
    for name in recipes.rows(["study"]):
        if (OUT / f"{name}.json").exists():
            record = read_json(OUT / f"{name}.json")
            ends = {"hypothesis": recipes[name].about, "command": f"python -m experiments.study {name}"}
            own = {key: value for key, value in record.items() if key not in ("rows", "set", *ends)}
            lines += [{**own, **row, **ends} for row in record["rows"]]
    write_table("retrieval_study", lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="rows of the retrieval study, then their table")
    parser.add_argument("names", nargs="*", help="recipes; without any, all rows that are not made yet")
    parser.add_argument("--root", default="", help="folder that holds VOCdevkit/ and sketchy/ (default: as the recipe)")
    parser.add_argument("--table", action="store_true", help="make no row, write the table alone")
    given = parser.parse_args()
    try:
        recipes = Recipes()
        missing = [name for name in recipes.rows(["study"]) if not (OUT / f"{name}.json").exists()]
        for name in [] if given.table else given.names or missing:
            make(name, recipes, given.root)
        table(recipes)
    except PipelineError as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
