"""Recall against exact search, speed, memory and build time of the kinds of index -> metrics/index_kinds.csv.

    python -m benchmarks.index_kinds --embeddings data/embeddings --counts 10000 100000 1000000

Vectors: fc6 of real photos (photos and pretext_photos of a run), aligned, reduced to 1,024 principal components;
each vector is one of them, chosen at random, with Gaussian noise on every component, half as large as the component's
own deviation, and L2-normalised again. Queries are the run's drawings in the same space. Each row is measured in
processes of their own: one builds and writes the index, another reads it, so that memory is that of the index alone.
Queries come one at a time, as in the web page. Everything runs on one thread and is measured in processor seconds,
which other work on the machine disturbs little. Finished rows are appended and rows that are there already are skipped,
so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.run import ROOT
from pipeline_lib.embedding.alignment import FILE_NAME, Alignment, normalise
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.index.kinds import KINDS, build_index, principal_components, settings_of
from pipeline_lib.run import processor

DIMENSION = 1024
NOISE = 0.5
QUERIES = 200
TOP = 10
BLOCK = 10_000
Matrix = NDArray[np.float32]
COLUMNS = [
    "vectors", "kind", "settings", "recall_at_10", "queries_per_second", "median_ms", "p95_ms", "memory_mb",
    "build_seconds", "dimension", "base_vectors", "queries", "processor", "faiss", "python",
]  # fmt: skip


def prepare(embeddings: Path, place: Path) -> None:
    """Writes base.npy (real photos) and queries.npy (drawings), float32[N, DIMENSION], to `place`."""
    alignment = Alignment.load(embeddings / FILE_NAME).as_kind("pretext_csls")
    tables = [EmbeddingTable.open(embeddings / f"{name}.parquet") for name in ("photos", "pretext_photos")]
    photos = np.concatenate([alignment.apply(table.read(), "photo") for table in tables])
    sketches = alignment.apply(EmbeddingTable.open(embeddings / "sketches.parquet").read(), "sketch")
    components = principal_components(photos, DIMENSION)
    chosen = np.random.default_rng(0).permutation(len(sketches))[:QUERIES]
    np.save(place / "base.npy", normalise(photos @ components.T))
    np.save(place / "queries.npy", normalise(sketches[chosen] @ components.T))


def vectors(base: Matrix, count: int) -> Iterator[Matrix]:
    """`count` perturbed copies of `base`, the same in every call."""
    random = np.random.default_rng(7)
    noise = (NOISE * base.std(axis=0)).astype(np.float32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        block = base[random.integers(0, len(base), size)]
        block = block + noise * random.standard_normal((size, base.shape[1]), np.float32)
        yield normalise(block)


def exact(base: Matrix, queries: Matrix, count: int) -> NDArray[np.int64]:
    """The true neighbours, int64[Q, TOP], block by block."""
    scores = np.concatenate([queries @ block.T for block in vectors(base, count)], axis=1)
    order: NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    return order


def build(place: Path, count: int, kind: str) -> None:
    """Builds one index and writes it, with the time it took."""
    faiss.omp_set_num_threads(1)
    base = np.load(place / "base.npy")
    making = 0.0

    def batches() -> Iterator[Matrix]:
        # Making the vectors is no part of the building.
        nonlocal making
        source = vectors(base, count)
        while True:
            before = time.process_time()
            batch = next(source, None)
            making += time.process_time() - before
            if batch is None:
                return
            yield batch

    started = time.process_time()
    index = build_index(batches, count, DIMENSION, kind, 0)
    seconds = time.process_time() - started - making
    faiss.write_index(index, str(place / "index.faiss"))
    print(json.dumps({"build_seconds": round(seconds, 1), "settings": settings_of(index)}))


def resident() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 1e6


def search(place: Path, count: int) -> None:
    """Searches a written index one query at a time on one thread."""
    faiss.omp_set_num_threads(1)
    queries, truth = np.load(place / "queries.npy"), np.load(place / f"truth-{count}.npy")
    before = resident()
    index = faiss.read_index(str(place / "index.faiss"))
    index.search(queries[:5], TOP)
    memory = resident() - before
    seconds, hits = [], 0
    for query, right in zip(queries, truth, strict=True):
        started = time.process_time()
        _, found = index.search(query[None], TOP)
        seconds.append(time.process_time() - started)
        hits += len(set(found[0].tolist()) & set(right.tolist()))
    figures = {
        "recall_at_10": round(hits / truth.size, 4),
        "queries_per_second": round(len(seconds) / sum(seconds), 1),
        "median_ms": round(float(np.median(seconds)) * 1e3, 2),
        "p95_ms": round(float(np.quantile(seconds, 0.95)) * 1e3, 2),
        "memory_mb": round(memory),
    }
    print(json.dumps(figures))


def step(*arguments: str) -> dict[str, object]:
    """One step in a process of its own; the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.index_kinds", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True,
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout or "{}")
    return found


def finished(out: Path) -> set[tuple[str, str]]:
    """(vectors, kind) of the rows in the file."""
    if not out.exists():
        return set()
    with out.open(encoding="utf-8", newline="") as stream:
        return {(row["vectors"], row["kind"]) for row in csv.DictReader(stream)}


def append(out: Path, row: dict[str, object]) -> None:
    """Adds one row."""
    new = not out.exists()
    with out.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def run(embeddings: Path, counts: list[int], out: Path, place: Path) -> None:
    """Measures all rows that the file lacks."""
    prepare(embeddings, place)
    base, queries = np.load(place / "base.npy"), np.load(place / "queries.npy")
    facts = {"processor": processor(), "faiss": faiss.__version__, "python": platform.python_version()}
    for count in counts:
        left = [kind for kind in KINDS if (str(count), kind) not in finished(out)]
        if left:
            np.save(place / f"truth-{count}.npy", exact(base, queries, count))
        for kind in left:
            row = step("--step", "build", "--place", str(place), "--counts", str(count), "--kind", kind)
            row |= step("--step", "search", "--place", str(place), "--counts", str(count))
            row |= {"vectors": count, "kind": kind, "dimension": DIMENSION, "base_vectors": len(base)}
            append(out, {**row, "queries": len(queries), **facts})
            print(f"{count} {kind}: {row}", file=sys.stderr)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="kinds of index: recall, speed, memory, build time")
    parser.add_argument("--embeddings", type=Path, default=ROOT / "data" / "embeddings", help="of a finished run")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=ROOT / "metrics" / "index_kinds.csv")
    parser.add_argument("--step", choices=["build", "search"], help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step == "build":
        build(asked.place, asked.counts[0], asked.kind)
    elif asked.step == "search":
        search(asked.place, asked.counts[0])
    else:
        with tempfile.TemporaryDirectory(prefix="bench-index-") as folder:
            run(asked.embeddings, asked.counts, asked.out, Path(folder))


if __name__ == "__main__":
    main()
