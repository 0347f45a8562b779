"""Makes the vectors of a system: a few hundred images at a time in any process, or projected from stored vectors."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline_lib.baselines.system import Domain, Embedder, Image, ProjectedSystem, Vectors, VectorSystem
from pipeline_lib.data.cores import usable_cores
from pipeline_lib.data.images import BadImage, decode_encoded
from pipeline_lib.data.schemas import open_parquet, opened_shard, read_parquet, shard_paths, write_table
from pipeline_lib.data.source import FileSource, Source
from pipeline_lib.data.tasks import Stats
from pipeline_lib.embedding.vectors import EmbeddingTable, batched, vector_table, vector_writer
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
        with opened_shard(self.shard) as file:
            for block in file.iter_batches(BATCH, columns=["image_id", self.column]):
                for image_id, value in zip(block["image_id"].to_pylist(), block[self.column], strict=True):
                    if image_id in self.ids:
                        pixels = decode_encoded(value.as_buffer(), grey=self.column == "edges")
                        yield Image(image_id, "", image_id, pixels)


Inputs = FromSource | FromPairs


@dataclass(frozen=True)
class EmbedTask:
    """One shard of vectors."""

    path: Path  # the Parquet file to write, columns as in `schemas.embeddings_schema`
    system: VectorSystem  # that embeds
    folder: Path  # what it was fitted into
    settings: Params  # params
    images: Inputs  # what to embed

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
    tables = []
    started = time.perf_counter()
    for images in batched(task.images, BATCH):
        ids, classes, instances = zip(*(image[:3] for image in images), strict=True)
        vectors = _checked(_made[where](images, task.images.domain), ids, task.system.name, "embedder")
        tables.append(vector_table(ids, classes, instances, vectors))
    seconds = time.perf_counter() - started
    whole = pa.concat_tables(tables)
    write_table(task.path, whole)
    return {
        "rows": whole.num_rows,
        "dimension": whole.schema.field("vector").type.list_size,
        "seconds": seconds,
        "processes": task.system.processes or usable_cores(),
    }


def _checked(vectors: Vectors, ids: Sequence[str], name: str, function: str) -> Vectors:
    """The vectors, float32[N, D] of N images; raises a PipelineError where they can't be used."""
    if vectors.ndim != 2 or len(vectors) != len(ids) or vectors.dtype != np.float32:
        given = f"{vectors.dtype}{list(vectors.shape)}"
        raise PipelineError(f"{name}: gave {given} for {len(ids)} images; its {function} must give float32[N, D]")
    sums = np.abs(vectors).sum(axis=1, dtype=np.float64)
    bad = ~(np.isfinite(sums) & (sums > 0))
    if bad.any():
        image = ids[int(np.argmax(bad))]
        raise PipelineError(f"{name}: the vector of {image} is not finite or all zeros; mend its {function}")
    return vectors


def join_shards(shards: Sequence[Path], path: Path) -> None:
    """Puts shards of vectors into one table, a shard at a time."""
    with vector_writer(path, open_parquet(shards[0]).schema_arrow.field("vector").type.list_size) as writer:
        for shard in shards:
            writer.write_table(read_parquet(shard))


def project_tables(
    system: ProjectedSystem, base: Path, record: dict[str, Any], folder: Path, scratch: Path
) -> dict[str, object]:
    """Projects the stored vectors of photos and sketches, a batch at a time.

    Args:
        system: whose projection it is.
        base: where the vectors of `system.stored` of the same benchmark are.
        record: their `system.json`.
        folder: what `system` was fitted into.
        scratch: gets `photos.parquet` and `sketches.parquet`.

    Returns:
        The record's part about vectors. Its seconds are those of the row that embedded the images plus projection.

    Raises:
        PipelineError: the stored vectors can't be read, or a projected one can't be used.
    """
    project = system.projector(folder)
    seconds = {"seconds": record["seconds"], "seconds_queries": record["seconds_queries"]}
    sides: tuple[tuple[str, Domain, str], ...] = (
        ("photos", "photo", "seconds"),
        ("sketches", "sketch", "seconds_queries"),
    )
    width = 0
    for name, domain, key in sides:
        started = time.perf_counter()
        table = EmbeddingTable.open(base / f"{name}.parquet")
        width = project(next(table.batches(1)), domain).shape[1]
        with vector_writer(scratch / f"{name}.parquet", width) as writer:
            start = 0
            for batch in table.batches():
                labels = table.labels.take(np.arange(start, start + len(batch)))
                vectors = np.ascontiguousarray(project(batch, domain), np.float32)
                _checked(vectors, labels.image_ids.tolist(), system.name, "projector")
                writer.write_table(vector_table(labels.image_ids, labels.class_names, labels.instance_ids, vectors))
                start += len(batch)
        if seconds[key] is not None:
            seconds[key] = round(seconds[key] + time.perf_counter() - started, 2)
    return {"dimension": width, **seconds}


def from_rows(frame: pd.DataFrame, source: Source | FileSource) -> list[FromSource]:
    """The images of catalog rows, all of one domain, a shard's worth each."""
    columns = ("image_id", "class_name", "instance_id", "path", "domain")
    rows: list[Row] = list(zip(*(frame[name].tolist() for name in columns), strict=True))
    return [FromSource(tuple(chunk), source) for chunk in batched(rows, IMAGES_PER_SHARD)]


def from_pairs(folder: Path, column: str, ids: frozenset[str]) -> list[FromPairs]:
    """The chosen images of every shard of pairs that holds any."""
    found = []
    for shard in shard_paths(folder):
        inside = read_parquet(shard, ["image_id"], memory_map=True)["image_id"].to_pylist()
        if chosen := ids & set(inside):
            found.append(FromPairs(shard, column, chosen))
    return found
