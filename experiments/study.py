"""The retrieval study: `make study`, or `python -m experiments.study [NAME...]`, makes rows and their table.

A row is a recipe of the group `study`, with a hypothesis (`about`) and mostly one change against the recipe that it is
based on. Rows that differ in embedding alone share the trained network. Writes metrics/retrieval_study/NAME.json and
metrics/retrieval_study.csv. The study's other measurements, such as `experiments.rerank`, are built on this module.

A part of Sketchy is measured on its own gallery: `sketchy_even` holds the photos and sketches of the classes at even
places (from 1) of the alphabetical list, `sketchy_odd` those of the others, `sketchy` all. Settings are chosen by
`sketchy_even`; rows marked `final` are also measured on the two others.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.recipes import DEFAULT, ROOT, Recipes
from experiments.run import RUNS, STOPPED, made, records_of, rows_command, stopped
from pipeline_lib.embedding.alignment import KINDS, of_kind
from pipeline_lib.embedding.vectors import EmbeddingTable, Labels, Vectors, open_retrieval
from pipeline_lib.errors import PipelineError
from pipeline_lib.evaluation.evaluation import Evaluation, evaluate_scores, rounded, with_ends, write_csv
from pipeline_lib.evaluation.similarity import score_blocks
from pipeline_lib.files import read_json, resolve_path, write_json
from pipeline_lib.index.ranking import rank_scores
from pipeline_lib.registry import TRANSDUCTIVE

OUT: Final = ROOT / "metrics" / "retrieval_study"
RESAMPLES, SEED = 2000, 0
FIGURES = ("instance_hit_at_1", "instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5", "map")
WITH_INTERVAL = ("instance_hit_at_5", "class_hit_at_5")
BEST: Final = "pretext_csls"
"""The alignment that finds most without a look at the queries."""
NEAREST = 5
OF_PHOTOS = ("none", "pretext_mean", "pretext_whitened")
"""How alike photos are is told without hubness, which looks at drawings, and without the drawings of a test."""

Part = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Rows of photos and rows of sketches."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """The embeddings of a finished run: photos are the gallery, sketches the queries."""

    name: str
    photos: EmbeddingTable
    sketches: EmbeddingTable

    @classmethod
    def open(cls, name: str, runs: Path = RUNS) -> Self:
        """Opens the run of a recipe.

        Raises:
            PipelineError: it has not been made, or its embeddings can't be used.
        """
        folder = ROOT / "data" if name == DEFAULT else runs / name
        if not (folder / "embeddings").is_dir():
            raise PipelineError(f"{folder}: there is no finished run; make it first, with make run RECIPE={name}")
        return cls(name, *open_retrieval(folder / "embeddings"))

    def parts(self, *, final: bool = True) -> dict[str, Part]:
        """The parts of Sketchy by name; without `final` only that which settings are chosen by."""
        tables = [table.labels.class_names for table in (self.photos, self.sketches)]
        names = np.unique(tables[0])
        classes = {"sketchy_even": names[1::2]}
        if final:
            classes |= {"sketchy_odd": names[::2], "sketchy": names}
        rows = {name: [np.flatnonzero(np.isin(table, some)) for table in tables] for name, some in classes.items()}
        return {name: (photos, sketches) for name, (photos, sketches) in rows.items()}

    def labels(self, part: Part) -> tuple[Labels, Labels]:
        """Those of a part's photos and of its sketches."""
        return self.photos.labels.take(part[0]), self.sketches.labels.take(part[1])

    def scores(self, kind: str, part: Part) -> Vectors:
        """Similarities of a part's M sketches to its N photos under an alignment, float32[M, N]."""
        return np.concatenate(list(score_blocks(self.photos, self.sketches, kind, part)))

    def whitened(self) -> Vectors:
        """All photos as they are compared with one another, float32[N, D]."""
        return of_kind("pretext_whitened", self.photos, self.sketches).apply(self.photos.read(), "photo")


def figures(scores: Vectors, gallery: Labels, queries: Labels) -> Line:
    """The figures of a score matrix, float32[M, N]."""
    return figures_of(evaluate_scores(scores, gallery, queries))


def figures_of(found: Evaluation) -> Line:
    """The figures of what was found; those of WITH_INTERVAL with the ends of their 95 % intervals."""
    intervals = found.intervals(RESAMPLES, SEED)
    line: Line = {name: rounded(intervals[name].estimate) for name in FIGURES}
    for name in WITH_INTERVAL:
        line |= with_ends(name, intervals[name])  # the ends come last
    return line | {"queries": len(found.queries), "gallery": len(found.gallery)}


def write_table(name: str, lines: Iterable[Line] | pd.DataFrame) -> None:
    """Writes metrics/NAME.csv, whole or not at all; what is unknown stays empty."""
    write_csv(ROOT / "metrics" / f"{name}.csv", pd.DataFrame(lines))


def update_table(table: str, names: list[str], measure: Callable[[Finished], Iterable[Line]]) -> None:
    """Measures finished runs; the lines of each replace those of its name in metrics/TABLE.csv once it is done."""
    path = ROOT / "metrics" / f"{table}.csv"
    for name in names:
        found = pd.DataFrame([{"name": name, **line} for line in measure(Finished.open(name))])
        if path.exists():
            old = pd.read_csv(path)
            found = pd.concat([old[old["name"] != name], found], ignore_index=True)
        write_table(table, found)


def command(about: str | None, write: Callable[[list[str]], None]) -> None:
    """The command line of a measurement: `write` writes the table, given names of recipes whose runs are finished."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="recipes whose runs are made")
    try:
        write(parser.parse_args().names)
    except (PipelineError, OSError) as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(stopped(STOPPED))


def measure(row: Finished, *, final: bool) -> Iterator[Line]:
    """One line per alignment and part."""
    photos = row.photos.read()
    for kind in KINDS:
        for dataset, part in row.parts(final=final).items():
            gallery, queries = row.labels(part)
            precision = None
            if kind in OF_PHOTOS:
                shown = of_kind(kind, row.photos, row.sketches).apply(photos[part[0]], "photo")
                precision = rounded(photo_precision(shown, gallery))
            line = {"dataset": dataset, "alignment": kind, "transductive": kind in TRANSDUCTIVE}
            line |= figures(row.scores(kind, part), gallery, queries)
            yield line | {"photo_precision_at_5": precision, "dim": row.photos.dimension}


def photo_precision(vectors: Vectors, labels: Labels) -> float:
    """The share of the five nearest other photos, by float32[M, D], that are of a photo's class, over all photos."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.concatenate([block.rows[:, :NEAREST] for block in rank_scores(scores, labels.image_ids)])
    return float((labels.class_names[nearest] == labels.class_names[:, None]).mean())


def make(name: str, recipes: Recipes, root: str) -> None:
    """Makes a row and measures it; arguments and errors as of `run.made`."""
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
        "rows": list(measure(Finished.open(name), final=recipes[name].final)),
    }
    write_json(OUT / f"{name}.json", record)


def table(recipes: Recipes) -> None:
    """Writes metrics/retrieval_study.csv from the rows that are made."""
    lines: list[Line] = []
    for record in records_of(recipes, ["study"], OUT):
        name = record["name"]
        ends = {"hypothesis": recipes[name].about, "command": f"python -m experiments.study {name}"}
        own = {key: value for key, value in record.items() if key not in ("rows", "set", *ends)}
        lines += [{**own, **row, **ends} for row in record["rows"]]
    write_table("retrieval_study", lines)


if __name__ == "__main__":
    rows_command("rows of the retrieval study, then their table", ["study"], OUT, make, table)
