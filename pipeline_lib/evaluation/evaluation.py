"""One system on one gallery: rankings of all queries, what each is worth, and the figures with intervals.

`evaluate_rankings` is where every system is measured, whether an index or a table of scores ranks its photos.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.embedding.vectors import Labels, Strings
from pipeline_lib.evaluation.metrics import COLUMNS, PROTOCOLS, Truth, Values, expected_by_chance, find_ranks
from pipeline_lib.files import replacing
from pipeline_lib.index.ranking import Ranked, Rows, Scores, rank_scores
from pipeline_lib.intervals import Interval, bootstrap_mean
from pipeline_lib.registry import TRANSDUCTIVE

DECIMALS = 6


@dataclass(frozen=True)
class Evaluation:
    """What a system found, query by query, in the order of `queries`."""

    queries: Labels  # labels of the M queries
    gallery: Labels  # labels of the N photos
    values: Values  # float64[M, len(COLUMNS)] in 0..1, NaN where a query lacks the label that the column needs
    # float64[M], place of the photo that was meant, from 1; infinity where it is not in the gallery, NaN where none
    # is named; empty for chance.
    place: Values
    nearest: Rows  # int64[M, top], gallery rows, best first
    scores: Scores  # float32[M, top]

    @property
    def clusters(self) -> Strings:
        """str[M], equal for sketches of one photo, see `Labels.clusters`."""
        return self.queries.clusters

    def in_order_of_queries(self) -> tuple[Labels, Values]:
        """Labels and values sorted by the queries' image_ids, to compare systems query by query."""
        order = np.argsort(self.queries.image_ids, kind="stable")
        return self.queries.take(order), self.values[order]

    def intervals(self, resamples: int, seed: int) -> dict[str, Interval]:
        """Each of COLUMNS with its 95 % interval; sketches of one photo are resampled together."""
        return dict(zip(COLUMNS, bootstrap_mean(self.values, self.clusters, resamples, seed), strict=True))


def evaluate_rankings(blocks: Iterable[Ranked], gallery: Labels, queries: Labels, *, top: int = 0) -> Evaluation:
    """Measures full rankings of a gallery.

    Args:
        blocks: full rankings of all queries, in order, in blocks of any size.
        gallery: labels of the photos.
        queries: labels of the queries.
        top: how many of the nearest photos to keep for each query.
    """
    truth = Truth.of(queries, gallery)
    top = min(top, len(gallery))
    rows, scores = [np.empty((0, top), np.int64)], [np.empty((0, top), np.float32)]

    def keeping() -> Iterator[Ranked]:
        for block in blocks:
            rows.append(block.rows[:, :top].copy())
            scores.append(block.scores[:, :top].copy())
            yield block

    ranks = find_ranks(keeping(), truth)
    place = np.where(queries.instance_ids == "", np.nan, ranks.instance)
    return Evaluation(queries, gallery, ranks.values(truth), place, np.concatenate(rows), np.concatenate(scores))


def evaluate_scores(scores: NDArray[np.floating], gallery: Labels, queries: Labels, *, top: int = 0) -> Evaluation:
    """The same from a score matrix, [M, N], higher is better."""
    return evaluate_rankings(rank_scores(scores, gallery.image_ids), gallery, queries, top=top)


def evaluate_chance(gallery: Labels, queries: Labels) -> Evaluation:
    """The same for a random order, as exact expectations instead of draws."""
    values = expected_by_chance(Truth.of(queries, gallery))
    nothing = np.empty((len(queries), 0))
    return Evaluation(queries, gallery, values, np.empty(0), nothing.astype(np.int64), nothing.astype(np.float32))


def metrics_dict(
    evaluation: Evaluation,
    *,
    system: str,
    dataset: str,
    alignment: str,
    diversity: float = 0.0,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The content of `metrics/retrieval.json`.

    Returns:
        For each protocol `hit_at_1`, `hit_at_5`, `hit_at_10` (and `mrr` for instance) as fractions with
        `<name>_ci95` pairs and the number of queries that count; `map`; how many queries and photos; where from.
        Figures that no query counts for are None.
    """
    intervals = evaluation.intervals(resamples, seed)
    counted = np.count_nonzero(~np.isnan(evaluation.values), axis=0)
    result: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        names = [name for name in COLUMNS if name.startswith((f"{protocol}_hit", f"{protocol}_mrr"))]
        part: dict[str, Any] = {}
        for name in names:
            part.update(_with_interval(name.removeprefix(f"{protocol}_"), intervals[name]))
        result[protocol] = {**part, "queries": int(counted[COLUMNS.index(names[0])])}
    return {
        **result,
        **_with_interval("map", intervals["map"]),
        "queries": len(evaluation.queries),
        "gallery": len(evaluation.gallery),
        "dataset": dataset,
        "system": system,
        "alignment": alignment,
        "diversity": diversity,
        "transductive": alignment in TRANSDUCTIVE,
    }


def headline(figures: dict[str, Any], pretext: float | None) -> dict[str, float | int]:
    """The content of `metrics/headline.json`: what a run is judged by, in %, short enough for a line of a terminal.

    Args:
        figures: as `metrics_dict` gives them.
        pretext: accuracy of the pretext task, 0..1; None where the network did not learn it.

    Returns:
        At most six keys; figures that are not defined are left out.
    """
    shares = {
        "pretext": pretext,
        "instance_at_1": figures["instance"]["hit_at_1"],
        "instance_at_5": figures["instance"]["hit_at_5"],
        "class_at_5": figures["class"]["hit_at_5"],
    }
    shown = {name: round(100 * share, 1) for name, share in shares.items() if share is not None}
    return {**shown, "queries": figures["queries"], "photos": figures["gallery"]}


def _with_interval(name: str, interval: Interval) -> dict[str, Any]:
    return {name: rounded(interval.estimate), f"{name}_ci95": [rounded(interval.low), rounded(interval.high)]}


def rounded(value: float) -> float | None:
    """To 6 decimals, so that results are stable in version control; None for NaN."""
    return None if np.isnan(value) else round(float(value), DECIMALS)


def with_ends(name: str, interval: Interval) -> dict[str, float | None]:
    """A figure and the ends of its interval as the columns `name`, `name_low` and `name_high` of a table."""
    return {f"{name}{end}": rounded(value) for end, value in zip(("", "_low", "_high"), interval, strict=True)}


def rankings_table(evaluation: Evaluation) -> pa.Table:
    """The nearest photos of each query, for pictures.

    Returns:
        image_id (the query), neighbours (image_ids, best first), scores (cosine similarities; under `pretext_csls`
        less half of the photo's nearness to edge maps), place (of the photo that was meant, from 1; null where the
        gallery lacks it or none is named).
    """
    found = np.isfinite(evaluation.place)
    place = np.where(found, evaluation.place, 0).astype(np.int32)
    neighbours = evaluation.gallery.image_ids[evaluation.nearest]
    return pa.table(
        {
            "image_id": pa.array(evaluation.queries.image_ids.tolist(), pa.string()),
            "neighbours": pa.array(neighbours.tolist(), pa.list_(pa.string())),
            "scores": pa.array(evaluation.scores.tolist(), pa.list_(pa.float32())),
            "place": pa.array(place, mask=~found),
        }
    )


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Writes a table as CSV with plain line ends, whole or not at all; what is unknown stays empty."""
    with replacing(path) as aside:
        table.to_csv(aside, index=False, lineterminator="\n")
