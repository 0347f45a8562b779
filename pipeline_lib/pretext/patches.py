"""Cuts the four patches of every layout out of photo and edge map, and writes them as raw bytes into shards.

A shard holds all draws of the images of one shard of pairs. Each of its row groups holds one draw of at most 64 images,
so that an epoch, which is one draw of all images, reads only its own row groups.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.files import digest_of, digest_of_code, digest_of_file, publish_folder, replacing
from pipeline_lib.data.images import decode_encoded
from pipeline_lib.data.randomness import generator_for
from pipeline_lib.data.schemas import patches_schema, shard_paths
from pipeline_lib.data.tasks import Stats, map_shards, stats_or_raise, stats_path
from pipeline_lib.errors import PipelineError
from pipeline_lib.pretext.layout import draw_boxes

ROW_GROUP = 64
SAMPLE = 8  # photos by which a shard's compression is chosen
WORTHWHILE = 0.9  # compressed to a larger part than this, patches are better stored as they are


def cut(image: NDArray[np.uint8], boxes: NDArray[np.int16], out: NDArray[np.uint8]) -> None:
    """Copies four patches of an image.

    Args:
        image: uint8[H, W, 3] or uint8[H, W].
        boxes: int16[4, 4] as `layout.draw_boxes` gives them.
        out: uint8[4, size, size, 3] or uint8[4, size, size]; filled.
    """
    for region, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        out[region] = image[y0:y1, x0:x1]


@dataclass(frozen=True)
class PatchesTask:
    """One shard of patches: all draws of one shard of pairs."""

    path: Path
    pairs: Path
    images: int
    patches: params.Patches

    @property
    def rows(self) -> int:
        """Number of layouts."""
        return self.images * self.patches.draws


def process_shard(task: PatchesTask) -> Stats:
    """Cuts all draws of a shard of pairs, block by block, and writes one shard of patches."""
    cv2.setNumThreads(1)  # the shards already keep every core busy
    seconds = {"read": 0.0, "compute": 0.0, "write": 0.0}
    rows, room = 0, _Room.of(ROW_GROUP, task.patches.size)
    pairs = pq.ParquetFile(task.pairs, memory_map=True)
    with replacing(task.path) as aside, _writer(aside, pairs, task.patches.size) as writer:
        marks = [time.perf_counter()]
        for block in pairs.iter_batches(ROW_GROUP):
            photos = [decode_encoded(value.as_buffer()) for value in block["photo"]]
            edges = [decode_encoded(value.as_buffer(), grey=True) for value in block["edges"]]
            marks.append(time.perf_counter())
            seconds["read"] += marks[-1] - marks[-2]
            for draw in range(task.patches.draws):
                group = _one_draw(block["image_id"], photos, edges, draw, task.patches, room)
                marks.append(time.perf_counter())
                writer.write_table(group)
                rows += group.num_rows
                marks.append(time.perf_counter())
                seconds["compute"] += marks[-2] - marks[-3]
                seconds["write"] += marks[-1] - marks[-2]
            marks = marks[-1:]
    return {"rows": rows, "seconds": seconds}


def _writer(path: Path, pairs: pq.ParquetFile, size: int) -> pq.ParquetWriter:
    """A writer of patches; photos that hardly shorten are stored as they are, quicker to write and to read."""
    compression = dict.fromkeys(patches_schema(size).names, "lz4")
    for block in islice(pairs.iter_batches(SAMPLE, columns=["photo"]), 1):
        sample = np.concatenate([decode_encoded(value.as_buffer()).ravel() for value in block["photo"]])
        if len(pa.compress(sample, codec="lz4_raw", asbytes=True)) > WORTHWHILE * len(sample):
            compression["photo_patches"] = "none"
    # No two patches are alike, and none is looked for by its bytes.
    return pq.ParquetWriter(
        path, patches_schema(size), compression=compression, use_dictionary=False, write_statistics=False
    )


class _Room(NamedTuple):
    """Memory for the patches of a row group, filled anew by every draw: fresh memory costs more than the copying."""

    photos: NDArray[np.uint8]  # uint8[N, 4, size, size, 3]
    edges: NDArray[np.uint8]  # uint8[N, 4, size, size]

    @classmethod
    def of(cls, rows: int, size: int) -> _Room:
        return cls(np.empty((rows, 4, size, size, 3), np.uint8), np.empty((rows, 4, size, size), np.uint8))


def _one_draw(
    names: pa.Array,
    photos: list[NDArray[np.uint8]],
    edges: list[NDArray[np.uint8]],
    draw: int,
    settings: params.Patches,
    room: _Room,
) -> pa.Table:
    """One draw of a block of images: the rows of one row group, as views into `room`."""
    count = len(names)
    boxes = np.empty((count, 4, 4), np.int16)
    for row, (name, photo, lines) in enumerate(zip(names.to_pylist(), photos, edges, strict=True)):
        height, width = lines.shape
        boxes[row] = draw_boxes(width, height, settings, generator_for(settings.seed, name, draw))
        cut(photo, boxes[row], room.photos[row])
        cut(lines, boxes[row], room.edges[row])
    columns = [
        names,
        pa.array(np.full(count, draw, np.int16)),
        pa.FixedSizeListArray.from_arrays(pa.array(boxes.ravel()), 16),
        _as_binary(room.photos[:count]),
        _as_binary(room.edges[:count]),
    ]
    return pa.table(columns, schema=patches_schema(settings.size))


def _as_binary(tensor: NDArray[np.uint8]) -> pa.Array:
    """A `binary` column over the rows of a contiguous tensor, without copying it."""
    count, width = len(tensor), tensor[0].size
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(tensor)])


def make_patches(pairs: Path, settings: params.Patches, out: Path, scratch: Path) -> Stats:
    """Cuts every draw of every pair into shards of patches.

    Args:
        pairs: folder of pair shards.
        settings: section `patches`.
        out: the folder that gets the shards, whole or not at all.
        scratch: folder for unfinished work.

    Returns:
        Counts: rows (layouts), images, seconds by step.

    Raises:
        PipelineError: a shard of pairs is cut or missing, or shards failed.
    """
    sources = shard_paths(pairs)
    key = digest_of(
        settings.model_dump(exclude={"workers"}),
        [digest_of_file(path) for path in sources],
        digest_of_code("data", "pretext/layout.py", "pretext/patches.py"),
    )
    folder = scratch / f"patches-{key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for path in sources:
        try:
            count = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowException) as failure:
            raise PipelineError(f"{path}: is cut or damaged ({failure}); delete it and run `dvc repro`") from failure
        tasks.append(PatchesTask(folder / path.name, path, count, settings))
    outcomes = map_shards(process_shard, tasks, workers=settings.workers, description="patches", unit="layout")
    stats = stats_or_raise(outcomes)
    publish_folder(folder, out)
    for task in tasks:
        stats_path(out / task.path.name).unlink()
    return {
        "rows": sum(shard["rows"] for shard in stats),
        "images": sum(task.images for task in tasks),
        "seconds": {name: sum(shard["seconds"][name] for shard in stats) for name in ("read", "compute", "write")},
    }
