"""Fitting an alignment: on pretext photos and their edges, or on what is evaluated.

Only `transductive_mean` looks at a gallery or at queries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.alignment import FILE_NAME, Alignment, Kind, Whitening, normalise
from pipeline_lib.retrieval.hubness import EDGES
from pipeline_lib.retrieval.vectors import EmbeddingTable, Vectors, open_pretext
from pipeline_lib.retrieval.whitening import PAIRS, whiten


def fit(
    photos: Iterable[Vectors], sketches: Iterable[Vectors], widths: tuple[int, ...] = (), facing: float = 0.0
) -> Alignment:
    """Takes each domain's mean of L2-normalised vectors.

    Args:
        photos: batches of raw vectors, float32[B, D] each; a float32[N, D] array in a list is one batch.
        sketches: likewise, of sketches or of edge maps.
        widths: of the parts that a vector joins, as in `Alignment`.
        facing: as in `Alignment`; the vectors of mirrored images then count as those of others.

    Raises:
        ValueError: a domain has no vectors.
    """
    photo_mean, sketch_mean = (
        _mean((view for batch in side for view in views(batch, facing)), widths) for side in (photos, sketches)
    )
    return Alignment(photo_mean, sketch_mean, widths=widths, facing=facing)


def views(vectors: Vectors, facing: float) -> list[Vectors]:
    """The vectors of images and, under `facing`, those of the mirrored images: float32[N, D] each."""
    return np.hsplit(vectors, 2) if facing else [vectors]


def _mean(batches: Iterable[Vectors], widths: tuple[int, ...]) -> Vectors:
    total: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = None
    count = 0
    for batch in batches:
        part = normalise(batch, widths).sum(axis=0, dtype=np.float64)
        total = part if total is None else total + part
        count += len(batch)
    if total is None or count == 0:
        raise ValueError("a mean needs at least one vector")
    return (total / count).astype(np.float32)


def fit_tables(
    photos: EmbeddingTable, sketches: EmbeddingTable, widths: tuple[int, ...] = (), facing: float = 0.0
) -> Alignment:
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
    return fit(photos.batches(), sketches.batches(), widths, facing)


def fit_pretext(folder: Path, widths: tuple[int, ...] = (), facing: float = 0.0) -> Alignment:
    """Means, whitening and edges of `pretext_photos.parquet` and `pretext_edges.parquet` of a folder of embeddings.

    Args:
        folder: of the embeddings.
        widths: of the parts that a vector joins, as in `Alignment`.
        facing: as in `Alignment`. A mirrored photo and its mirrored edges are a pair like others.

    Raises:
        PipelineError: a table is missing, cut or empty, or the two do not hold the same images in the same order.
    """
    photos, edges = open_pretext(folder)
    means = fit_tables(photos, edges, widths, facing)
    if not np.array_equal(photos.labels.image_ids, edges.labels.image_ids):
        raise PipelineError(f"{edges.path}: holds other images than {photos.path}; run `dvc repro` again")
    differences = np.concatenate(_centred(photos, means.photo_mean, means))
    differences -= np.concatenate(_centred(edges, means.sketch_mean, means))
    parts = np.split(differences, np.cumsum(widths)[:-1], axis=1)
    whitened = replace(means, whitenings=tuple(Whitening(*whiten(part)) for part in parts))
    return replace(whitened, edges=whitened.apply(_spread(edges, EDGES), "sketch").astype(np.float16))


def _centred(table: EmbeddingTable, mean: Vectors, means: Alignment) -> list[Vectors]:
    """At most PAIRS vectors of a table, of length 1 and less their mean, in one array or two."""
    rows = _spread(table, PAIRS // (2 if means.facing else 1))
    return [normalise(view, means.widths) - mean for view in views(rows, means.facing)]


def _spread(table: EmbeddingTable, most: int) -> Vectors:
    """At most so many vectors of a table, evenly spread over its rows."""
    rows = np.unique(np.linspace(0, len(table) - 1, min(most, len(table)), dtype=np.intp))
    seen, parts = 0, []
    for batch in table.batches():
        parts.append(batch[rows[(rows >= seen) & (rows < seen + len(batch))] - seen])
        seen += len(batch)
    return np.concatenate(parts)


def of_kind(kind: Kind, photos: EmbeddingTable, sketches: EmbeddingTable) -> Alignment:
    """The alignment of one kind for gallery `photos` and query `sketches` of one folder of embeddings.

    For the `pretext` kinds the folder holds `alignment.safetensors`, or else `pretext_photos.parquet` and
    `pretext_edges.parquet` to fit it on. That file also tells which parts a vector joins.

    Raises:
        PipelineError: what the kind needs is missing, empty or of another dimension.
    """
    if kind == "none":
        return Alignment.none(photos.dimension)
    folder = photos.path.parent
    path = folder / FILE_NAME
    fitted = Alignment.load(path) if path.exists() else None
    if fitted is not None and fitted.dimension != photos.dimension:
        raise PipelineError(
            f"{path}: means have {fitted.dimension} numbers, but {photos.dimension} in {photos.path}; "
            "delete it and run `dvc repro` again"
        )
    if kind == "transductive_mean":
        return fit_tables(photos, sketches, *((fitted.widths, fitted.facing) if fitted else ()))
    if fitted is not None:
        return fitted.as_kind(kind)
    return fit_tables(*open_pretext(folder)) if kind == "pretext_mean" else fit_pretext(folder).as_kind(kind)
