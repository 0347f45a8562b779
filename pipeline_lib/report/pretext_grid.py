"""Examples of the pretext task: photos, their edge maps, and the patches that one draw took from the four regions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.data.images import BadImage, decode_encoded
from pipeline_lib.data.schemas import open_parquet, read_parquet, shard_paths
from pipeline_lib.errors import PipelineError
from pipeline_lib.report.canvas import FRAME, GAP, MARGIN, WIDTH, Canvas, Pixels, note

REGIONS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Colours of the regions, row by row; they stay apart for colour-blind eyes (Okabe and Ito 2008)."""

HEAD = 48
BLOCKS = ("photo", "its four patches", "edge map", "its four patches")


@dataclass(frozen=True)
class Example:
    """One draw of one image."""

    photo: Pixels  # uint8[H, W, 3]
    edges: Pixels  # uint8[H, W]
    boxes: NDArray[np.int16]  # int16[4, 4], x0, y0, x1, y1 of each region's patch, px
    photo_patches: Pixels  # uint8[4, S, S, 3]
    edge_patches: Pixels  # uint8[4, S, S]


def read_examples(pairs: Path, patches: Path, count: int, seed: int) -> list[Example]:
    """Draws examples of at most `count` images at random from the folders of pair shards and of patch shards.

    Raises:
        PipelineError: a shard is missing, cut or does not fit the others.
    """
    rng = np.random.default_rng(seed)
    pair_shards, patch_shards = shard_paths(pairs), shard_paths(patches)
    try:
        where = {
            name: (path, row)
            for path in pair_shards
            for row, name in enumerate(read_parquet(path, ["image_id"])["image_id"].to_pylist())
        }
        groups = [(path, g) for path in patch_shards for g in range(open_parquet(path).num_row_groups)]
        examples: dict[str, Example] = {}
        # A row group holds one draw of some images: a few of them are enough, however large the data set.
        for chosen in rng.permutation(len(groups)):
            path, group = groups[chosen]
            layouts = open_parquet(path).read_row_group(group)
            layout = layouts.slice(int(rng.integers(layouts.num_rows)), 1).to_pylist()[0]
            name = layout["image_id"]
            if name not in examples:
                shard, row = where[name]
                pair = read_parquet(shard, memory_map=True).slice(row, 1).to_pylist()[0]
                examples[name] = _example(pair, layout)
            if len(examples) == count:
                break
    except (OSError, pa.ArrowException, BadImage, ValueError, KeyError) as failure:
        raise PipelineError(f"{pairs} and {patches} don't fit together ({failure}); run `dvc repro` again") from failure
    return list(examples.values())


def _example(pair: dict[str, Any], layout: dict[str, Any]) -> Example:
    boxes = np.array(layout["boxes"], np.int16).reshape(4, 4)
    size = int(boxes[0, 2] - boxes[0, 0])
    return Example(
        decode_encoded(pair["photo"]),
        decode_encoded(pair["edges"], grey=True),
        boxes,
        np.frombuffer(layout["photo_patches"], np.uint8).reshape(4, size, size, 3),
        np.frombuffer(layout["edge_patches"], np.uint8).reshape(4, size, size),
    )


def pretext_grid(examples: Sequence[Example]) -> Pixels:
    """Draws a row for each example: photo, its four patches, edge map, its four patches, in one colour per region.

    Returns:
        uint8[H, WIDTH, 3], RGB; without any example, a note that says so.
    """
    if not examples:
        return note("No pretext images, so no patches to show.")
    pitch = (WIDTH - 2 * MARGIN + 3 * GAP) // len(BLOCKS)
    side = pitch - 3 * GAP
    canvas = Canvas(WIDTH, HEAD + len(examples) * pitch + MARGIN - 2 * GAP)
    for column, words in enumerate(BLOCKS):
        canvas.text(words, MARGIN + column * pitch, 14, size=17)
    for number, example in enumerate(examples):
        y = HEAD + number * pitch
        sources = ((example.photo, example.photo_patches), (example.edges, example.edge_patches))
        for half, (image, patches) in enumerate(sources):
            x = MARGIN + 2 * half * pitch
            _whole(canvas, image, example.boxes, (x, y), side)
            _four(canvas, patches, (x + pitch, y), side)
    return canvas.pixels()


def _whole(canvas: Canvas, image: Pixels, boxes: NDArray[np.int16], at: tuple[int, int], side: int) -> None:
    """An image with the places of its patches."""
    x, y = at
    canvas.tile(image, x, y, side)
    height, width = image.shape[:2]
    scale = side / max(height, width)
    left, top = x + (side - width * scale) / 2, y + (side - height * scale) / 2
    for box, colour in zip(boxes.tolist(), REGIONS, strict=True):
        x0, y0, x1, y1 = box
        places = (left + x0 * scale, top + y0 * scale, left + x1 * scale - 1, top + y1 * scale - 1)
        canvas.draw.rectangle(places, outline=colour, width=3)


def _four(canvas: Canvas, patches: Pixels, at: tuple[int, int], side: int) -> None:
    """The patches of the four regions, placed as the regions are."""
    x, y = at
    small = (side - GAP - 4 * FRAME) // 2
    step = side - small - 2 * FRAME
    for region, (patch, colour) in enumerate(zip(patches, REGIONS, strict=True)):
        down, right = divmod(region, 2)
        canvas.tile(patch, x + FRAME + right * step, y + FRAME + down * step, small, colour)
