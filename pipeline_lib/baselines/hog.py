"""The sanity row: histograms of oriented gradients (Dalal and Triggs 2005) on edge maps and drawings, nothing learned.

Photos become Canny edge maps, drawings stay what they are; both are scaled to one square and blurred alike, so that
lines which lie a little apart still share gradients.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from skimage.feature import hog
from tqdm import tqdm

from pipeline_lib import params
from pipeline_lib.data.files import replacing
from pipeline_lib.data.images import resize_short_side
from pipeline_lib.data.schemas import embeddings_schema
from pipeline_lib.data.source import Source
from pipeline_lib.errors import PipelineError
from pipeline_lib.pretext.edges import edge_map
from pipeline_lib.retrieval.encode import Item, catalog_images, pair_images

ORIENTATIONS = 9
CELLS_PER_BLOCK = 2
BATCH = 64


def photo_lines(image: NDArray[np.uint8], edges: params.Edges) -> NDArray[np.uint8]:
    """The edge map of a photo at the scale at which the pretext task draws it.

    Args:
        image: uint8[H, W, 3], RGB.
        edges: section `edges`.

    Returns:
        uint8[H', W'], its short side `edges.short_side` px.
    """
    return edge_map(resize_short_side(image, edges.short_side), edges)


def hog_vector(lines: NDArray[np.uint8], settings: params.Baselines) -> NDArray[np.float32]:
    """Describes a line drawing or an edge map; whether lines are dark or light makes no difference.

    Args:
        lines: uint8[H, W], or uint8[H, W, 3] RGB.
        settings: hog_size (px of the square), hog_cell (px), hog_blur (sigma, px).

    Returns:
        float32[D] of length 1, D = (c - 1)^2 * 36 with c = hog_size // hog_cell cells a side. An image without any
        line has no direction: all its numbers are equal.

    Raises:
        PipelineError: the square holds fewer than 2 x 2 cells.
    """
    size, cell = settings.hog_size, settings.hog_cell
    if size < CELLS_PER_BLOCK * cell:
        raise PipelineError(
            f"baselines.hog_cell {cell} is more than half of baselines.hog_size {size}; lower it or raise hog_size"
        )
    grey = lines if lines.ndim == 2 else cv2.cvtColor(lines, cv2.COLOR_RGB2GRAY)
    square = np.asarray(cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA), np.float32)
    if settings.hog_blur > 0:
        square = np.asarray(cv2.GaussianBlur(square, (0, 0), settings.hog_blur), np.float32)
    vector = hog(
        square,
        orientations=ORIENTATIONS,
        pixels_per_cell=(cell, cell),
        cells_per_block=(CELLS_PER_BLOCK, CELLS_PER_BLOCK),
        block_norm="L2-Hys",
    )
    length = float(np.linalg.norm(vector))
    if length == 0:
        return np.full(len(vector), 1 / np.sqrt(len(vector)), dtype=np.float32)
    return np.asarray(vector / length, dtype=np.float32)


def hog_vectors(images: Iterable[NDArray[np.uint8]], settings: params.Baselines) -> NDArray[np.float32]:
    """The vectors (see `hog_vector`) of several drawings or edge maps, float32[N, D]."""
    return np.stack([hog_vector(image, settings) for image in images])


def export_hog(
    folder: Path,
    catalog: pd.DataFrame,
    source: Source,
    pairs: Path,
    settings: params.Params,
) -> float:
    """Writes the four embedding tables of this system: photos, sketches, pretext_photos and pretext_edges.

    Args:
        folder: target.
        catalog: rows as in `schemas.CATALOG`.
        source: where gallery and query images are read.
        pairs: folder of pair shards, for the pretext images.
        settings: all params; `baselines` and `edges` (by which photos become edge maps) are used.

    Returns:
        Seconds for gallery and queries, reading apart.

    Raises:
        PipelineError: an image or a shard can't be read, or the cells don't fit.
    """
    parts = {role: catalog[catalog["role"] == role].sort_values("image_id") for role in ("gallery", "query", "pretext")}
    jobs: list[tuple[str, Iterable[Item], str, bool]] = [
        ("photos", catalog_images(parts["gallery"], source), "gallery", True),
        ("sketches", catalog_images(parts["query"], source), "query", False),
        ("pretext_photos", pair_images(pairs, "photo", catalog), "pretext", True),
        ("pretext_edges", pair_images(pairs, "edges", catalog), "pretext", False),
    ]
    seconds = 0.0
    for name, items, role, are_photos in jobs:
        bar = tqdm(items, total=len(parts[role]), desc=f"hog {name}", unit="image", mininterval=1.0)
        spent = _export(
            folder / f"{name}.parquet", iter(bar), settings.baselines, settings.edges if are_photos else None
        )
        seconds += 0.0 if role == "pretext" else spent
    return seconds


def _export(path: Path, items: Iterator[Item], settings: params.Baselines, edges: params.Edges | None) -> float:
    """Writes one table a batch at a time; `edges` is None where the images are lines already."""
    blank = hog_vector(np.zeros((settings.hog_size, settings.hog_size), np.uint8), settings)
    schema = embeddings_schema(len(blank))
    seconds = 0.0
    # The writer is closed before the file takes its name, so that its footer is there.
    with (
        replacing(path) as aside,
        pq.ParquetWriter(aside, schema, compression="lz4", use_dictionary=False) as writer,
    ):
        while chunk := list(islice(items, BATCH)):
            started = time.perf_counter()
            lines = [item[3] if edges is None else photo_lines(item[3], edges) for item in chunk]
            vectors = hog_vectors(lines, settings)
            seconds += time.perf_counter() - started
            labels = [pa.array([item[column] for item in chunk], pa.string()) for column in range(3)]
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
            writer.write_table(pa.table([*labels, column], schema=schema))
    return seconds
