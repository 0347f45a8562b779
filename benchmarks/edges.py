"""Edge maps: the work of the edges stage against bare OpenCV calls, on the same processes.

The limit does what cannot be left out (decode, shrink, blur, Canny, dilate, invert, encode photo and edge map) with no
code of this project, and writes the bytes into one plain file a process. Both sides work on the same warm process
pool, so that neither pays for its start.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2

from benchmarks.pictures import write_pictures
from benchmarks.timing import changed, compare, tell
from pipeline_lib.data.cores import usable_cores
from pipeline_lib.pretext.edges import EdgesTask, process_shard

IMAGES = 256  # distinct ones, as many as a shard holds
SHARDS_PER_CORE, TURNS = 2, 7
Task = TypeVar("Task")


def bare(paths: Sequence[Path]) -> None:
    """The default edges settings, in plain OpenCV."""
    cv2.setNumThreads(1)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    with Path(paths[0].parent, f"bare-{os.getpid()}.bin").open("wb") as stream:
        for path in paths:
            image = cv2.imread(str(path))
            if image is None:
                raise RuntimeError(f"{path} can't be read")
            height, width = image.shape[:2]
            scale = 256 / min(height, width)
            image = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
            grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (0, 0), 2.0)
            lines = cv2.bitwise_not(cv2.dilate(cv2.Canny(grey, 80.0, 160.0, L2gradient=True), pen))
            stream.write(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].data)
            stream.write(cv2.imencode(".png", lines)[1].data)


def timed(pool: ProcessPoolExecutor, work: Callable[[Task], object], tasks: Sequence[Task]) -> float:
    """Seconds that a pool takes for some tasks."""
    started = time.perf_counter()
    for _ in pool.map(work, tasks):
        pass
    return time.perf_counter() - started


def main() -> None:
    """Times the shards of the edges stage and the same images in bare OpenCV."""
    cores = usable_cores()
    with (
        tempfile.TemporaryDirectory(prefix="bench-edges-") as folder,
        ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        root = Path(folder)
        paths = write_pictures(root, IMAGES, width=500, height=375)
        settings = changed({"catalog.dataset": "folder", "catalog.root": folder})
        items = tuple((path.stem, path.name, "photo") for path in paths)
        count = cores * SHARDS_PER_CORE
        out = root / "pairs"
        out.mkdir()
        tasks = [EdgesTask(out / f"{n}.parquet", items, settings.catalog, settings.edges, root) for n in range(count)]
        images = IMAGES * count
        row = compare(
            "edges: stage / bare OpenCV",
            lambda: images / timed(pool, process_shard, tasks),
            lambda: images / timed(pool, bare, [paths] * count),
            unit="images/s",
            goal=0.8,
            turns=TURNS,
            sense="at least",
        )
    tell([row])


if __name__ == "__main__":
    main()
