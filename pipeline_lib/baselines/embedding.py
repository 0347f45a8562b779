"""Embeds a few hundred images: the task that systems of vectors are spread over processes by."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.baselines.system import Domain, Embedder, Image, Vectors, VectorSystem
from pipeline_lib.data.images import BadImage, decode_encoded
from pipeline_lib.data.schemas import embeddings_schema, shard_paths, write_table
from pipeline_lib.data.source import FileSource, Source
from pipeline_lib.data.tasks import Stats
from pipeline_lib.errors import PipelineError
from pipeline_lib.params import Params

BATCH = 64
IMAGES_PER_SHARD = 256

Row = tuple[str, str, str, str, str]
"""image_id, class_name, instance_id, path, domain."""


@dataclass(frozen=True)
class FromSource:
    """Images that a reader opens; all of one domain."""

    rows: tuple[Row, ...]
    source: Source | FileSource

    @property
    def domain(self) -> Domain:
        """Of all of them."""
        return "photo" if self.rows[0][4] == "photo" else "sketch"

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Image]:
        for image_id, class_name, instance_id, path, domain in self.rows:
            try:
                yield Image(image_id, class_name, instance_id, self.source.load(path, domain, image_id))
            except (BadImage, OSError) as failure:
                raise PipelineError(f"{path}: can't be read any more ({failure}); mend or remove it") from failure


@dataclass(frozen=True)
class FromPairs:
    """Chosen photos (column `photo`) or edge maps (`edges`) of one shard of pairs."""

    shard: Path
    column: str
    ids: frozenset[str]

    @property
    def domain(self) -> Domain:
        """Edge maps stand in for sketches."""
        return "photo" if self.column == "photo" else "sketch"

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Image]:
        columns = ["image_id", self.column]
        try:
            for block in pq.ParquetFile(self.shard, memory_map=True).iter_batches(64, columns=columns):
                for image_id, value in zip(block["image_id"].to_pylist(), block[self.column], strict=True):
                    if image_id in self.ids:
                        pixels = decode_encoded(value.as_buffer(), grey=self.column == "edges")
                        yield Image(image_id, "", image_id, pixels)
        except (OSError, pa.ArrowException) as failure:
            raise PipelineError(f"{self.shard}: is cut or damaged ({failure}); delete it, run `dvc repro`") from failure


Inputs = FromSource | FromPairs
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class EmbedTask:
    """One shard of vectors.

    Attributes:
        path: the Parquet file to write, columns as in `schemas.embeddings_schema`.
        system: that embeds.
        folder: what it was fitted into.
        settings: params.
        images: what to embed.
    """

    path: Path
    system: VectorSystem
    folder: Path
    settings: Params
    images: Inputs

    @property
    def rows(self) -> int:
        """How many images."""
        return len(self.images)


_made: dict[tuple[str, Path], Embedder] = {}


def embed_shard(task: EmbedTask) -> Stats:
    """Embeds the images of a task, at most 64 at a time.

    Returns:
        rows, dimension, seconds (reading and embedding), processes (that shared the work).

    Raises:
        PipelineError: an image can't be read, or the system's vectors can't be used; names system and image.
    """
    where = task.system.name, task.folder
    if where not in _made:
        _made[where] = task.system.embedder(task.folder, task.settings)
    embed, domain = _made[where], task.images.domain
    tables = []
    started = time.perf_counter()
    for images in batched(task.images, BATCH):
        vectors = embed(images, domain)
        _check(vectors, images, task.system.name)
        tables.append(_table(images, vectors))
    seconds = time.perf_counter() - started
    whole = pa.concat_tables(tables)
    write_table(task.path, whole)
    return {
        "rows": whole.num_rows,
        "dimension": whole.schema.field("vector").type.list_size,
        "seconds": seconds,
        "processes": task.system.processes or os.cpu_count() or 1,
    }


def _check(vectors: Vectors, images: Sequence[Image], name: str) -> None:
    if vectors.ndim != 2 or len(vectors) != len(images) or vectors.dtype != np.float32:
        raise PipelineError(
            f"{name}: gave {vectors.dtype}{list(vectors.shape)} for {len(images)} images; an embedder gives "
            "float32[N, D]"
        )
    sums = np.abs(vectors).sum(axis=1, dtype=np.float64)
    bad = ~(np.isfinite(sums) & (sums > 0))
    if bad.any():
        image = images[int(np.argmax(bad))].image_id
        raise PipelineError(f"{name}: the vector of {image} is not finite or all zeros; mend its embedder")


def _table(images: Sequence[Image], vectors: Vectors) -> pa.Table:
    labels = [pa.array([image[column] for image in images], pa.string()) for column in range(3)]
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), vectors.shape[1])
    return pa.table([*labels, values], schema=embeddings_schema(vectors.shape[1]))


def from_rows(frame: pd.DataFrame, source: Source | FileSource) -> list[FromSource]:
    """The images of catalog rows, all of one domain, a shard's worth each."""
    columns = ("image_id", "class_name", "instance_id", "path", "domain")
    rows: list[Row] = list(zip(*(frame[name].tolist() for name in columns), strict=True))
    return [FromSource(tuple(chunk), source) for chunk in batched(rows, IMAGES_PER_SHARD)]


def from_pairs(folder: Path, column: str, ids: frozenset[str]) -> list[FromPairs]:
    """The chosen images of every shard of pairs that holds any."""
    found = []
    for shard in shard_paths(folder):
        inside = pq.read_table(shard, columns=["image_id"], memory_map=True)["image_id"].to_pylist()
        if chosen := ids & set(inside):
            found.append(FromPairs(shard, column, chosen))
    return found


def batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of at most `size` items (itertools has it from Python 3.12 on)."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
