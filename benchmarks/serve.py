"""The page's server under load, and the latency of one query -> metrics/serve.csv.

    drawfind index FOLDER && python -m benchmarks.serve

Each row is measured over HTTP, from a process other than the server's. `latency` sends one query after another;
`load` sends 50 a second for a minute, on schedule whether or not earlier ones are answered, and watches the resident
memory of the server and of the process that holds FAISS; `beside` does so while as many other processes compute as
there are cores. Times are of queries that were admitted; `refused` counts others, which got 503. Thumbnails are not
part of it. What a query takes in an index of a million photos is measured by `benchmarks.scale`.
`--run data --gallery pipeline` measures the default run, by torch.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
from PIL import Image

from benchmarks.run import ROOT
from pipeline_lib.data.cores import usable_cores
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.run import Run, processor
from pipeline_lib.search.command import box

RATE, SECONDS = 50, 60
CORES = usable_cores()
ONE_BY_ONE = 200
COMPUTE = "while True: sum(number * number for number in range(100_000))"
SEND = "import sys, json; from benchmarks.serve import send; print(json.dumps(send(*json.loads(sys.argv[1]))))"
COLUMNS = [
    "what", "photos", "index", "requests", "refused", "errors", "per_second", "median_ms", "p95_ms", "p99_ms",
    "largest_ms",
    "memory_first_mb", "memory_last_mb", "memory_most_mb", "load_average", "cores", "processor",
]  # fmt: skip


def drawings(run: Run, count: int) -> list[bytes]:
    """PNGs of the catalog's first drawings."""
    catalog = read_catalog(run.catalog)
    source = open_source(run.params.catalog, run.root)
    rows = catalog[catalog["role"] == "query"].head(count)
    bodies = []
    for image_id, path in zip(rows["image_id"], rows["path"], strict=True):
        buffer = io.BytesIO()
        Image.fromarray(source.load(path, "sketch", image_id)).save(buffer, "PNG")
        bodies.append(buffer.getvalue())
    return bodies


def send(address: str, folder: str, rate: float, count: int) -> dict[str, Any]:
    """Sends queries; `rate` a second, or one after another where it is 0. Runs in a process of its own."""
    bodies = [path.read_bytes() for path in sorted(Path(folder).glob("*.png"))]
    seconds: list[float] = []
    statuses: list[int] = []

    async def one(client: httpx.AsyncClient, number: int) -> None:
        started = time.perf_counter()
        try:
            answer = await client.post(f"{address}/api/search/image?top=24", content=bodies[number % len(bodies)])
            status = answer.status_code
        except httpx.HTTPError:
            status = 0
        if status == 200:
            seconds.append(time.perf_counter() - started)
        statuses.append(status)

    async def everything() -> float:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        async with httpx.AsyncClient(timeout=30, limits=limits) as client:
            started = time.perf_counter()
            if not rate:
                for number in range(count):
                    await one(client, number)
            else:
                tasks = []
                for number in range(count):
                    await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
                    tasks.append(asyncio.create_task(one(client, number)))
                await asyncio.gather(*tasks)
            return time.perf_counter() - started

    took = asyncio.run(everything())
    refused = statuses.count(503)
    return {"seconds": seconds, "refused": refused, "errors": count - len(seconds) - refused, "took": took}


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many other processes that compute."""
    others = [subprocess.Popen([sys.executable, "-c", COMPUTE]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextmanager
def server(run: Run, gallery: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server in a process of its own: its address and process."""
    command = [sys.executable, "-m", "pipeline_lib.search", "serve", "--port", "0", "--gallery", gallery]
    command += ["--run", str(run.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        said = process.stdout.readline()
        if "http://" not in said:
            raise RuntimeError(f"the server did not start: {said}")
        try:
            yield "http://" + said.split("http://")[1].split("/")[0], psutil.Process(process.pid)
        finally:
            process.terminate()


def memory(process: psutil.Process) -> float:
    """Resident memory of a process and its children, MB."""
    return float(sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 1e6)


def measure(address: str, process: psutil.Process, folder: Path, rate: float, count: int) -> dict[str, Any]:
    """The figures of one row."""
    arguments = json.dumps([address, str(folder), rate, count])
    watched = []
    with subprocess.Popen(
        [sys.executable, "-c", SEND, arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as sender:
        while sender.poll() is None:
            watched.append(memory(process))
            time.sleep(1)
        assert sender.stdout is not None  # noqa: S101  it is a pipe
        told = json.loads(sender.stdout.read())
    seconds = sorted(told["seconds"])
    sixth = max(1, len(watched) // 6)
    return {
        "requests": count,
        "refused": told["refused"],
        "errors": told["errors"],
        "per_second": round(count / told["took"], 1),
        "median_ms": round(1e3 * statistics.median(seconds), 1),
        "p95_ms": round(1e3 * float(np.quantile(seconds, 0.95)), 1),
        "p99_ms": round(1e3 * float(np.quantile(seconds, 0.99)), 1),
        "largest_ms": round(1e3 * seconds[-1], 1),
        # The second sixth, when everything has been touched once, and the last.
        "memory_first_mb": round(statistics.mean(watched[sixth : 2 * sixth] or watched)),
        "memory_last_mb": round(statistics.mean(watched[-sixth:])),
        "memory_most_mb": round(max(watched)),
        "load_average": round(os.getloadavg()[0], 1),
        "cores": CORES,
        "processor": processor(),
    }


def rows(run: Run, folder: Path, gallery: str) -> Iterator[dict[str, Any]]:
    """Latency and load of one gallery."""
    with server(run, gallery) as (address, process):
        model = httpx.get(f"{address}/api/model", timeout=30).json()
        time.sleep(15)  # the thumbnails of a small gallery are made ahead
        facts = {"photos": model["photos"], "index": model["index"]}
        loads = (
            ("latency", 0, ONE_BY_ONE, 0),
            ("load", RATE, RATE * SECONDS, 0),
            ("beside", RATE, RATE * SECONDS, CORES),
        )
        for what, rate, count, busy in loads:
            with neighbours(busy):
                row = {"what": what, **facts, **measure(address, process, folder, rate, count)}
            print(row, file=sys.stderr)
            yield row


def main() -> None:
    """Measures all rows and writes them."""
    parser = argparse.ArgumentParser(description="latency and load of the page's server")
    parser.add_argument("--run", type=Path, default=box(), help="folder of a finished run (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics" / "serve.csv")
    parser.add_argument("--gallery", default="own", choices=["pipeline", "own"], help="of that run")
    parser.add_argument("--drawings", type=Path, default=ROOT / "data", help="the run whose catalog holds the drawings")
    asked = parser.parse_args()
    run = Run.open(asked.run)
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as place:
        folder = Path(place)
        for number, body in enumerate(drawings(Run.open(asked.drawings), 100)):
            (folder / f"{number:03d}.png").write_bytes(body)
        found = list(rows(run, folder, asked.gallery))
    with asked.out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
