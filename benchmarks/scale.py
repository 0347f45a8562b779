"""What a million photos and ten million take -> metrics/scale.csv: `python -m benchmarks.scale PART ... --root /data`.

Vectors are those that the model in the box makes of real photos, each several times, with Gaussian noise on every
number, half as large as the number's own deviation. Queries are real drawings. Rows go to metrics/scale.csv; a part
that is measured replaces its rows and leaves the others. On two cores the parts take about:

- million (15 min): the index of a million of one's own photos, as `drawfind index` makes it of files that are there;
  an update by one photo, and one after a folder was moved
- ten_million (90 min): an index of ten million vectors whose lists lie in a file
- rest (1 min): bytes of vectors at rest
- real (1 min): which neighbours of real photos are lost by reducing and coding their vectors
- kinds (8 min): kinds of index side by side, of a hundred thousand vectors
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from benchmarks.run import ROOT
from benchmarks.timing import update_table
from pipeline_lib.data.schemas import open_parquet
from pipeline_lib.data.source import signature_of
from pipeline_lib.embedding.alignment import FILE_NAME, Alignment, normalise
from pipeline_lib.embedding.vectors import EmbeddingTable, vector_table
from pipeline_lib.files import digest_of_file
from pipeline_lib.index.facts import INDEX_NAME, LISTS_NAME
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.run import Run
from pipeline_lib.search.command import box
from pipeline_lib.search.engine import QueryEncoder, open_encoder
from pipeline_lib.search.gallery import index_rows
from pipeline_lib.search.index_photos import Update, update
from pipeline_lib.search.own_files import Files, shard_files, shard_of
from pipeline_lib.search.own_record import Record, model_key, own_folder, write_record
from pipeline_lib.search.own_shards import DIGITS, _write_shard
from pipeline_lib.search.stacks import MARK_BYTES

TABLE: Final = ROOT / "metrics" / "scale.csv"
COLUMNS: Final = ("what", "value", "unit", "goal", "note")
MILLION: Final = 1_000_000
COUNT: Final = 10 * MILLION
KIND: Final = "IVF4096,SQ8"
"""Of the ten million: a third of the lists that `auto` would make, so that they are made in a third of the time."""
HUNDRED_THOUSAND: Final = 100_000
AUTOFAISS: Final = {"autofaiss_in_600_mb": "HNSW32"}
"""What `get_optimal_index_keys_v2` of autofaiss 2.18 says first for a hundred thousand vectors of 1,024 numbers. Within
200 MB it says OPQ256_1280,IVF1024_HNSW32,PQ256x8, which was not trained after six minutes of one thread."""
PER_FOLDER: Final = 1000
BASE: Final = 4000
"""Real photos, at most."""
QUERIES: Final = 200
TOP: Final = 10
NOISE: Final = 0.5
BLOCK: Final = 10_000
REDUCED: Final = 1024
CODED: Final = {
    "512_numbers_in_bytes": ("SQ8", 512),
    "all_in_bytes": ("SQ8", REDUCED),
    "all_in_4_bits": ("RaBitQ4", REDUCED),
}
"""FAISS factory strings without lists, and to how many numbers vectors are reduced."""
THREADS: Final = 2
"""Of a search, as of the server's."""
Matrix = NDArray[np.float32]
Rows = Iterator[tuple[str, float, str, str, str]]
"""what, value, unit, goal, note."""


def real_photos(root: Path) -> list[Path]:
    """Photos of the folder that holds data sets, spread over all of them."""
    found = sorted([*(root / "photos").glob("*.jpg"), *(root / "more_photos").rglob("*.jpg")])
    found += sorted((root / "VOCdevkit").rglob("JPEGImages/*.jpg"))
    return found[:: max(1, len(found) // BASE)][:BASE]


def prepare(root: Path, place: Path) -> None:
    """Embeds real photos and drawings with the model in the box: base.npy (raw), queries.npy (aligned)."""
    run = Run.open(box())
    encoder, batch = open_encoder(run, 2), 32
    paths = real_photos(root)
    drawn = sorted((root / "sketchy").rglob("sketch/tx_000000000000/*/*.png"))
    drawn = drawn[:: max(1, len(drawn) // QUERIES)][:QUERIES]
    raw = []
    for start in range(0, len(paths), batch):
        images = [np.asarray(Image.open(path).convert("RGB")) for path in paths[start : start + batch]]
        raw.append(encoder.raw([encoder.prepare(image, "photo") for image in images]))
    queries = [encoder.prepare(np.asarray(Image.open(path).convert("L")), "sketch") for path in drawn]
    first = [query._replace(pixels=query.pixels[:1]) for query in queries]
    np.save(place / "base.npy", np.concatenate(raw))
    np.save(place / "queries.npy", encoder.aligned(first))
    (place / "base.json").write_text(json.dumps([str(path) for path in paths]), encoding="utf-8")


class Nearest:
    """The true neighbours of some queries, kept while vectors pass by."""

    def __init__(self, queries: Matrix) -> None:
        self.queries = queries
        self.scores = np.full((len(queries), TOP), -np.inf, np.float32)
        self.rows = np.zeros((len(queries), TOP), np.int64)
        self.seen = 0

    def add(self, vectors: Matrix) -> None:
        """Takes the next aligned vectors."""
        numbers = np.broadcast_to(np.arange(self.seen, self.seen + len(vectors)), (len(self.queries), len(vectors)))
        scores = np.hstack([self.scores, self.queries @ vectors.T])
        rows = np.hstack([self.rows, numbers])
        best = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
        self.scores, self.rows = (np.take_along_axis(each, best, axis=1) for each in (scores, rows))
        self.seen += len(vectors)


def recall(found: Sequence[NDArray[np.int64]], right: NDArray[np.int64]) -> float:
    """The share of true neighbours, int64[Q, TOP], that are among the rows found, int64[TOP] for each query."""
    hits = sum(len({*some} & {*true}) for some, true in zip(np.stack(found).tolist(), right.tolist(), strict=True))
    return hits / right.size


def alignment_of(run: Run) -> Alignment:
    """As own photos are aligned."""
    return Alignment.load(run.embeddings / FILE_NAME).as_kind(run.params.retrieval.alignment)


def link_photos(folder: Path, originals: list[Path], count: int) -> list[str]:
    """A thousand photos in a folder, each a further name of one of the originals; their paths."""
    paths = []
    for start in range(0, count, PER_FOLDER):
        below = folder / f"{start // PER_FOLDER:05d}"
        below.mkdir(parents=True)
        for number in range(start, min(start + PER_FOLDER, count)):
            path = below / f"IMG_{number:08d}.jpg"
            path.hardlink_to(originals[number % len(originals)])
            paths.append(path.as_posix())
    return paths


def write_shards(shards: Path, paths: list[str], originals: list[Path], base: Matrix) -> None:
    """Shards of all photos as an update writes them, with vectors that are copies of real ones with noise."""
    contents = [digest_of_file(path)[:DIGITS] for path in originals]
    signatures = [signature_of(path) for path in originals]
    noise = (NOISE * base.std(axis=0)).astype(np.float32)
    random = np.random.default_rng(7)
    shards.mkdir(parents=True)
    files = Files.of((path, "") for path in paths)
    for bits, low, high in files.shards():
        some = [path for path, _ in files.named(low, high)]
        rows = np.array([int(path[-12:-4]) % len(originals) for path in some])
        vectors = base[rows] + noise * random.standard_normal((len(rows), base.shape[1]), np.float32)
        table = vector_table(some, [""] * len(some), some, vectors.astype(np.float16))
        columns = {
            "signature": pa.array([signatures[row] for row in rows]),
            "content": pa.array([contents[row] for row in rows]),
            "mark": pa.array([bytes(MARK_BYTES)] * len(rows), pa.binary(MARK_BYTES)),
            "taken": pa.array(np.zeros(len(rows), np.int64)),
        }
        for name, column in columns.items():
            table = table.append_column(name, column)
        _write_shard(shard_of(shards, bits), [table])


def million(_: Path, place: Path) -> Rows:
    """A million of one's own photos."""
    run, base, queries = Run.open(box()), np.load(place / "base.npy"), np.load(place / "queries.npy")
    sources = json.loads((place / "base.json").read_text(encoding="utf-8"))
    originals = [place / "originals" / f"{number}.jpg" for number in range(len(sources))]
    originals[0].parent.mkdir()
    for source, copy in zip(sources, originals, strict=True):
        shutil.copyfile(source, copy)
    photos, home = place / "photos", place / "index"

    def opener() -> QueryEncoder:
        return open_encoder(run, THREADS)

    def updated() -> tuple[Update, float]:
        started = time.perf_counter()
        return update(run, [photos], opener, index=home), time.perf_counter() - started

    paths = link_photos(photos, originals, MILLION)
    folder = own_folder(run, home)
    write_shards(folder / "vectors", paths, originals, base)
    write_record(folder, Record((str(photos.resolve()),), model_key(run)))
    done, seconds = updated()
    yield "million_build_seconds", seconds, "s", "", f"{done.settings}; listing a million files included"
    yield from searched("million", run, folder, queries)

    before = {path: path.stat().st_mtime_ns for path in shard_files(folder / "vectors")}
    pixels = np.asarray(Image.open(originals[0]).convert("RGB"))[:, ::-1]
    Image.fromarray(pixels).save(photos / "00000" / "new.jpg", quality=90)
    command = [sys.executable, "-m", "pipeline_lib.search", "index", str(photos), "--index", str(home)]
    started = time.perf_counter()
    said = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    seconds = time.perf_counter() - started
    if " 1 embedded" not in said:
        raise RuntimeError(f"one photo was to be embedded: {said}")
    after = {path: path.stat().st_mtime_ns for path in shard_files(folder / "vectors")}
    reopened = sum(after.get(path) != time_before for path, time_before in before.items())
    note = "1 photo embedded; the command `drawfind index`, its start and listing a million files included"
    yield "million_update_seconds", seconds, "s", "under 10", note
    yield "shards_reopened_by_one_photo", reopened, "shards", "at most 2", f"of {len(before)}"
    (photos / "00007").rename(photos / "moved")
    done, seconds = updated()
    note = f"{done.kept:,} photos moved among a million, {seconds:.0f} s"
    yield "embeddings_after_a_move", done.added, "photos", "0", note


def searched(name: str, run: Run, folder: Path, queries: Matrix) -> Rows:
    """Recall, time and memory of an index, one query after another."""
    nearest, alignment, names = Nearest(queries), alignment_of(run), []
    for path in shard_files(folder / "vectors"):
        table = EmbeddingTable.open(path)
        names += table.labels.image_ids.tolist()
        nearest.add(alignment.apply(table.read(), "photo"))
    with closing(RemoteFaiss()) as faiss:
        faiss.open(folder / "index", THREADS)
        faiss.search(queries[:5], TOP)
        taken = psutil.Process(faiss.pid).memory_info()
        memory = (taken.rss - taken.shared) / 1e6
        ids, times, hits = index_rows(folder / "index"), [], 0
        for query, right in zip(queries, nearest.rows, strict=True):
            started = time.perf_counter()
            ((rows, _),) = faiss.search(query[None], TOP)
            times.append(time.perf_counter() - started)
            hits += len({ids[row] for row in rows} & {names[row] for row in right})
    yield f"{name}_recall_at_10", hits / nearest.rows.size, "", "at least 0.95", "beside exact search of whole vectors"
    yield f"{name}_query_ms", 1e3 * float(np.median(times)), "ms", "at most 10", f"median, {THREADS} threads"
    yield (
        f"{name}_memory_mb",
        memory,
        "MB",
        "at most 600",
        "of the process that holds FAISS, without pages of mapped files",
    )


def ten_million(root: Path, place: Path) -> Rows:
    """Ten million vectors: built in one process, searched in another."""
    told: dict[str, dict[str, Any]] = {}
    for step in ("build", "search"):
        arguments = ["--step", step, "--place", str(place), "--root", str(root)]
        command = [sys.executable, "-m", "benchmarks.scale", *arguments]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True)
        told[step] = json.loads(done.stdout.splitlines()[-1])
    built, found = told["build"], told["search"]
    settings = f"{built['settings']}; beside exact search of the same numbers"
    yield "ten_million_recall_at_10", found["recall"], "", "", settings
    yield "ten_million_query_ms", found["ms"], "ms", "", f"median, {THREADS} threads, lists in the page cache"
    peak, mapped = max(built["own"], found["own"]), max(built["whole"], found["whole"])
    note = (
        f"of building; {found['own']:.0f} searching; pages of mapped files, which the system takes back, not included: "
    )
    note += f"{mapped - peak:.0f} more"
    yield "ten_million_peak_memory_mb", peak, "MB", "under 4000", note
    yield "ten_million_build_seconds", built["seconds"], "s", "", "two threads; making the vectors included"


class Peak(threading.Thread):
    """The most memory that this process takes, looked at 50 times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = 0.0  # without pages of mapped files, MB
        self.start()

    def run(self) -> None:
        """Looks until the process ends."""
        while True:
            memory = psutil.Process().memory_info()
            self.own = max(self.own, (memory.rss - memory.shared) / 1e6)
            time.sleep(0.02)

    def told(self) -> dict[str, float]:
        """Until now, MB."""
        return {"own": self.own, "whole": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def reduced(place: Path) -> tuple[Matrix, Matrix]:
    """Real photos and drawings, aligned and reduced to the `REDUCED` first principal components."""
    from pipeline_lib.index.kinds import principal_components  # noqa: PLC0415  loads FAISS

    aligned = alignment_of(Run.open(box())).apply(np.load(place / "base.npy"), "photo")
    components = principal_components(aligned, REDUCED)
    base, queries = (normalise(each @ components.T) for each in (aligned, np.load(place / "queries.npy")))
    return base, queries


def copies(base: Matrix, count: int) -> Iterator[Matrix]:
    """`count` copies of rows of `base` taken at random, with noise, L2-normalised again; the same in every call."""
    random = np.random.default_rng(7)
    noise = (NOISE * base.std(axis=0)).astype(np.float32)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        block = base[random.integers(0, len(base), size)]
        yield normalise(block + noise * random.standard_normal((size, base.shape[1]), np.float32))


def build_ten(place: Path) -> None:
    """Builds the index with its lists in a file, and finds the true neighbours."""
    from pipeline_lib.index.kinds import build_index, settings_of  # noqa: PLC0415  loads FAISS, as does the next

    import faiss  # noqa: PLC0415  isort:skip

    peak = Peak()
    base, queries = reduced(place)
    np.save(place / "reduced.npy", queries)
    started = time.perf_counter()
    index = build_index(lambda: copies(base, COUNT), COUNT, REDUCED, KIND, 0, place / LISTS_NAME)
    seconds = time.perf_counter() - started
    faiss.write_index(index, str(place / INDEX_NAME))
    told = {"settings": settings_of(index), "seconds": seconds, **peak.told()}
    nearest = Nearest(queries)
    for block in copies(base, COUNT):
        nearest.add(block)
    np.save(place / "truth.npy", nearest.rows)
    print(json.dumps(told))


def search_ten(place: Path) -> None:
    """Searches the index in its file."""
    from pipeline_lib.index.photo_index import OVER_LISTS, read  # noqa: PLC0415  loads FAISS, as does the next

    import faiss  # noqa: PLC0415  isort:skip

    peak = Peak()
    faiss.omp_set_num_threads(THREADS)
    queries, truth = np.load(place / "reduced.npy"), np.load(place / "truth.npy")
    index = read(place / INDEX_NAME, faiss.IO_FLAG_READ_ONLY)
    faiss.extract_index_ivf(index).parallel_mode = OVER_LISTS
    for _ in range(2):  # the first time from the disk
        times: list[float] = []
        found = []
        for query in queries:
            started = time.perf_counter()
            _, rows = index.search(query[None], TOP)
            times.append(time.perf_counter() - started)
            found.append(rows[0])
    print(json.dumps({"recall": recall(found, truth), "ms": 1e3 * float(np.median(times)), **peak.told()}))


def rest(_: Path, place: Path) -> Rows:
    """Bytes of vectors in a shard."""
    base, names = np.load(place / "base.npy"), [f"{row:05d}" for row in range(2000)]
    vectors = np.resize(base, (2000, base.shape[1])).astype(np.float16)
    _write_shard(
        place / "shard.parquet", [vector_table(names, names, names, vectors).append_column("signature", [names])]
    )
    with open_parquet(place / "shard.parquet") as file:
        groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    size = sum(column.total_compressed_size for column in columns if column.path_in_schema.startswith("vector"))
    yield "bytes_per_number", size / vectors.size, "bytes", "at most 2.1", "float16; one's own photos"


def real(root: Path, place: Path) -> Rows:
    """Recall among real photos, without lists and without copies: what reducing and coding lose by themselves."""
    return told_by("real", root, place)


def kinds(root: Path, place: Path) -> Rows:
    """Kinds of index side by side, and what autofaiss 2.18 takes for as many vectors."""
    return told_by("kinds", root, place)


def told_by(step: str, root: Path, place: Path) -> Rows:
    """Rows of recall that a step tells line by line, in a process of its own, since FAISS and torch share none."""
    command = [sys.executable, "-m", "benchmarks.scale", "--step", step, "--place", str(place), "--root", str(root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8") as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                told = json.loads(line)
                yield f"{told['name']}_recall_at_10", told["recall"], "", "", told["note"]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def compare_codes(place: Path) -> None:
    """Reduces and codes the real photos in several ways, and asks for each drawing's neighbours."""
    from pipeline_lib.index.kinds import build_index  # noqa: PLC0415  loads FAISS

    aligned = alignment_of(Run.open(box())).apply(np.load(place / "base.npy"), "photo")
    queries = np.load(place / "queries.npy")
    nearest = Nearest(queries)
    nearest.add(aligned)
    for name, (kind, width) in CODED.items():
        index = build_index(lambda: [aligned], len(aligned), aligned.shape[1], kind, width)
        _, rows = index.search(queries, TOP)
        note = f"{kind}, {width} numbers of {aligned.shape[1]}, {len(aligned):,} real photos, {len(queries)} drawings"
        print(
            json.dumps({"name": f"real_{name}", "recall": recall(list(rows), nearest.rows), "note": note}), flush=True
        )


def compare_kinds(place: Path) -> None:
    """Builds and searches an index of each kind on one thread; times are of the processor."""
    from pipeline_lib.index.kinds import KINDS, build_index  # noqa: PLC0415  loads FAISS, as does the next

    import faiss  # noqa: PLC0415  isort:skip

    faiss.omp_set_num_threads(1)
    base, queries = reduced(place)
    made, nearest = list(copies(base, HUNDRED_THOUSAND)), Nearest(queries)
    for block in made:
        nearest.add(block)
    for name, kind in {**{f"kind_{kind}": kind for kind in KINDS}, **AUTOFAISS}.items():
        started = time.process_time()
        index = build_index(lambda: made, HUNDRED_THOUSAND, REDUCED, kind, 0)
        seconds = time.process_time() - started
        times, found = [], []
        for query in queries:
            started = time.process_time()
            _, rows = index.search(query[None], TOP)
            times.append(time.process_time() - started)
            found.append(rows[0])
        size = len(faiss.serialize_index(index)) / HUNDRED_THOUSAND
        note = f"{kind}: {1e3 * float(np.median(times)):.2f} ms, {size:.0f} bytes a photo, built in {seconds:.0f} s"
        print(json.dumps({"name": name, "recall": recall(found, nearest.rows), "note": note}), flush=True)


PARTS: Final[dict[str, Callable[[Path, Path], Rows]]] = {
    "million": million,
    "ten_million": ten_million,
    "rest": rest,
    "real": real,
    "kinds": kinds,
}


def save(row: tuple[str, float, str, str, str]) -> None:
    """Writes a row into the table, in the place of that of the same name."""
    what, value, unit, goal, note = row
    cells = dict(zip(COLUMNS, (what, f"{value:.4g}", unit, goal, note), strict=True))
    update_table(TABLE, COLUMNS, ("what",), [cells])


def main() -> None:
    """Measures the parts that are asked for."""
    parser = argparse.ArgumentParser(description="what a million photos and ten million take")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds photos/ and sketchy/")
    parser.add_argument("--scratch", type=Path, help="where 20 GB have room (default: the system's)")
    parser.add_argument("--step", choices=["prepare", "build", "search", "real", "kinds"], help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help="a folder for it that stays, so that photos are embedded once")
    asked = parser.parse_args()
    steps: dict[str, Callable[[], None]] = {
        "prepare": lambda: prepare(asked.root, asked.place),
        "build": lambda: build_ten(asked.place),
        "search": lambda: search_ten(asked.place),
        "real": lambda: compare_codes(asked.place),
        "kinds": lambda: compare_kinds(asked.place),
    }
    if asked.step:
        steps[asked.step]()
        return
    scratch = tempfile.TemporaryDirectory(prefix="bench-scale-", dir=asked.scratch)
    with nullcontext(asked.place) if asked.place else scratch as folder:
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "base.npy").exists():
            prepare(asked.root, place)
        for part in asked.parts or PARTS:
            for row in PARTS[part](asked.root, place):
                print(*row, flush=True)
                save(row)


if __name__ == "__main__":
    main()
