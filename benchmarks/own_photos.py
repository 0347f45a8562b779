"""What a person with photos meets, with the model in the box: `python -m benchmarks.own_photos PART ... --root /data`.

Every figure comes from the commands that such a person runs, `drawfind index` and `drawfind search`, in processes of
their own. Rows go to metrics/own_photos.csv; a part that is measured replaces its rows and leaves the others. Parts:

- install: the light install into a fresh environment (from the package index that pip is set to)
- photos: 1,000 phone photos of 12 MP, indexed and searched for the first time; memory; what 20,000 would take
- small: the same for photos of 256 px
- latency: searches among 20,000 photos (vectors of the photos at hand, each several times with a little noise)
- sketchy: hits among five on the shared part of Sketchy, `--root` holds sketchy/256x256
- corner: the same with every drawing at half its size in a corner of the page
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from benchmarks.timing import spent, update_table
from pipeline_lib.data.cores import usable_cores
from pipeline_lib.embedding.vectors import EmbeddingTable, vector_table, vector_writer
from pipeline_lib.index.facts import BuildJob
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.intervals import Interval, bootstrap_mean
from pipeline_lib.run import Run, processor
from pipeline_lib.search.command import box
from pipeline_lib.search.engine import open_encoder

ROOT: Final = Path(__file__).resolve().parents[1]
TABLE: Final = ROOT / "metrics" / "own_photos.csv"
COLUMNS: Final = ("what", "value", "unit", "goal", "processor")
TX: Final = "256x256/{side}/tx_000000000000"
PHONE: Final = (4032, 3024)
"""px of a phone photo."""
MANY: Final = 20_000
RESAMPLES, SEED = 2000, 0
"""Of the intervals; drawings of one photo are drawn together."""
Rows = Iterator[tuple[str, float, str, str]]
"""what, value, unit, goal."""


def drawfind(*arguments: object, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command with its data below `home`."""
    command = [sys.executable, "-m", "pipeline_lib.search", *map(str, arguments)]
    environment = {**os.environ, "XDG_DATA_HOME": str(home)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    # A drawing that is told to be blank gives exit status 1 beside what the others have found: it counts as a miss.
    if done.returncode and not done.stdout.startswith("["):
        done.check_returncode()
    return done


def install(_: Path, scratch: Path) -> Rows:
    """Megabytes of a fresh environment, without Python itself."""
    place = scratch / "environment"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    before = megabytes(place)
    subprocess.run([place / "bin" / "python", "-m", "pip", "install", "--quiet", ROOT], check=True)
    yield "install_mb", megabytes(place) - before, "MB", "at most 600"


def megabytes(folder: Path) -> float:
    """What the files below a folder take."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def phone_photos(root: Path, scratch: Path, count: int, distinct: int = 100) -> Path:
    """A folder of JPEGs of 12 MP, every second one rotated by EXIF, of real pictures enlarged, with noise."""
    folder = scratch / "phone"
    folder.mkdir()
    sources = sorted((root / "photos").glob("*.jpg"))[:distinct]
    random = np.random.default_rng(0)
    noise = random.normal(0, 4, (PHONE[1], PHONE[0], 3)).astype(np.int8)
    for number, source in enumerate(sources):
        with Image.open(source) as small:
            large = np.asarray(small.convert("RGB").resize(PHONE, Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(large + np.roll(noise, number * 17, axis=1), 0, 255).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 2 else 1
        Image.fromarray(pixels).save(folder / f"{number:05d}.jpg", quality=90, exif=exif)
    for number in range(len(sources), count):
        (folder / f"{number:05d}.jpg").hardlink_to(folder / f"{number % len(sources):05d}.jpg")
    return folder


def photos(root: Path, scratch: Path) -> Rows:
    """Phone photos, from nothing to the first hit."""
    folder, count = phone_photos(root, scratch, 1000), 1000
    drawing = next((root / "sketchy" / TX.format(side="sketch")).rglob("*.png"))
    home, started, before = scratch / "home", time.perf_counter(), spent()
    drawfind("index", folder, home=home)
    indexed, used = time.perf_counter() - started, spent() - before
    drawfind("search", drawing, "--json", home=home)
    yield "first_hit_seconds_1000_photos", time.perf_counter() - started, "s", "at most 300"
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    yield "memory_mb", peak, "MB", "at most 800"
    yield "phone_photos_per_second", count / indexed, "photos/s", ""
    yield "phone_photo_processor_seconds", used / count, "s", ""
    yield "index_minutes_20000_phone_photos", indexed * MANY / count / 60, "min", "at most 15"
    before, started = spent(), time.perf_counter()
    drawfind("index", folder, home=home)
    yield "nothing_new_seconds_1000_photos", time.perf_counter() - started, "s", ""
    yield "nothing_new_processor_seconds_1000_photos", spent() - before, "s", "at most 1"


def small(root: Path, scratch: Path) -> Rows:
    """Photos of 256 px."""
    folder = scratch / "small"
    folder.mkdir()
    for source in sorted((root / "photos").glob("*.jpg"))[:1000]:
        (folder / source.name).symlink_to(source)
    started, before = time.perf_counter(), spent()
    drawfind("index", folder, home=scratch / "home")
    count, seconds = len(list(folder.iterdir())), time.perf_counter() - started
    yield "small_photos_per_second", count / seconds, "photos/s", ""
    yield "small_photo_processor_seconds", (spent() - before) / count, "s", ""


def latency(root: Path, scratch: Path) -> Rows:
    """Searches among many photos, by a drawing that is full size and by one that is small, one after another."""
    home, run = scratch / "home", Run.open(box())
    pictures = root / "sketchy" / TX.format(side="photo")
    drawfind("index", pictures, "--index", scratch / "index", home=home)
    tables = [EmbeddingTable.open(path) for path in sorted((scratch / "index").rglob("vectors/*.parquet"))]
    vectors = np.concatenate([table.read() for table in tables])
    random = np.random.default_rng(0)
    rows = random.integers(0, len(vectors), MANY)
    noisy = vectors[rows] + random.normal(0, 0.05 * vectors.std(), (MANY, vectors.shape[1])).astype(np.float32)
    names = [str(number) for number in range(MANY)]
    with vector_writer(scratch / "many.parquet", vectors.shape[1]) as writer:
        writer.write_table(vector_table(names, names, names, noisy))
    drawn = sorted((root / "sketchy" / TX.format(side="sketch")).rglob("*.png"))[::50]
    with closing(RemoteFaiss()) as faiss:
        settings = run.params.index
        alignment = run.embeddings / "alignment.safetensors"
        kind = run.params.retrieval.alignment
        job = BuildJob(
            (scratch / "many.parquet",), alignment, kind, settings.kind, settings.dimension, scratch / "many"
        )
        faiss.build(job)
        threads = usable_cores()
        faiss.open(scratch / "many", threads)
        encoder = open_encoder(run, threads)
        pages = [np.asarray(Image.open(path).convert("L")) for path in drawn]
        for name, drawings in (
            ("query_ms_20000_photos", pages),
            ("small_drawing_query_ms_20000_photos", halves(pages)),
        ):
            times = []
            for drawing in drawings:
                started = time.perf_counter()
                faiss.search(encoder.aligned([encoder.prepare(drawing, "sketch")]), 24)
                times.append(time.perf_counter() - started)
            yield name, 1e3 * float(np.median(times[1:])), "ms", "at most 100" if name.startswith("query") else ""


def halves(pages: list[np.ndarray]) -> list[np.ndarray]:
    """Each page at half its size, in one corner after another of an empty page of the old size."""
    found = []
    for number, page in enumerate(pages):
        side = page.shape[0] // 2
        shrunk = np.asarray(Image.fromarray(page).resize((side, side), Image.Resampling.LANCZOS))
        empty = np.full_like(page, 255)
        y, x = ((0, 0), (0, side), (side, 0), (side, side))[number % 4]
        empty[y : y + side, x : x + side] = shrunk
        found.append(empty)
    return found


def sketchy(root: Path, scratch: Path) -> Rows:
    """Hits among five, every drawing as it is."""
    goals = ("at least 31", "at least 58")
    yield from told("", hits(root, scratch, lambda pages: pages), goals)


def corner(root: Path, scratch: Path) -> Rows:
    """Hits among five, every drawing at half its size in a corner."""
    yield from told("_half_size_corner", hits(root, scratch, halves), ("5 points below full size", ""))


def told(suffix: str, found: list[Interval], goals: tuple[str, str]) -> Rows:
    """Rows of the instance hits and of the class hits, each followed by the ends of its 95 % interval."""
    for name, interval, goal in zip(("instance", "class"), found, goals, strict=True):
        what = f"sketchy_{name}_hit_at_5{suffix}"
        yield what, interval.estimate, "%", goal
        yield f"{what}_low", interval.low, "%", ""
        yield f"{what}_high", interval.high, "%", ""


def hits(root: Path, scratch: Path, change: Callable[[list[np.ndarray]], list[np.ndarray]]) -> list[Interval]:
    """Instance and class hit@5, %, of all drawings, changed, among all photos, through the command line."""
    photos_folder = root / "sketchy" / TX.format(side="photo")
    drawings = sorted((root / "sketchy" / TX.format(side="sketch")).rglob("*.png"))
    home, place = scratch / "home", scratch / "drawings"
    drawfind("index", photos_folder, home=home)
    pages = change([np.asarray(Image.open(path).convert("L")) for path in drawings])
    for path, page in zip(drawings, pages, strict=True):
        target = place / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(page).save(target)
    found: dict[str, list[str]] = {}
    targets = sorted(place.rglob("*.png"))
    for start in range(0, len(targets), 500):
        told = drawfind("search", *targets[start : start + 500], "--drawing", "--json", "--top", 5, home=home)
        found |= {entry["query"]: [hit["path"] for hit in entry["found"]] for entry in json.loads(told.stdout)}
    right = np.zeros((len(targets), 2))  # a drawing that was refused counts as a miss
    photos = [target.stem.rpartition("-")[0] for target in targets]
    for row, (target, photo) in enumerate(zip(targets, photos, strict=True)):
        hits_of = [Path(hit) for hit in found.get(str(target), ())]
        right[row, 0] = any(hit.stem == photo for hit in hits_of)
        right[row, 1] = any(hit.parent.name == target.parent.name for hit in hits_of)
    return bootstrap_mean(100 * right, np.array(photos), RESAMPLES, SEED)


PARTS: Final = {
    "install": install,
    "photos": photos,
    "small": small,
    "latency": latency,
    "sketchy": sketchy,
    "corner": corner,
}


def save(rows: list[tuple[str, float, str, str]]) -> None:
    """Writes rows into the table, in the place of those of the same name."""
    cells = [
        dict(zip(COLUMNS, (what, f"{value:.5g}", unit, goal, processor()), strict=True))
        for what, value, unit, goal in rows
    ]
    update_table(TABLE, COLUMNS, ("what",), cells)


def main() -> None:
    """Measures the parts that are asked for."""
    parser = argparse.ArgumentParser(description="what a person with photos meets, with the model in the box")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds photos/ and sketchy/")
    asked = parser.parse_args()
    for part in asked.parts or PARTS:
        with tempfile.TemporaryDirectory() as scratch:
            for row in PARTS[part](asked.root, Path(scratch)):
                print(*row)
                save([row])


if __name__ == "__main__":
    main()
