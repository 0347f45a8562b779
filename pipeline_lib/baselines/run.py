"""Runs systems on benchmarks: fits once, embeds on all cores, and keeps what is finished.

`store/<system>/fit-<training>/` holds what a system learned, `store/<system>/<benchmark>/` its vectors or scores with
`system.json`, whose `key` is a hash of everything they depend on. What fits its key is never made again.
"""

import importlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline_lib.baselines import embedding
from pipeline_lib.baselines.system import (
    RECORD,
    SKIPPED,
    Benchmark,
    ProjectedSystem,
    ScoreSystem,
    System,
    Training,
    VectorSystem,
)
from pipeline_lib.closure import digest_of_imports
from pipeline_lib.data.schemas import shard_paths
from pipeline_lib.data.tasks import map_shards, stats_or_raise
from pipeline_lib.embedding.alignment import FILE_NAME as ALIGNMENT
from pipeline_lib.embedding.alignment import fit_pretext
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of, digest_of_file, publish_folder, read_json, replacing, write_json
from pipeline_lib.params import fingerprint

# Means of 1,000 pairs are known to a thirtieth of a deviation; more would double the work for nothing.
PRETEXT_PAIRS = 1000
FITTED = "fitted.json"


def run_module(module: str, benchmarks: Sequence[Benchmark], store: Path) -> None:
    """Runs all systems of one file of this folder on all benchmarks.

    Args:
        module: name of the file, without `.py`.
        benchmarks: to run on.
        store: where results are kept.

    Raises:
        PipelineError: a system failed; those before it are kept.
    """
    for system in importlib.import_module(f"pipeline_lib.baselines.{module}").SYSTEMS:
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
        skipped = {"system": system.name, "supervision": system.supervision, "reason": reason}
        if not (out / SKIPPED).exists() or read_json(out / SKIPPED) != skipped:
            shutil.rmtree(out, ignore_errors=True)
            write_json(out / SKIPPED, skipped)
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
    if isinstance(system, VectorSystem):
        record["forms"] = list(system.forms_on(benchmark.training))
        if isinstance(system, ProjectedSystem) and base:
            record |= embedding.project_tables(system, base, stored, folder, scratch)
        else:
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


def key_of(system: System, training: Training) -> str:
    """The key of what a system learned: its settings, all code that it imports, images and params."""
    own = Path(importlib.import_module(type(system).__module__).__file__ or "")
    shards = [digest_of_file(path) for path in shard_paths(training.run.pairs)]
    pairs = [training.photos["content"].tolist(), training.sketches["content"].tolist()] if system.paired else []
    params = training.run.params
    # Threads change no more than the last bits.
    sections = [fingerprint(section, {"threads"}) for section in (params.edges, params.embed, params.baselines)]
    code = digest_of_imports(own, Path(__file__))
    return digest_of(repr(system), code, shards, *system.learned_from(training), pairs, sections)


def _fitted(system: System, training: Training, home: Path) -> tuple[Path, str]:
    """The folder that the system was fitted into, and the key of what it learned."""
    key = key_of(system, training)
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
        return _taken_over(made, scratch)
    training, params = benchmark.training, benchmark.training.run.params
    parts: dict[str, Sequence[embedding.Inputs]] = {
        "photos": embedding.from_rows(benchmark.gallery, benchmark.source),
        "sketches": embedding.from_rows(benchmark.queries, benchmark.source),
    }
    if (folder / ALIGNMENT).exists():
        shutil.copyfile(folder / ALIGNMENT, scratch / ALIGNMENT)
    elif "pretext_mean" in system.forms:
        chosen = pretext_sample(training.catalog)
        parts["pretext_photos"] = embedding.from_pairs(training.run.pairs, "photo", chosen)
        parts["pretext_edges"] = embedding.from_pairs(training.run.pairs, "edges", chosen)
    # One call for all tables: every process starts once.
    tasks = {
        name: [
            embedding.EmbedTask(scratch / f"{name}-shards/part-{number:05d}.parquet", system, folder, params, given)
            for number, given in enumerate(inputs)
        ]
        for name, inputs in parts.items()
    }
    outcomes = map_shards(
        embedding.embed_shard,
        [task for some in tasks.values() for task in some],
        workers=system.processes,
        description=f"{system.name} {benchmark.name}",
        unit="image",
    )
    stats = dict(zip((outcome.task.path for outcome in outcomes), stats_or_raise(outcomes), strict=True))
    seconds: dict[str, float] = {}
    for name, some in tasks.items():
        # Each shard keeps its own time, so that the sum does not depend on interruptions.
        seconds[name] = sum(stats[task.path]["seconds"] / stats[task.path]["processes"] for task in some)
        embedding.join_shards([task.path for task in some], scratch / f"{name}.parquet")
    for name in tasks:
        shutil.rmtree(scratch / f"{name}-shards")
    if "pretext_photos" in parts:
        # The means belong to what was fitted: the next benchmark of the same training finds them there.
        fit_pretext(scratch).save(folder / ALIGNMENT)
        shutil.copyfile(folder / ALIGNMENT, scratch / ALIGNMENT)
        for side in ("photos", "edges"):
            (scratch / f"pretext_{side}.parquet").unlink()
    return {
        "dimension": next(iter(stats.values()))["dimension"],
        "seconds": round(seconds["photos"], 2),
        "seconds_queries": round(seconds["sketches"], 2),
    }


def _taken_over(made: Path, scratch: Path) -> dict[str, object]:
    """The same for vectors that the pipeline has made."""
    for name in ("photos.parquet", "sketches.parquet", ALIGNMENT):
        try:
            shutil.copyfile(made / name, scratch / name)
        except OSError as failure:
            raise PipelineError(f"{made / name}: can't be read ({failure.strerror}); make the run again") from failure
    return {
        "dimension": EmbeddingTable.open(scratch / "photos.parquet").dimension,
        "seconds": read_json(made / RECORD)["seconds"],
        "seconds_queries": None,
    }


def pretext_sample(catalog: pd.DataFrame) -> frozenset[str]:
    """The pretext images that means are taken over: at most `PRETEXT_PAIRS`, chosen by a hash of their ids."""
    ids = catalog.loc[catalog["role"] == "pretext", "image_id"].tolist()
    return frozenset(sorted(ids, key=digest_of)[:PRETEXT_PAIRS])
