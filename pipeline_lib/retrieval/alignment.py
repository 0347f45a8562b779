"""Bringing the two domains together: each domain's mean is removed before distances are taken.

Photos and drawings lie apart in an embedding space for reasons that have nothing to do with what they show. The first
moment of that gap is a difference of means; removing it is the simplest of the domain adaptations (compare the mean
part of CORAL, Sun, Feng and Saenko 2016). Three kinds:

- `none`: vectors are L2-normalised and nothing more (cosine similarity).
- `pretext_mean`: the means of the pretext photos and of their edge maps, which stand in for drawings.
- `transductive_mean`: the means of the very gallery and queries that are evaluated. It sees all queries at once, so it
  is for evaluation only, and rows made with it say transductive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline_lib.data.files import replacing
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.vectors import EmbeddingTable, Vectors

Kind = Literal["none", "pretext_mean", "transductive_mean"]
Domain = Literal["photo", "sketch"]
KINDS: Final[tuple[Kind, ...]] = ("none", "pretext_mean", "transductive_mean")
FILE_NAME = "alignment.safetensors"

# Rounding leaves about 1e-7 where a unit vector equals its domain's mean; stretched to length 1, that would be noise.
SMALLEST_NORM = 1e-6


def normalise(vectors: Vectors) -> Vectors:
    """Scales rows to length 1; rows that are all zeros stay zeros.

    Args:
        vectors: float32[N, D], finite.

    Returns:
        A new float32[N, D].
    """
    return _scaled(vectors, smallest=0.0)


def _scaled(vectors: Vectors, *, smallest: float) -> Vectors:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    result: Vectors = np.divide(vectors, np.where(norms > smallest, norms, 1), dtype=np.float32)
    result[norms[:, 0] <= smallest] = 0
    return result


@dataclass(frozen=True)
class Alignment:
    """Each domain's mean of L2-normalised vectors: float32[D] each."""

    photo_mean: Vectors
    sketch_mean: Vectors

    def __post_init__(self) -> None:
        if self.photo_mean.shape != self.sketch_mean.shape or self.photo_mean.ndim != 1:
            raise ValueError("photo_mean and sketch_mean must be vectors of one length")

    @classmethod
    def none(cls, dimension: int) -> Alignment:
        """The alignment that only normalises: both means are zero."""
        return cls(np.zeros(dimension, np.float32), np.zeros(dimension, np.float32))

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        return len(self.photo_mean)

    def apply(self, vectors: Vectors, domain: Domain) -> Vectors:
        """L2-normalises, subtracts the domain's mean, L2-normalises again.

        Args:
            vectors: float32[N, D], raw.
            domain: which mean to subtract.

        Returns:
            A new float32[N, D] of length-1 rows; a row that coincides with the mean becomes zeros, which is equally
            similar (0) to everything.
        """
        unit = normalise(vectors)
        mean = self.photo_mean if domain == "photo" else self.sketch_mean
        if not mean.any():
            return unit
        unit -= mean
        return _scaled(unit, smallest=SMALLEST_NORM)

    def save(self, path: Path) -> None:
        """Writes `photo_mean` and `sketch_mean` as safetensors, whole or not at all."""
        with replacing(path) as aside:
            save_file({"photo_mean": self.photo_mean, "sketch_mean": self.sketch_mean}, str(aside))

    @classmethod
    def load(cls, path: Path) -> Alignment:
        """Reads what `save` wrote.

        Raises:
            PipelineError: the file is missing, cut or holds something else.
        """
        try:
            means = load_file(str(path))
            return cls(means["photo_mean"].astype(np.float32), means["sketch_mean"].astype(np.float32))
        except (OSError, SafetensorError, KeyError, ValueError) as failure:
            raise PipelineError(f"{path}: can't be read as alignment ({failure}); run `dvc repro` again") from failure


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


def fit_pretext(folder: Path) -> Alignment:
    """`pretext_mean`: the means of `pretext_photos.parquet` and `pretext_edges.parquet` of a folder of embeddings.

    Raises:
        PipelineError: a table is missing, cut or empty.
    """
    return fit_tables(*(EmbeddingTable.open(folder / f"pretext_{domain}.parquet") for domain in ("photos", "edges")))


def of_kind(kind: Kind, photos: EmbeddingTable, sketches: EmbeddingTable) -> Alignment:
    """The alignment of one kind for gallery `photos` and query `sketches` of one folder of embeddings.

    For `pretext_mean` the folder holds `alignment.safetensors`, or else `pretext_photos.parquet` and
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
        return fit_pretext(folder)
    alignment = Alignment.load(fitted)
    if alignment.dimension != photos.dimension:
        raise PipelineError(
            f"{fitted}: means have {alignment.dimension} numbers, but {photos.dimension} in {photos.path}; "
            "delete it and run `dvc repro` again"
        )
    return alignment
