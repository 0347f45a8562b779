"""A run's network and the systems that it is read beside, on the same queries: figures, and paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from pipeline_lib.embedding.alignment import Alignment, of_kind
from pipeline_lib.embedding.vectors import SYSTEM, open_retrieval, read_system
from pipeline_lib.errors import PipelineError
from pipeline_lib.evaluation.evaluation import Evaluation, evaluate_chance, evaluate_rankings, rounded, with_ends
from pipeline_lib.evaluation.metrics import COLUMNS
from pipeline_lib.files import digest_of_file
from pipeline_lib.index.photo_index import PhotoIndex
from pipeline_lib.intervals import Interval, bootstrap_difference
from pipeline_lib.registry import ALIGNMENTS, TRANSDUCTIVE

FIGURES = (
    "instance_hit_at_1",
    "instance_hit_at_5",
    "instance_hit_at_10",
    "in_class_hit_at_5",
    "class_hit_at_5",
    "class_hit_at_10",
    "map",
)
WITH_INTERVAL = ("instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5")
PAIRED = ("instance_hit_at_5", "class_hit_at_5")
CONTROL = "{}-untrained"
"""The same network before training: under one alignment, only training makes the difference."""


@dataclass(frozen=True)
class System:
    """A folder of embeddings and what made them."""

    folder: Path  # holds `photos.parquet`, `sketches.parquet`, the pretext means or tables, and `system.json`
    name: str  # of the system
    supervision: str  # none, imagenet, pairs or classes
    seconds: float | None  # that embedding gallery and queries took; None where it was not measured
    alignments: tuple[str, ...]  # kinds that it is evaluated under
    made_by: str = ""  # digest of its `system.json`, and so of all its files

    @classmethod
    def read(cls, folder: Path, run: str = "") -> Self:
        """Reads `system.json` of a folder of embeddings.

        Args:
            folder: of the embeddings.
            run: name of the run that they belong to, which stands for {run} in a system's name: recipes that embed
                alike share a folder through DVC's cache, so the folder can't tell whose it is.

        Raises:
            PipelineError: the file is missing or lacks a key, or an alignment is unknown.
        """
        path = folder / SYSTEM
        values = read_system(folder)
        try:
            name, supervision = str(values["system"]).format(run=run), str(values["supervision"])
            seconds = None if values["seconds"] is None else float(values["seconds"])
            wanted = set(values["alignments"])
        except (KeyError, TypeError, ValueError) as failure:
            raise PipelineError(f"{path}: needs system, supervision, seconds, alignments ({failure!r})") from failure
        if unknown := sorted(wanted - ALIGNMENTS.keys()):
            raise PipelineError(f"{path}: unknown alignments {unknown}; known are {list(ALIGNMENTS)}")
        kinds = tuple(kind for kind in ALIGNMENTS if kind in wanted)
        return cls(folder, name, supervision, seconds, kinds, digest_of_file(path))


@dataclass(frozen=True)
class Row:
    """A system under one alignment, evaluated."""

    name: str  # the system's, with `+alignment` unless it is the system's plain form
    system: System | None  # None for chance
    alignment: str | None  # the kind; None for chance
    dimension: int | None  # numbers per vector; None for chance
    evaluation: Evaluation  # of all queries


def measure(
    system: System,
    kind: str,
    *,
    plain: str = "none",
    index: PhotoIndex | None = None,
    top: int = 0,
    diversity: float = 0.0,
) -> Row:
    """Evaluates a system under one alignment.

    Args:
        system: where its embeddings are.
        kind: the alignment.
        plain: the alignment whose row bears the system's bare name.
        index: a finished index of its gallery; None builds one in memory.
        top: how many of the nearest photos to keep for each query.
        diversity: the weight of `diversity.diversify`.

    Raises:
        PipelineError: a table can't be used, or the index does not fit; names the file.
    """
    photos, sketches = open_retrieval(system.folder)
    # Without queries there is no mean of them, and nothing is searched.
    unfit = kind in TRANSDUCTIVE and not len(sketches)
    alignment = Alignment(photos.dimension) if unfit else of_kind(kind, photos, sketches)
    if index is None:
        index = PhotoIndex.build(photos, alignment, kind)
    else:
        index.check(
            dimension=alignment.aligned_dimension,
            alignment=kind,
            image_ids=photos.labels.image_ids,
            made_by=system.made_by,
        )
    blocks = index.rank_all((alignment.apply(batch, "sketch") for batch in sketches.batches()), diversity)
    evaluation = evaluate_rankings(blocks, photos.labels, sketches.labels, top=top)
    name = system.name if kind == plain else f"{system.name}+{kind}"
    return Row(name, system, kind, photos.dimension, evaluation)


def chance(like: Row) -> Row:
    """The row of a random order of the same gallery."""
    return Row("chance", None, None, None, evaluate_chance(like.evaluation.gallery, like.evaluation.queries))


def comparison_table(rows: Sequence[Row], *, dataset: str, resamples: int, seed: int) -> pd.DataFrame:
    """The content of `metrics/comparison.csv`: one row per system and alignment.

    `li_score_at_5` and `li_score_at_10` are empty: they are ratings of another benchmark.
    """
    table = pd.DataFrame([_comparison_row(row, dataset, row.evaluation.intervals(resamples, seed)) for row in rows])
    # Whole numbers with gaps would be written as decimals.
    return table.astype({"dim": "Int64"})


def _comparison_row(row: Row, dataset: str, intervals: dict[str, Interval]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "system": row.name,
        "supervision": row.system.supervision if row.system else "none",
        "dataset": dataset,
    }
    for name in FIGURES:
        values[name] = rounded(intervals[name].estimate)
    values |= {"li_score_at_5": None, "li_score_at_10": None}
    for name in WITH_INTERVAL:
        values |= with_ends(name, intervals[name])
    seconds = row.system.seconds if row.system else None
    return values | {
        "queries": len(row.evaluation.queries),
        "gallery": len(row.evaluation.gallery),
        "transductive": row.alignment in TRANSDUCTIVE,
        "dim": row.dimension,
        "seconds": None if seconds is None else round(seconds, 3),
        "alignment": row.alignment,
    }


def paired_table(ours: Row, others: Sequence[Row], *, dataset: str, resamples: int, seed: int) -> pd.DataFrame:
    """The content of `metrics/paired.csv`: ours minus each other row, on the same queries and the same draws.

    Our network before training, under our alignment, comes first, then the others under our alignment, then the rest.

    Raises:
        PipelineError: a system was embedded on other queries or another gallery; names its folder.
    """
    queries, first = ours.evaluation.in_order_of_queries()
    clusters = ours.evaluation.clusters[np.argsort(ours.evaluation.queries.image_ids, kind="stable")]
    columns = [COLUMNS.index(name) for name in PAIRED]
    control = CONTROL.format(ours.name)
    table = []
    for other in sorted(others, key=lambda row: (row.alignment != ours.alignment, _name(row) != control)):
        labels, second = other.evaluation.in_order_of_queries()
        galleries = [np.sort(row.evaluation.gallery.image_ids) for row in (ours, other)]
        if not (np.array_equal(labels.image_ids, queries.image_ids) and np.array_equal(galleries[0], galleries[1])):
            where = other.system.folder if other.system else other.name
            raise PipelineError(f"{where}: holds other images than our embeddings; run `dvc repro` again")
        intervals = bootstrap_difference(first[:, columns], second[:, columns], clusters, resamples, seed)
        values: dict[str, Any] = {
            "system": ours.name,
            "against": other.name,
            "dataset": dataset,
            "same_alignment": other.alignment == ours.alignment,
        }
        for name, interval in zip(PAIRED, intervals, strict=True):
            values |= with_ends(name, interval)
        table.append(values | {"queries": len(queries)})
    return pd.DataFrame(table)


def _name(row: Row) -> str | None:
    return row.system.name if row.system else None
