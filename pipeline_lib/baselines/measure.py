"""What each system found on each part of each benchmark, query by query. Neither torch nor faiss is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.baselines.run import RECORD, SKIPPED
from pipeline_lib.baselines.similarity import score_blocks
from pipeline_lib.baselines.system import Benchmark, Part
from pipeline_lib.data.files import digest_of, digest_of_code, read_json, replacing
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval import li_score
from pipeline_lib.retrieval.metrics import COLUMNS, Truth, expected_by_chance, find_ranks
from pipeline_lib.retrieval.ranking import Ranked, TieBreak, rank
from pipeline_lib.retrieval.vectors import Labels, open_retrieval

Values = NDArray[np.float64]

LI_COLUMNS = tuple(f"li_score_at_{k}" for k in li_score.KS)
NAMES = (*COLUMNS, *LI_COLUMNS)
# In the embedded set every picture is its own class.
INSTANCE_ONLY = "openmoji"
# Whose change makes kept values void; the rest of retrieval/ has no say in them.
JUDGED_BY = ("alignment", "fitting", "hubness", "li_score", "metrics", "ranking", "vectors", "whitening")
CODE = ("baselines/measure.py", "baselines/similarity.py", *(f"retrieval/{name}.py" for name in JUDGED_BY))


@dataclass(frozen=True)
class Measured:
    """One row of the comparison.

    Attributes:
        row: the system's name, with `+form` unless it is the plain one.
        record: `system.json`; of chance, what stands for it.
        form: alignment or similarity.
        dataset: the part's name.
        queries: labels of the M queries, in the order of image_id.
        gallery: number of photos.
        values: float64[M, len(NAMES)], NaN where undefined.
    """

    row: str
    record: dict[str, Any]
    form: str | None
    dataset: str
    queries: Labels
    gallery: int
    values: Values


def measure(folder: Path, benchmark: Benchmark) -> list[Measured]:
    """All rows of one system on one benchmark; none where the system was skipped.

    Values are kept beside the vectors, so that a second call costs nothing.

    Raises:
        PipelineError: results are missing, damaged or of other images.
    """
    if (folder / SKIPPED).exists():
        return []
    record = read_json(folder / RECORD)
    rows = []
    for number, form in enumerate(record["forms"]):
        for part in benchmark.parts:
            if record["paired"] and not part.unseen:
                continue
            values = _kept(folder, benchmark, part, form)
            name = record["system"] if number == 0 else f"{record['system']}+{form}"
            rows.append(Measured(name, record, form, part.name, sides(benchmark, part)[1], len(part.gallery), values))
    return rows


def chance(benchmark: Benchmark, part: Part) -> Measured:
    """A random order, as exact expectations."""
    gallery, queries = sides(benchmark, part)
    record = {"system": "chance", "supervision": "none", "paired": False, "seconds": None, "dimension": None}
    values = np.full((len(queries), len(NAMES)), np.nan)
    values[:, : len(COLUMNS)] = expected_by_chance(Truth.of(queries, gallery))
    if benchmark.ratings is not None:
        values[:, : len(COLUMNS)] = np.nan
        for rows, columns in _classes(queries, gallery):
            values[rows, len(COLUMNS) :] = li_score.by_chance(benchmark.ratings[np.ix_(rows, columns)])
    return Measured("chance", record, None, part.name, queries, len(gallery), _blanked(part, values))


def oracle(benchmark: Benchmark, part: Part) -> Measured:
    """The best order by the ratings themselves (Li 2014 only)."""
    if benchmark.ratings is None:
        raise ValueError(f"{benchmark.name} has no ratings")
    gallery, queries = sides(benchmark, part)
    record = {"system": "oracle", "supervision": "ratings", "paired": False, "seconds": None, "dimension": None}
    values = np.full((len(queries), len(NAMES)), np.nan)
    for rows, columns in _classes(queries, gallery):
        values[rows, len(COLUMNS) :] = li_score.by_oracle(benchmark.ratings[np.ix_(rows, columns)])
    return Measured("oracle", record, None, part.name, queries, len(gallery), values)


def sides(benchmark: Benchmark, part: Part) -> tuple[Labels, Labels]:
    """Labels of the part's photos and of its queries, each in the order of image_id."""
    labels = []
    for frame, ids in ((benchmark.gallery, part.gallery), (benchmark.queries, part.queries)):
        chosen = frame[frame["image_id"].isin(ids)]
        labels.append(Labels.of(*(chosen[name] for name in ("image_id", "class_name", "instance_id"))))
    return labels[0], labels[1]


def _kept(folder: Path, benchmark: Benchmark, part: Part, form: str) -> Values:
    key = digest_of(sorted(part.gallery), sorted(part.queries), digest_of_code(*CODE))
    path = folder / f"values-{part.name}-{form}-{key[:16]}.npy"
    if path.exists():
        kept: Values = np.load(path)
        return kept
    values = _values(folder, benchmark, part, form)
    with replacing(path) as aside, aside.open("wb") as stream:
        np.save(stream, values)
    return values


def _values(folder: Path, benchmark: Benchmark, part: Part, form: str) -> Values:
    gallery, queries = sides(benchmark, part)
    blocks = _scores(folder, benchmark, part, form)
    values = np.full((len(queries), len(NAMES)), np.nan)
    if benchmark.ratings is None:
        ties = TieBreak.of(gallery.image_ids)

        def ranked() -> Iterator[Ranked]:
            for block in blocks:
                yield rank(np.ascontiguousarray(block, np.float32), ties)

        truth = Truth.of(queries, gallery)
        values[:, : len(COLUMNS)] = find_ranks(ranked(), truth).values(truth)
        return _blanked(part, values)
    scores = np.concatenate(list(blocks))
    for rows, columns in _classes(queries, gallery):
        places = np.ix_(rows, columns)
        values[rows, len(COLUMNS) :] = li_score.li_scores(
            scores[places], benchmark.ratings[places], gallery.image_ids[columns]
        )
    return values


def _scores(folder: Path, benchmark: Benchmark, part: Part, form: str) -> Iterator[NDArray[np.float32]]:
    """Blocks of scores of the part's queries against its photos, both in the order of image_id."""
    photos, queries = (frame["image_id"].to_numpy(str) for frame in (benchmark.gallery, benchmark.queries))
    rows = np.flatnonzero(np.isin(photos, list(part.gallery))), np.flatnonzero(np.isin(queries, list(part.queries)))
    if form == "scores":
        yield np.load(folder / "scores.npy", mmap_mode="r")[np.ix_(rows[1], rows[0])]
        return
    tables = open_retrieval(folder)
    for table, ids in zip(tables, (photos, queries), strict=True):
        if not np.array_equal(table.labels.image_ids, ids):
            raise PipelineError(f"{table.path}: holds other images than {benchmark.name}; delete {folder}, run again")
    yield from score_blocks(*tables, form, rows)


def _classes(queries: Labels, gallery: Labels) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    for name in np.unique(queries.class_names):
        yield np.flatnonzero(queries.class_names == name), np.flatnonzero(gallery.class_names == name)


def _blanked(part: Part, values: Values) -> Values:
    if part.name == INSTANCE_ONLY:
        values[:, [number for number, name in enumerate(NAMES) if not name.startswith("instance")]] = np.nan
    return values
