"""Vectors of one row made from those that another row has stored, a batch at a time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.baselines.system import Domain, ProjectedSystem, Projector
from pipeline_lib.data.files import replacing
from pipeline_lib.data.schemas import embeddings_schema
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.vectors import EmbeddingTable


def projected(
    system: ProjectedSystem, base: Path, record: dict[str, Any], folder: Path, scratch: Path
) -> dict[str, object]:
    """Projects the photos and the sketches of `base` into `scratch`.

    Args:
        system: whose projection it is.
        base: where the vectors of `system.stored` of the same benchmark are.
        record: what stands beside them.
        folder: what `system` was fitted into.
        scratch: gets `photos.parquet` and `sketches.parquet`.

    Returns:
        The record's part about vectors. Its seconds are those of the row that embedded the images and of projecting.

    Raises:
        PipelineError: the stored vectors can't be read, or a projected one can't be used.
    """
    project = system.projector(folder)
    dimension, seconds, queries = 0, record["seconds"], record["seconds_queries"]
    sides: tuple[tuple[str, Domain], ...] = (("photos", "photo"), ("sketches", "sketch"))
    for name, domain in sides:
        started = time.perf_counter()
        table = EmbeddingTable.open(base / f"{name}.parquet")
        dimension = _project(table, scratch / f"{name}.parquet", project, domain, system.name)
        spent = time.perf_counter() - started
        if domain == "photo":
            seconds += spent
        elif queries is not None:
            queries += spent
    return {
        "forms": list(system.forms),
        "dimension": dimension,
        "seconds": round(seconds, 2),
        "seconds_queries": None if queries is None else round(queries, 2),
    }


def _project(table: EmbeddingTable, path: Path, project: Projector, domain: Domain, name: str) -> int:
    """Writes one table; the number of dimensions."""
    writer: pq.ParquetWriter | None = None
    start = width = 0
    with replacing(path) as aside:
        try:
            for batch in table.batches():
                vectors = np.ascontiguousarray(project(batch, domain), np.float32)
                labels = table.labels.take(np.arange(start, start + len(batch)))
                sums = np.abs(vectors).sum(axis=1, dtype=np.float64)
                bad = ~(np.isfinite(sums) & (sums > 0))
                if bad.any():
                    image = labels.image_ids[int(np.argmax(bad))]
                    raise PipelineError(f"{name}: the vector of {image} is not finite or all zeros; mend its projector")
                width = vectors.shape[1]
                columns = [
                    pa.array(values, pa.string())
                    for values in (labels.image_ids, labels.class_names, labels.instance_ids)
                ]
                columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width))
                schema = embeddings_schema(width)
                writer = writer or pq.ParquetWriter(aside, schema, compression="lz4", use_dictionary=False)
                writer.write_table(pa.table(columns, schema=schema))
                start += len(batch)
        finally:
            if writer is not None:
                writer.close()
    return width
