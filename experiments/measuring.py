"""What the measurements of the retrieval study share: finished runs, the parts of Sketchy, figures, tables.

A part of Sketchy is measured on its own gallery: `sketchy_even` holds the photos and sketches of the classes at even
places (from 1) of the alphabetical list, `sketchy_odd` those of the others, `sketchy` all. Settings are chosen by
`sketchy_even`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.recipes import DEFAULT, ROOT
from experiments.run import RUNS
from pipeline_lib.embedding.alignment import of_kind
from pipeline_lib.embedding.vectors import EmbeddingTable, Labels, Vectors, open_retrieval
from pipeline_lib.errors import PipelineError
from pipeline_lib.evaluation.evaluation import Evaluation, evaluate_scores, rounded, with_ends
from pipeline_lib.evaluation.similarity import score_blocks
from pipeline_lib.files import write_text

RESAMPLES, SEED = 2000, 0
FIGURES = ("instance_hit_at_1", "instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5", "map")
WITH_INTERVAL = ("instance_hit_at_5", "class_hit_at_5")
BEST: Final = "pretext_csls"
"""The alignment that finds most without a look at the queries."""

Rows = NDArray[np.intp]
Part = tuple[Rows, Rows]
"""Rows of photos and rows of sketches."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A finished run, whose embeddings are measured.

    Attributes:
        name: its recipe's.
        photos: the gallery.
        sketches: the queries.
    """

    name: str
    photos: EmbeddingTable
    sketches: EmbeddingTable

    @classmethod
    def open(cls, name: str, runs: Path = RUNS) -> Finished:
        """Opens the run of a recipe.

        Raises:
            PipelineError: it has not been made, or its embeddings can't be used.
        """
        folder = ROOT / "data" if name == DEFAULT else runs / name
        if not (folder / "embeddings").is_dir():
            raise PipelineError(f"{folder}: there is no finished run; make it first, with make run RECIPE={name}")
        return cls(name, *open_retrieval(folder / "embeddings"))

    def parts(self, *, final: bool = True) -> dict[str, Part]:
        """The parts of Sketchy, see `parts_of`."""
        return parts_of(self.photos.labels, self.sketches.labels, final=final)

    def labels(self, part: Part) -> tuple[Labels, Labels]:
        """Those of a part's photos and of its sketches."""
        return self.photos.labels.take(part[0]), self.sketches.labels.take(part[1])

    def scores(self, kind: str, part: Part) -> Vectors:
        """Similarities of a part's M sketches to its N photos under an alignment, float32[M, N]."""
        return np.concatenate(list(score_blocks(self.photos, self.sketches, kind, part)))

    def whitened(self) -> Vectors:
        """All photos as they are compared with one another, float32[N, D]."""
        return of_kind("pretext_whitened", self.photos, self.sketches).apply(self.photos.read(), "photo")


def parts_of(photos: Labels, sketches: Labels, *, final: bool) -> dict[str, Part]:
    """Per data set the rows of its photos and of its sketches; without `final` of `sketchy_even` alone."""
    names = np.unique(photos.class_names)
    classes = {"sketchy_even": names[1::2]}
    if final:
        classes |= {"sketchy_odd": names[::2], "sketchy": names}
    return {
        name: (
            np.flatnonzero(np.isin(photos.class_names, members)),
            np.flatnonzero(np.isin(sketches.class_names, members)),
        )
        for name, members in classes.items()
    }


def figures(scores: Vectors, gallery: Labels, queries: Labels) -> Line:
    """The figures of a score matrix, float32[M, N]."""
    return figures_of(evaluate_scores(scores, gallery, queries))


def figures_of(found: Evaluation) -> Line:
    """The figures of what was found; those of WITH_INTERVAL with the ends of their 95 % intervals."""
    intervals = found.intervals(RESAMPLES, SEED)
    row: Line = {name: rounded(intervals[name].estimate) for name in FIGURES}
    for name in WITH_INTERVAL:
        row |= with_ends(name, intervals[name])  # the ends come last
    return row | {"queries": len(found.queries), "gallery": len(found.gallery)}


def write_table(name: str, lines: list[Line] | pd.DataFrame) -> None:
    """Writes metrics/NAME.csv, whole or not at all; what is unknown stays empty."""
    text = pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")
    write_text(ROOT / "metrics" / f"{name}.csv", text)


def command(measure: Callable[[list[str]], Iterable[Line]], table: str, about: str, *, by_name: bool = True) -> None:
    """The command line of a measurement, which writes a table.

    Args:
        measure: the lines of the table for names of recipes.
        table: its name in metrics/.
        about: what it holds.
        by_name: whether new lines replace those of the same `name`, as soon as each is measured. Otherwise they are the
            whole table.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(
        "names", nargs="+", help="recipes whose runs are made" + ("" if by_name else "; see the module")
    )
    names = parser.parse_args().names
    path = ROOT / "metrics" / f"{table}.csv"
    try:
        for some in [[name] for name in names] if by_name else [names]:
            found = pd.DataFrame(list(measure(some)))
            if by_name and path.exists():
                old = pd.read_csv(path)
                found = pd.concat([old[~old["name"].isin(some)], found], ignore_index=True)
            write_table(table, found)
    except (PipelineError, OSError) as failure:
        sys.exit(f"error: {failure}")
