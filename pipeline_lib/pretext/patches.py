"""Cuts the four patches of every layout out of photo and edge map, and writes them as raw bytes into shards.

A shard holds all draws of the images of one shard of pairs. A row group holds one draw of at most 64 images, so that an
epoch, which is one draw of all images, reads only the row groups it needs.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.images import decode_encoded
from pipeline_lib.data.randomness import generator_for
from pipeline_lib.data.schemas import open_parquet, opened_shard, parquet_writer, patches_schema, shard_paths
from pipeline_lib.data.tasks import Stats, map_shards, publish_shards, stats_or_raise
from pipeline_lib.files import digest_of, digest_of_code, digest_of_file, exclusive
from pipeline_lib.pretext.layout import draw_boxes

ROW_GROUP = 64
SAMPLE = 8  # photos to choose a shard's compression by
WORTHWHILE = 0.9  # patches are stored uncompressed where compression leaves a larger fraction than this


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
    rows, size = 0, task.patches.size
    # Reused by every draw: allocating it costs more than copying into it.
    room = np.empty((ROW_GROUP, 4, size, size, 3), np.uint8), np.empty((ROW_GROUP, 4, size, size), np.uint8)
    pairs = open_parquet(task.pairs, memory_map=True)
    with parquet_writer(task.path, patches_schema(size), **_options(pairs, size)) as writer:
        for block in pairs.iter_batches(ROW_GROUP):
            photos = [decode_encoded(value.as_buffer()) for value in block["photo"]]
            edges = [decode_encoded(value.as_buffer(), grey=True) for value in block["edges"]]
            for draw in range(task.patches.draws):
                writer.write_table(_one_draw(block["image_id"], photos, edges, draw, task.patches, room))
                rows += len(photos)
    return {"rows": rows}


def _options(pairs: pq.ParquetFile, size: int) -> dict[str, Any]:
    """How patches are written; photos that hardly compress are not compressed, which is faster to write and read."""
    compression = dict.fromkeys(patches_schema(size).names, "lz4")
    for block in islice(pairs.iter_batches(SAMPLE, columns=["photo"]), 1):
        sample = np.concatenate([decode_encoded(value.as_buffer()).ravel() for value in block["photo"]])
        if len(pa.compress(sample, codec="lz4_raw", asbytes=True)) > WORTHWHILE * len(sample):
            compression["photo_patches"] = "none"
    # Dictionaries and statistics are useless here: no two patches are equal, and none is searched by its bytes.
    return {"compression": compression, "use_dictionary": False, "write_statistics": False}


def _one_draw(
    names: pa.Array,
    photos: list[NDArray[np.uint8]],
    edges: list[NDArray[np.uint8]],
    draw: int,
    settings: params.Patches,
    room: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> pa.Table:
    """One draw of a block of images: the rows of one row group, as views into `room`."""
    count = len(names)
    boxes = np.empty((count, 4, 4), np.int16)
    for row, (name, photo, lines) in enumerate(zip(names.to_pylist(), photos, edges, strict=True)):
        height, width = lines.shape
        boxes[row] = draw_boxes(width, height, settings, generator_for(settings.seed, name, draw))
        for region, (x0, y0, x1, y1) in enumerate(boxes[row].tolist()):
            room[0][row, region], room[1][row, region] = photo[y0:y1, x0:x1], lines[y0:y1, x0:x1]
    columns = [
        names,
        pa.array(np.full(count, draw, np.int16)),
        pa.FixedSizeListArray.from_arrays(pa.array(boxes.ravel()), 16),
        *(_as_binary(tensor[:count]) for tensor in room),
    ]
    return pa.table(columns, schema=patches_schema(settings.size))


def _as_binary(tensor: NDArray[np.uint8]) -> pa.Array:
    """A `binary` column over the rows of a contiguous tensor, without copying it."""
    count, width = len(tensor), tensor[0].size
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(tensor)])


def make_patches(pairs: Path, settings: params.Patches, out: Path, scratch: Path, workers: int, ray: str = "") -> Stats:
    """Cuts every draw of every pair into shards of patches.

    `out` gets the shards whole or not at all; unfinished work is kept in `scratch`. `workers` and `ray` as in
    `map_shards`.

    Returns:
        Counts: rows (layouts), images.

    Raises:
        PipelineError: a shard of pairs is truncated or missing, or shards failed.
    """
    sources = shard_paths(pairs)
    key = digest_of(
        params.fingerprint(settings),
        [digest_of_file(path) for path in sources],
        digest_of_code("data", "pretext/layout.py", "pretext/patches.py"),
    )
    folder = scratch / f"patches-{key[:16]}"
    tasks = []
    for path in sources:
        with opened_shard(path) as shard:
            tasks.append(PatchesTask(folder / path.name, path, shard.metadata.num_rows, settings))
    with exclusive(folder):
        outcomes = map_shards(process_shard, tasks, workers=workers, description="patches", unit="layout", ray=ray)
        stats = stats_or_raise(outcomes)
        publish_shards(tasks, out)
    return {"rows": sum(shard["rows"] for shard in stats), "images": sum(task.images for task in tasks)}
