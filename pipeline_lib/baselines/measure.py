"""What each system found on each part of each benchmark, query by query. Neither torch nor faiss is needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.baselines.system import RECORD, SKIPPED, Benchmark, Part
from pipeline_lib.closure import digest_of_imports
from pipeline_lib.embedding.vectors import Labels, open_retrieval
from pipeline_lib.errors import PipelineError
from pipeline_lib.evaluation import li_score
from pipeline_lib.evaluation.evaluation import evaluate_chance, evaluate_rankings
from pipeline_lib.evaluation.metrics import COLUMNS
from pipeline_lib.evaluation.similarity import score_blocks
from pipeline_lib.files import digest_of, read_json, replacing
from pipeline_lib.index.ranking import rank_scores

Values = NDArray[np.float64]

LI_COLUMNS = tuple(f"li_score_at_{k}" for k in li_score.KS)
NAMES = (*COLUMNS, *LI_COLUMNS)
# In the embedded set every picture is a class of its own, so that only figures of the instance say something.
INSTANCE_ONLY = "openmoji"


@dataclass(frozen=True)
class Measured:
    """One row of the comparison."""

    row: str  # the system's name, with `+form` unless it is the plain one
    record: dict[str, Any]  # `system.json`; of chance, what stands for it
    form: str | None  # alignment or similarity
    dataset: str  # the part's name
    queries: Labels  # labels of the M queries, in the order of image_id
    gallery: int  # number of photos
    values: Values  # float64[M, len(NAMES)], NaN where undefined


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
        name = record["system"] if number == 0 else f"{record['system']}+{form}"
        for part in benchmark.parts:
            if part.unseen or not record["paired"]:
                values = _kept(folder, benchmark, part, form)
                queries = sides(benchmark, part)[1]
                rows.append(Measured(name, record, form, part.name, queries, len(part.gallery), values))
    return rows


def chance(benchmark: Benchmark, part: Part) -> Measured:
    """A random order, as exact expectations."""
    gallery, queries = sides(benchmark, part)
    values = np.full((len(queries), len(NAMES)), np.nan)
    if benchmark.ratings is None:
        values[:, : len(COLUMNS)] = evaluate_chance(gallery, queries).values
    else:
        for places in _classes(queries, gallery):
            values[places[0], len(COLUMNS) :] = li_score.by_chance(benchmark.ratings[np.ix_(*places)])
    return _reference("chance", "none", part, queries, _blanked(part, values))


def oracle(benchmark: Benchmark, part: Part) -> Measured:
    """The best order by the ratings themselves (Li 2014 only)."""
    if benchmark.ratings is None:
        raise ValueError(f"{benchmark.name} has no ratings")
    gallery, queries = sides(benchmark, part)
    values = np.full((len(queries), len(NAMES)), np.nan)
    for places in _classes(queries, gallery):
        values[places[0], len(COLUMNS) :] = li_score.by_oracle(benchmark.ratings[np.ix_(*places)])
    return _reference("oracle", "ratings", part, queries, values)


def _reference(name: str, supervision: str, part: Part, queries: Labels, values: Values) -> Measured:
    record = {"system": name, "supervision": supervision, "paired": False, "seconds": None, "dimension": None}
    return Measured(name, record, None, part.name, queries, len(part.gallery), values)


def sides(benchmark: Benchmark, part: Part) -> tuple[Labels, Labels]:
    """Labels of the part's photos and of its queries, each in the order of image_id."""
    labels = []
    for frame, ids in ((benchmark.gallery, part.gallery), (benchmark.queries, part.queries)):
        chosen = frame[frame["image_id"].isin(ids)]
        labels.append(Labels.of(*(chosen[name] for name in ("image_id", "class_name", "instance_id"))))
    return labels[0], labels[1]


@cache
def _code() -> str:
    return digest_of_imports(Path(__file__))


def _kept(folder: Path, benchmark: Benchmark, part: Part, form: str) -> Values:
    key = digest_of(sorted(part.gallery), sorted(part.queries), _code())
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
        ranked = chain.from_iterable(rank_scores(block, gallery.image_ids) for block in blocks)
        values[:, : len(COLUMNS)] = evaluate_rankings(ranked, gallery, queries).values
        return _blanked(part, values)
    scores = np.concatenate(list(blocks))
    for rows, columns in _classes(queries, gallery):
        places = np.ix_(rows, columns)
        found = li_score.li_scores(scores[places], benchmark.ratings[places], gallery.image_ids[columns])
        values[rows, len(COLUMNS) :] = found
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
    """Rows of the queries and of the photos of each class."""
    for name in np.unique(queries.class_names):
        yield np.flatnonzero(queries.class_names == name), np.flatnonzero(gallery.class_names == name)


def _blanked(part: Part, values: Values) -> Values:
    if part.name == INSTANCE_ONLY:
        values[:, [number for number, name in enumerate(NAMES) if not name.startswith("instance")]] = np.nan
    return values
