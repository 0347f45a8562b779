"""Runs systems on benchmarks: fits once, embeds on all cores, and keeps what is finished.

`store/<system>/fit-<training>/` holds what a system learned, `store/<system>/<benchmark>/` its vectors or scores with
`system.json`, whose `key` is a hash of everything they depend on. What fits its key is never made again.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline_lib.baselines.embedding import EmbedTask, Inputs, embed_shard, from_pairs, from_rows
from pipeline_lib.baselines.project import projected
from pipeline_lib.baselines.system import Benchmark, ProjectedSystem, ScoreSystem, System, Training, VectorSystem
from pipeline_lib.data.files import (
    LIBRARY,
    digest_of,
    digest_of_file,
    publish_folder,
    read_json,
    replacing,
    write_json,
)
from pipeline_lib.data.schemas import shard_paths
from pipeline_lib.data.tasks import map_shards, stats_or_raise
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.alignment import FILE_NAME as ALIGNMENT
from pipeline_lib.retrieval.fitting import fit_pretext
from pipeline_lib.retrieval.vectors import EmbeddingTable

# Means of 1,000 pairs are known to a thirtieth of a deviation; more would double the work for nothing.
PRETEXT_PAIRS = 1000
RECORD = "system.json"
SKIPPED = "skipped.json"
FITTED = "fitted.json"
ALWAYS = ("baselines/embedding.py", "data/images.py", "pretext/edges.py", "retrieval/fitting.py")


def run_module(module: str, benchmarks: Sequence[Benchmark], store: Path) -> None:
    """Runs all systems of one file of this folder on all benchmarks.

    Args:
        module: name of the file, without `.py`.
        benchmarks: to run on.
        store: where results are kept.

    Raises:
        PipelineError: a system failed; those before it are kept.
    """
    loaded = importlib.import_module(f"pipeline_lib.baselines.{module}")
    for system in loaded.SYSTEMS:
        for benchmark in benchmarks:
            run_system(system, benchmark, store)


def run_system(system: System, benchmark: Benchmark, store: Path) -> Path:
    """Runs one system on one benchmark, unless that is done already.

    Returns:
        The folder of its results: `system.json` beside vectors or scores, or `skipped.json`.

    Raises:
        PipelineError: an image can't be read, or a vector is not finite.
    """
    home = store / system.name
    out = home / benchmark.name
    reason = system.inapplicable(benchmark)
    if reason:
        shutil.rmtree(out, ignore_errors=True)
        write_json(out / SKIPPED, {"system": system.name, "supervision": system.supervision, "reason": reason})
        return out
    folder, fitted = _fitted(system, benchmark.training, home)
    content = [frame[["image_id", "content"]].to_numpy().tolist() for frame in (benchmark.gallery, benchmark.queries)]
    base = run_system(system.stored, benchmark, store) if isinstance(system, ProjectedSystem) else None
    stored = read_json(base / RECORD) if base else {}
    key = digest_of(fitted, content, *([stored["key"]] if base else []))
    if (out / RECORD).exists() and read_json(out / RECORD).get("key") == key:
        return out
    scratch = home / f".{benchmark.name}-{key[:16]}"
    scratch.mkdir(parents=True, exist_ok=True)
    record = {
        "system": system.name,
        "supervision": system.supervision,
        "paired": system.paired,
        "fit_seconds": read_json(folder / FITTED)["seconds"],
        "key": key,
    }
    if isinstance(system, ProjectedSystem) and base:
        record |= projected(system, base, stored, folder, scratch)
    elif isinstance(system, VectorSystem):
        record |= _vectors(system, benchmark, folder, scratch)
    elif isinstance(system, ScoreSystem):
        scores, seconds = system.score(benchmark, folder, scratch)
        expected = (len(benchmark.queries), len(benchmark.gallery))
        if scores.shape != expected or np.isnan(scores).any():
            raise PipelineError(f"{system.name}: scores {scores.shape} with NaN or not {expected}; mend its `score`")
        with replacing(scratch / "scores.npy") as aside, aside.open("wb") as stream:
            np.save(stream, scores.astype(np.float32))
        record |= {"forms": ["scores"], "seconds": round(seconds, 2), "dimension": None}
    write_json(scratch / RECORD, record)
    publish_folder(scratch, out)
    return out


def _fitted(system: System, training: Training, home: Path) -> tuple[Path, str]:
    """The folder that the system was fitted into, and the key of what it learned from."""
    own = Path(importlib.import_module(type(system).__module__).__file__ or "")
    code = [digest_of_file(path) for path in (own, *(LIBRARY / name for name in (*ALWAYS, *system.code)))]
    shards = [digest_of_file(path) for path in shard_paths(training.pairs)]
    learned = [training.photos["content"].tolist(), training.sketches["content"].tolist()] if system.paired else []
    # Threads change no more than the last bits.
    settings = training.settings.model_dump(include={"edges", "embed", "baselines"}, exclude={"embed": {"threads"}})
    key = digest_of(repr(system), code, shards, *system.learned_from(training), learned, settings)
    folder = home / f"fit-{training.name}"
    record = folder / FITTED
    if record.exists() and read_json(record)["key"] == key:
        return folder, key
    unfinished = home / f".fit-{training.name}-{key[:16]}"
    unfinished.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    system.fit(training, unfinished)
    write_json(unfinished / FITTED, {"key": key, "seconds": round(time.perf_counter() - started, 2)})
    publish_folder(unfinished, folder)
    return folder, key


def _vectors(system: VectorSystem, benchmark: Benchmark, folder: Path, scratch: Path) -> dict[str, object]:
    """Embeds gallery, queries and a sample of the pretext pairs into `scratch`; the record's part about them."""
    made = system.ready(benchmark)
    if made is not None:
        return _taken_over(system, made, scratch)
    settings = benchmark.training.settings
    parts: dict[str, Sequence[Inputs]] = {
        "photos": from_rows(benchmark.gallery, benchmark.source),
        "sketches": from_rows(benchmark.queries, benchmark.source),
    }
    if (folder / ALIGNMENT).exists():
        shutil.copyfile(folder / ALIGNMENT, scratch / ALIGNMENT)
    elif "pretext_mean" in system.forms:
        chosen = pretext_sample(benchmark.training.catalog)
        parts["pretext_photos"] = from_pairs(benchmark.training.pairs, "photo", chosen)
        parts["pretext_edges"] = from_pairs(benchmark.training.pairs, "edges", chosen)
    # One call for all tables: every process starts once.
    tasks = {
        name: [
            EmbedTask(scratch / f"{name}-shards" / f"part-{number:05d}.parquet", system, folder, settings, given)
            for number, given in enumerate(inputs)
        ]
        for name, inputs in parts.items()
    }
    outcomes = map_shards(
        embed_shard,
        [task for some in tasks.values() for task in some],
        workers=system.processes,
        description=f"{system.name} {benchmark.name}",
        unit="image",
    )
    stats = dict(zip((outcome.task.path for outcome in outcomes), stats_or_raise(outcomes), strict=True))
    seconds: dict[str, float] = {}
    for name, some in tasks.items():
        # Shards of a run that was cut off keep their own time, so that the sum is the same however often it stopped.
        seconds[name] = sum(stats[task.path]["seconds"] / stats[task.path]["processes"] for task in some)
        _join([task.path for task in some], scratch / f"{name}.parquet")
    for name in tasks:
        shutil.rmtree(scratch / f"{name}-shards")
    if "pretext_photos" in parts:
        # The means belong to what was fitted: the next benchmark of the same training finds them there.
        fit_pretext(scratch).save(folder / ALIGNMENT)
        shutil.copyfile(folder / ALIGNMENT, scratch / ALIGNMENT)
        for side in ("photos", "edges"):
            (scratch / f"pretext_{side}.parquet").unlink()
    return {
        "forms": list(system.forms),
        "dimension": next(iter(stats.values()))["dimension"],
        "seconds": round(seconds["photos"], 2),
        "seconds_queries": round(seconds["sketches"], 2),
    }


def _taken_over(system: VectorSystem, made: Path, scratch: Path) -> dict[str, object]:
    """The same for vectors that the pipeline has made."""
    for name in ("photos.parquet", "sketches.parquet", ALIGNMENT):
        try:
            shutil.copyfile(made / name, scratch / name)
        except OSError as failure:
            raise PipelineError(
                f"{made / name}: can't be read ({failure.strerror}); run `dvc repro` first"
            ) from failure
    return {
        "forms": list(system.forms),
        "dimension": EmbeddingTable.open(scratch / "photos.parquet").dimension,
        "seconds": read_json(made / RECORD)["seconds"],
        "seconds_queries": None,
    }


def pretext_sample(catalog: pd.DataFrame) -> frozenset[str]:
    """The pretext images that means are taken over: at most `PRETEXT_PAIRS`, chosen by a hash of their ids."""
    ids = catalog.loc[catalog["role"] == "pretext", "image_id"].tolist()
    return frozenset(sorted(ids, key=digest_of)[:PRETEXT_PAIRS])


def _join(shards: Sequence[Path], path: Path) -> None:
    """Puts shards into one table, a shard at a time."""

    def tables() -> Iterator[pq.ParquetFile]:
        for shard in shards:
            with pq.ParquetFile(shard) as file:
                yield file

    schema = pq.read_schema(shards[0])
    with replacing(path) as aside, pq.ParquetWriter(aside, schema, compression="lz4", use_dictionary=False) as writer:
        for file in tables():
            writer.write_table(file.read())
