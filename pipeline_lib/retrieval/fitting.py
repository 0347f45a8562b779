"""Fitting an alignment: on pretext photos and their edges, or on what is evaluated.

Only `transductive_mean` looks at a gallery or at queries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.alignment import FILE_NAME, Alignment, Kind, normalise
from pipeline_lib.retrieval.hubness import EDGES
from pipeline_lib.retrieval.vectors import EmbeddingTable, Vectors
from pipeline_lib.retrieval.whitening import PAIRS, whiten


def fit(photos: Iterable[Vectors], sketches: Iterable[Vectors]) -> Alignment:
    """Takes each domain's mean of L2-normalised vectors.

    Args:
        photos: batches of raw vectors, float32[B, D] each; a float32[N, D] array in a list is one batch.
        sketches: likewise, of sketches or of edge maps.

    Raises:
        ValueError: a domain has no vectors.
    """
    return Alignment(_mean(photos), _mean(sketches))


def _mean(batches: Iterable[Vectors]) -> Vectors:
    total: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = None
    count = 0
    for batch in batches:
        part = normalise(batch).sum(axis=0, dtype=np.float64)
        total = part if total is None else total + part
        count += len(batch)
    if total is None or count == 0:
        raise ValueError("a mean needs at least one vector")
    return (total / count).astype(np.float32)


def fit_tables(photos: EmbeddingTable, sketches: EmbeddingTable) -> Alignment:
    """`fit` on two embedding tables, read in batches.

    Raises:
        PipelineError: a table is empty or the two differ in dimension; names the file and the way out.
    """
    for table in (photos, sketches):
        if not len(table):
            raise PipelineError(f"{table.path}: holds no vectors to take a mean of; set retrieval.alignment to none")
    if photos.dimension != sketches.dimension:
        raise PipelineError(
            f"{sketches.path}: vectors have {sketches.dimension} numbers, but {photos.dimension} in {photos.path}; "
            "run `dvc repro` again"
        )
    return fit(photos.batches(), sketches.batches())


def _pretext(folder: Path) -> tuple[EmbeddingTable, EmbeddingTable]:
    photos, edges = (EmbeddingTable.open(folder / f"pretext_{domain}.parquet") for domain in ("photos", "edges"))
    return photos, edges


def fit_pretext(folder: Path) -> Alignment:
    """Means, whitening and edges of `pretext_photos.parquet` and `pretext_edges.parquet` of a folder of embeddings.

    Raises:
        PipelineError: a table is missing, cut or empty, or the two do not hold the same images in the same order.
    """
    photos, edges = _pretext(folder)
    means = fit_tables(photos, edges)
    if not np.array_equal(photos.labels.image_ids, edges.labels.image_ids):
        raise PipelineError(f"{edges.path}: holds other images than {photos.path}; run `dvc repro` again")
    differences = _spread(photos, PAIRS) - means.photo_mean
    differences -= _spread(edges, PAIRS) - means.sketch_mean
    whitened = Alignment(means.photo_mean, means.sketch_mean, *whiten(differences))
    return replace(whitened, edges=whitened.apply(_spread(edges, EDGES), "sketch").astype(np.float16))


def _spread(table: EmbeddingTable, most: int) -> Vectors:
    """At most so many unit vectors of a table, evenly spread over its rows."""
    step, seen, parts = -(-len(table) // most), 0, []
    for batch in table.batches():
        parts.append(normalise(batch[-seen % step :: step]))
        seen += len(batch)
    return np.concatenate(parts)


def of_kind(kind: Kind, photos: EmbeddingTable, sketches: EmbeddingTable) -> Alignment:
    """The alignment of one kind for gallery `photos` and query `sketches` of one folder of embeddings.

    For the `pretext` kinds the folder holds `alignment.safetensors`, or else `pretext_photos.parquet` and
    `pretext_edges.parquet` to fit it on.

    Raises:
        PipelineError: what the kind needs is missing, empty or of another dimension.
    """
    if kind == "none":
        return Alignment.none(photos.dimension)
    if kind == "transductive_mean":
        return fit_tables(photos, sketches)
    folder = photos.path.parent
    fitted = folder / FILE_NAME
    if not fitted.exists():
        return fit_tables(*_pretext(folder)) if kind == "pretext_mean" else fit_pretext(folder).as_kind(kind)
    alignment = Alignment.load(fitted)
    if alignment.dimension != photos.dimension:
        raise PipelineError(
            f"{fitted}: means have {alignment.dimension} numbers, but {photos.dimension} in {photos.path}; "
            "delete it and run `dvc repro` again"
        )
    return alignment.as_kind(kind)
