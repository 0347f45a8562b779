"""Patches: the work of the patches stage against bare decoding, slicing and writing, on the same processes.

The limit has the images' bytes and the boxes ready in memory; it decodes each image once with OpenCV, slices all draws
with numpy and writes the raw bytes to a plain file. Both sides work on the same warm process pool.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.edges import timed
from benchmarks.pictures import picture
from benchmarks.timing import changed, compare, tell
from pipeline_lib.data.cores import usable_cores
from pipeline_lib.data.images import encode_jpeg, encode_png, resize_short_side
from pipeline_lib.data.schemas import PAIRS, read_parquet, write_rows
from pipeline_lib.pretext.edges import ROW_GROUP, edge_map
from pipeline_lib.pretext.patches import PatchesTask, process_shard

IMAGES = 128  # a shard
SHARDS_PER_CORE, TURNS = 2, 7


@cache
def _loaded(path: Path) -> Any:
    """Photos and edge maps as bytes, and the corners (x, y) of the patches of every draw; kept in each process."""
    pairs, corners = read_parquet(path).to_pylist(), np.load(path.with_suffix(".npy")).tolist()
    return [(pair["photo"], pair["edges"], draws) for pair, draws in zip(pairs, corners, strict=True)]


def bare(task: tuple[Path, int]) -> None:
    """Decodes, slices and writes all draws of a shard's images."""
    path, size = task
    cv2.setNumThreads(1)
    with path.with_name(f"bare-{os.getpid()}.bin").open("wb") as stream:
        for photo_bytes, edge_bytes, draws in _loaded(path):
            photo = cv2.imdecode(np.frombuffer(photo_bytes, np.uint8), cv2.IMREAD_COLOR)
            lines = cv2.imdecode(np.frombuffer(edge_bytes, np.uint8), cv2.IMREAD_GRAYSCALE)
            if photo is None or lines is None:
                raise RuntimeError(f"{path} holds no images")
            for corners in draws:
                for x, y in corners:
                    stream.write(np.ascontiguousarray(photo[y : y + size, x : x + size]).data)
                    stream.write(np.ascontiguousarray(lines[y : y + size, x : x + size]).data)


def main() -> None:
    """Times the shards of the patches stage and the same layouts done bare."""
    settings = changed({})
    size, draws = settings.patches.size, settings.patches.draws
    cores = usable_cores()
    count = cores * SHARDS_PER_CORE
    layouts = count * IMAGES * draws
    with (
        tempfile.TemporaryDirectory(prefix="bench-patches-") as folder,
        ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        pairs = Path(folder, "pairs.parquet")
        rng = np.random.default_rng(0)
        rows, corners = [], []
        for seed in range(IMAGES):
            image = resize_short_side(picture(seed, 500, 375), settings.edges.short_side)
            photo = encode_jpeg(image, settings.edges.jpeg_quality)
            lines = encode_png(edge_map(image, settings.edges))
            rows.append({"image_id": f"image/{seed:05d}", "photo": photo, "edges": lines})
            height, width = image.shape[:2]
            corners.append(rng.integers(0, (width - size, height - size), (draws, 4, 2)))
        write_rows(pairs, rows, PAIRS, row_group=ROW_GROUP)
        np.save(pairs.with_suffix(".npy"), np.stack(corners))
        tasks = [PatchesTask(Path(folder, f"{n}.parquet"), pairs, IMAGES, settings.patches) for n in range(count)]
        row = compare(
            "patches: stage / bare OpenCV and numpy",
            lambda: layouts / timed(pool, process_shard, tasks),
            lambda: layouts / timed(pool, bare, [(pairs, size)] * count),
            unit="layouts/s",
            goal=0.8,
            turns=TURNS,
            sense="at least",
        )
    tell([row])


if __name__ == "__main__":
    main()
