"""Bringing the two domains together before distances are taken.

Photos and drawings lie apart in an embedding space for reasons that have nothing to do with what they show. The first
moment of that gap is a difference of means; removing it is the simplest of the domain adaptations (compare the mean
part of CORAL, Sun, Feng and Saenko 2016). Five kinds:

- `none`: vectors are L2-normalised and nothing more (cosine similarity).
- `pretext_mean`: the means of the pretext photos and of their edge maps, which stand in for drawings.
- `pretext_whitened`: these means, and then what a photo and its own edges differ in counts less (see `whitening`).
- `pretext_csls`: the same, and photos that are near to many edge maps lose what they owe to that (see `hubness`).
- `transductive_mean`: the means of the very gallery and queries that are evaluated. It sees all queries at once, so it
  is for evaluation only, and rows made with it say transductive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline_lib.data.files import replacing
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.hubness import nearness
from pipeline_lib.retrieval.vectors import Vectors

Kind = Literal["none", "pretext_mean", "pretext_whitened", "pretext_csls", "transductive_mean"]
Domain = Literal["photo", "sketch"]
KINDS: Final[tuple[Kind, ...]] = ("none", "pretext_mean", "pretext_whitened", "pretext_csls", "transductive_mean")
FILE_NAME = "alignment.safetensors"

# Rounding leaves about 1e-7 where a unit vector equals its domain's mean; stretched to length 1, that would be noise.
SMALLEST_NORM = 1e-6


def normalise(vectors: Vectors, widths: Sequence[int] = ()) -> Vectors:
    """Scales rows to length 1; rows that are all zeros stay zeros.

    Args:
        vectors: float32[N, D], finite.
        widths: of the parts that each row joins; each is scaled by itself, so that all count the same. Empty for one.

    Returns:
        A new float32[N, D].
    """
    return _scaled(vectors, widths, smallest=0.0)


def _scaled(vectors: Vectors, widths: Sequence[int], *, smallest: float) -> Vectors:
    if len(widths) > 1:
        parts = np.split(vectors, np.cumsum(widths)[:-1], axis=1)
        return np.hstack([_scaled(part, (), smallest=smallest) for part in parts]) / np.float32(len(widths) ** 0.5)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    result: Vectors = np.divide(vectors, np.where(norms > smallest, norms, 1), dtype=np.float32)
    result[norms[:, 0] <= smallest] = 0
    return result


class Whitening(NamedTuple):
    """What `whitening.whiten` gives for one part of a vector, of W numbers."""

    directions: Vectors  # float32[R, W]
    gains: Vectors  # float32[R]

    def of(self, vectors: Vectors) -> Vectors:
        """Whitened rows, a new float32[N, W]."""
        return np.asarray(vectors + (vectors @ self.directions.T * self.gains) @ self.directions, np.float32)


@dataclass(frozen=True)
class Alignment:
    """Each domain's mean of L2-normalised vectors, the whitening that follows, and what hubs are known by.

    Under `facing` a vector is that of an image and, behind it, that of the mirrored image, a and b. Both are aligned
    alike; then a + b holds what an image and its mirror image share, a - b what they differ in: which way things face.
    Scaling a - b by the root of `facing` lets it count that many times as much in an inner product.

    Attributes:
        photo_mean: float32[D].
        sketch_mean: float32[D].
        whitenings: one per part of a vector; empty for no whitening.
        edges: float16[M, aligned], aligned edge maps of pretext photos, which hubs among the photos are near to; None
            where hubs count as much as others.
        widths: of the parts that a vector joins, each aligned by itself. Empty for one part.
        facing: how many times what mirror images differ in counts; 0 where there are no mirror images.
    """

    photo_mean: Vectors
    sketch_mean: Vectors
    whitenings: tuple[Whitening, ...] = ()
    edges: NDArray[np.float16] | None = None
    widths: tuple[int, ...] = ()
    facing: float = 0.0

    def __post_init__(self) -> None:
        if self.photo_mean.shape != self.sketch_mean.shape or self.photo_mean.ndim != 1:
            raise ValueError("photo_mean and sketch_mean must be vectors of one length")
        if self.widths and sum(self.widths) != len(self.photo_mean):
            raise ValueError(f"parts of {self.widths} numbers do not make a vector of {len(self.photo_mean)}")
        if self.whitenings and len(self.whitenings) != max(1, len(self.widths)):
            raise ValueError(f"{len(self.whitenings)} whitenings for {max(1, len(self.widths))} parts")

    @classmethod
    def none(cls, dimension: int) -> Alignment:
        """The alignment that only normalises: both means are zero."""
        return cls(np.zeros(dimension, np.float32), np.zeros(dimension, np.float32))

    @property
    def dimension(self) -> int:
        """Numbers per vector that comes in."""
        return len(self.photo_mean) * (2 if self.facing else 1)

    @property
    def aligned_dimension(self) -> int:
        """Numbers per vector that `apply` gives."""
        return self.dimension + (self.edges is not None)

    def apply(self, vectors: Vectors, domain: Domain) -> Vectors:
        """L2-normalises, subtracts the domain's mean, whitens, L2-normalises again; each part by itself.

        Args:
            vectors: float32[N, D], raw.
            domain: which mean to subtract.

        Returns:
            A new float32[N, D] of length-1 rows; a row that coincides with the mean becomes zeros, which is equally
            similar (0) to everything. Under `edges` one more number follows: minus half the photo's nearness to
            them, and 1 for a sketch, so that inner products order photos as CSLS does.
        """
        unit = self._unit(vectors, domain)
        if self.edges is None:
            return unit
        last = np.ones(len(unit), np.float32) if domain == "sketch" else -0.5 * nearness(unit, self.edges)
        return np.column_stack([unit, last])

    def _unit(self, vectors: Vectors, domain: Domain) -> Vectors:
        if not self.facing:
            return self._view(vectors, domain)
        own, other = (self._view(view, domain) for view in np.hsplit(vectors, 2))
        sides = (own + other, (own - other) * np.float32(self.facing**0.5))
        # The two sides of a part follow one another, to be scaled together: how much there is of each tells something.
        ends = np.cumsum(self.widths)[:-1]
        parts = [part for pair in zip(*(np.split(side, ends, axis=1) for side in sides), strict=True) for part in pair]
        return _scaled(np.hstack(parts), [2 * width for width in self.widths], smallest=SMALLEST_NORM)

    def _view(self, vectors: Vectors, domain: Domain) -> Vectors:
        unit = normalise(vectors, self.widths)
        mean = self.photo_mean if domain == "photo" else self.sketch_mean
        if not mean.any() and not self.whitenings:
            return unit
        unit -= mean
        if self.whitenings:
            parts = np.split(unit, np.cumsum(self.widths)[:-1], axis=1)
            unit = np.hstack([whitening.of(part) for whitening, part in zip(self.whitenings, parts, strict=True)])
        return _scaled(unit, self.widths, smallest=SMALLEST_NORM)

    def save(self, path: Path) -> None:
        """Writes its arrays under their names as safetensors, whole or not at all."""
        arrays: dict[str, NDArray[np.generic]] = {"photo_mean": self.photo_mean, "sketch_mean": self.sketch_mean}
        for number, whitening in enumerate(self.whitenings):
            arrays |= {f"{name}{number or ''}": array for name, array in whitening._asdict().items()}
        if self.facing:
            arrays["facing"] = np.array(self.facing, np.float64)
        if self.edges is not None:
            arrays["edges"] = self.edges
        if self.widths:
            arrays["widths"] = np.array(self.widths, np.int64)
        with replacing(path) as aside:
            save_file(arrays, str(aside))

    @classmethod
    def load(cls, path: Path) -> Alignment:
        """Reads what `save` wrote.

        Raises:
            PipelineError: the file is missing, cut or holds something else.
        """
        try:
            arrays = load_file(str(path))
            edges, widths = arrays.pop("edges", None), arrays.pop("widths", np.empty(0, np.int64))
            facing = float(arrays.pop("facing", 0.0))
            count = max(1, len(widths)) if "gains" in arrays else 0
            whitenings = tuple(
                Whitening(*(arrays.pop(f"{name}{number or ''}") for name in Whitening._fields))
                for number in range(count)
            )
            return cls(**arrays, whitenings=whitenings, edges=edges, widths=tuple(widths.tolist()), facing=facing)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as failure:
            raise PipelineError(f"{path}: can't be read as alignment ({failure}); run `dvc repro` again") from failure

    def as_kind(self, kind: Kind) -> Alignment:
        """The part of a fitted alignment that a kind uses.

        Raises:
            PipelineError: it has no whitening, and the kind asks for it.
        """
        if kind == "none":
            return Alignment.none(self.dimension)
        if kind not in ("pretext_whitened", "pretext_csls"):
            return replace(self, whitenings=(), edges=None)
        if not self.whitenings or (kind == "pretext_csls" and self.edges is None):
            raise PipelineError(
                f"retrieval.alignment: {kind} was not fitted when these images were embedded; run `dvc repro` again, "
                "or set it to pretext_mean"
            )
        return self if kind == "pretext_csls" else replace(self, edges=None)
