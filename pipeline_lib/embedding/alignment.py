"""Bringing the two domains together before distances are taken: a chain of small, saved steps.

Photos and drawings lie apart in an embedding space for reasons that have nothing to do with what they show. Each kind
of `registry.ALIGNMENTS` is a chain of steps that are fitted on pretext photos and their edge maps, which stand in for
drawings:

- `none`: vectors are L2-normalised and nothing more (cosine similarity).
- `pretext_mean`: the mean of each domain is subtracted (compare the mean part of CORAL, Sun, Feng and Saenko 2016).
- `pretext_whitened`: and what a photo and its own edges differ in is whitened (`whitening`).
- `pretext_csls`: and hubs among the photos are corrected for (`hubness`).
- `transductive_mean`: the means of the very gallery and queries that are evaluated. It sees all queries at once, so it
  is for evaluation only, and rows made with it say transductive.

A step is a class in a file of its own, a line in `registry.STEPS`, and its place in a chain of `registry.ALIGNMENTS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pipeline_lib.embedding.vectors import EmbeddingTable, Vectors, open_pretext, write_arrays
from pipeline_lib.errors import PipelineError
from pipeline_lib.registry import ALIGNMENTS, STEPS, TRANSDUCTIVE, load

Kind = str
"""A name of `registry.ALIGNMENTS`."""
Domain = Literal["photo", "sketch"]
Chain = tuple[str, ...]
KINDS: Final[tuple[Kind, ...]] = tuple(ALIGNMENTS)
FILE_NAME: Final = "alignment.safetensors"

# Rounding leaves about 1e-7 where a unit vector equals its domain's mean; stretched to length 1, that would be noise.
SMALLEST_NORM = 1e-6
MARK = np.empty(0, np.uint8)


def normalise(vectors: Vectors, widths: Sequence[int] = (), smallest: float = 0.0) -> Vectors:
    """Scales rows to length 1.

    Args:
        vectors: float32[N, D], finite.
        widths: of the parts that each row joins; each is scaled by itself, so that all count the same. Empty for one.
        smallest: rows of at most this length become zeros.

    Returns:
        A new float32[N, D].
    """
    if len(widths) > 1:
        parts = np.split(vectors, np.cumsum(widths)[:-1], axis=1)
        return np.hstack([normalise(part, (), smallest) for part in parts]) / np.float32(len(widths) ** 0.5)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    result: Vectors = np.divide(vectors, np.where(norms > smallest, norms, 1), dtype=np.float32)
    result[norms[:, 0] <= smallest] = 0
    return result


class Step(ABC):
    """A step of alignment."""

    # whether it works on finished vectors of length 1. Otherwise it works on the vectors of an image and of its
    # mirror image apart, before both are scaled to length 1 and joined.
    on_whole: ClassVar[bool] = False
    added: ClassVar[int] = 0  # numbers that it adds to a vector

    @classmethod
    @abstractmethod
    def fit(cls, photos: EmbeddingTable, edges: EmbeddingTable, before: "Alignment") -> Self:
        """Fits it on pretext photos and their edge maps, in the same order.

        Args:
            photos: raw vectors.
            edges: raw vectors.
            before: the chain of the steps before this one.
        """

    @abstractmethod
    def apply(self, vectors: Vectors, domain: Domain, before: "Alignment") -> Vectors:
        """Changes vectors, float32[N, D], that went through the steps before."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What it has learned, by name, to be saved."""

    @classmethod
    @abstractmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The step that gave these `arrays`."""


@dataclass(frozen=True)
class Mean(Step):
    """Each domain's mean of L2-normalised vectors, subtracted."""

    photo: Vectors  # float32[D]
    sketch: Vectors  # float32[D]

    @classmethod
    def fit(cls, photos: EmbeddingTable, edges: EmbeddingTable, before: "Alignment") -> Self:
        """Takes the means, table by table in batches.

        Raises:
            PipelineError: a table is empty or the two differ in dimension; names the file and the way out.
        """
        for table in (photos, edges):
            if not len(table):
                raise PipelineError(
                    f"{table.path}: holds no vectors to take a mean of; set retrieval.alignment to none"
                )
        if photos.dimension != edges.dimension:
            raise PipelineError(
                f"{edges.path}: vectors have {edges.dimension} numbers, but {photos.dimension} in {photos.path}; "
                "run `dvc repro` again"
            )
        return cls(_mean(photos, before), _mean(edges, before))

    def apply(self, vectors: Vectors, domain: Domain, before: "Alignment") -> Vectors:  # noqa: ARG002
        """Subtracts the domain's mean."""
        return vectors - (self.photo if domain == "photo" else self.sketch)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Both means."""
        return {"photo": self.photo, "sketch": self.sketch}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """From what `arrays` gave."""
        return cls(*(np.asarray(arrays[name], np.float32) for name in ("photo", "sketch")))


def _mean(table: EmbeddingTable, before: "Alignment") -> Vectors:
    total = np.zeros(before.width, np.float64)
    for batch in table.batches():
        for view in before.views(batch):
            total += normalise(view, before.widths).sum(axis=0, dtype=np.float64)
    return (total / (len(table) * (2 if before.facing else 1))).astype(np.float32)


@dataclass(frozen=True)
class Alignment:
    """A chain of fitted steps.

    Under `facing` a vector is that of an image and, behind it, that of its mirror image, a and b. Both are aligned
    alike; then a + b holds what an image and its mirror image share, a - b what they differ in: which way things face.
    Scaling a - b by the root of `facing` lets it count that many times as much in an inner product.
    """

    dimension: int  # numbers per vector that comes in
    widths: tuple[int, ...] = ()  # of the parts that a vector joins, each aligned by itself. Empty for one part
    facing: float = 0.0  # how many times what mirror images differ in counts; 0 where there are no mirror images
    projected: bool = (
        False  # whether vectors come from a projection, which leaves nothing to whiten; asked when fitting
    )
    # the fitted step at the end of each chain, by the chain's names.
    steps: Mapping[Chain, Step] = field(default_factory=dict)
    chain: Chain = ()  # names of the steps that `apply` takes

    def __post_init__(self) -> None:
        if self.widths and sum(self.widths) != self.width:
            raise ValueError(f"parts of {self.widths} numbers do not make a vector of {self.width}")

    @property
    def width(self) -> int:
        """Numbers of one view: of the image, or of its mirror image."""
        return self.dimension // 2 if self.facing else self.dimension

    @property
    def applied(self) -> list[tuple[Chain, Step]]:
        """The steps of the chain, each with the names of those before it."""
        return [(self.chain[:end], self.steps[self.chain[: end + 1]]) for end in range(len(self.chain))]

    @property
    def aligned_dimension(self) -> int:
        """Numbers per vector that `apply` gives."""
        return self.dimension + sum(step.added for _, step in self.applied)

    def apply(self, vectors: Vectors, domain: Domain) -> Vectors:
        """Aligns vectors.

        Args:
            vectors: float32[N, D], raw.
            domain: of the images.

        Returns:
            A new float32[N, D] of length-1 rows; a row that coincides with its domain's mean becomes zeros, which is
            equally similar (0) to everything. Some steps append numbers (`hubness`).
        """
        views = [self._scaled(view, domain) for view in self.views(vectors)]
        unit = self._joined(*views) if self.facing else views[0]
        for before, step in self.applied:
            if step.on_whole:
                unit = step.apply(unit, domain, replace(self, chain=before))
        return unit

    def queries(self, vectors: Vectors, domain: Domain) -> Vectors:
        """As `apply`, of vectors to search with: a photo's appended numbers are 0, since they correct for drawings."""
        if domain == "sketch":
            return self.apply(vectors, domain)
        plain = self
        while plain.chain and plain.steps[plain.chain].added:
            plain = replace(plain, chain=plain.chain[:-1])
        found = plain.apply(vectors, domain)
        return np.pad(found, ((0, 0), (0, self.aligned_dimension - found.shape[1])))

    def views(self, vectors: Vectors) -> list[Vectors]:
        """The vectors of images and, under `facing`, those of the mirror images: float32[N, width] each."""
        return np.hsplit(vectors, 2) if self.facing else [vectors]

    def split(self, vectors: Vectors) -> list[Vectors]:
        """The parts of vectors, float32[N, W] each."""
        return np.split(vectors, np.cumsum(self.widths)[:-1], axis=1)

    def pairs(self, photos: EmbeddingTable, edges: EmbeddingTable, most: int) -> Vectors:
        """Differences of at most `most` photos and their own edge maps after the chain's steps, float32[M, width]."""
        rows = most // (2 if self.facing else 1)
        sides: list[tuple[EmbeddingTable, Domain]] = [(photos, "photo"), (edges, "sketch")]
        first, second = (
            np.concatenate([self._view(view, domain) for view in self.views(table.spread(rows))])
            for table, domain in sides
        )
        first -= second
        return first

    def _view(self, vectors: Vectors, domain: Domain) -> Vectors:
        unit = normalise(vectors, self.widths)
        for before, step in self.applied:
            if not step.on_whole:
                unit = step.apply(unit, domain, replace(self, chain=before))
        return unit

    def _scaled(self, vectors: Vectors, domain: Domain) -> Vectors:
        unit = self._view(vectors, domain)
        return normalise(unit, self.widths, SMALLEST_NORM) if self.chain else unit

    def _joined(self, own: Vectors, other: Vectors) -> Vectors:
        sides = (own + other, (own - other) * np.float32(self.facing**0.5))
        # The two sides of a part follow one another, to be scaled together: their proportion tells something.
        parts = [part for pair in zip(*(self.split(side) for side in sides), strict=True) for part in pair]
        return normalise(np.hstack(parts), [2 * width for width in self.widths], SMALLEST_NORM)

    def fitted(self, chain: Chain, photos: EmbeddingTable, edges: EmbeddingTable) -> Self:
        """The same with the steps of a chain, fitted one after the other as far as they are not yet."""
        found = replace(self, chain=())
        for name in chain:
            longer = (*found.chain, name)
            step = found.steps.get(longer) or load(STEPS[name]).fit(photos, edges, found)
            found = replace(found, steps={**found.steps, longer: step}, chain=longer)
        return found

    def as_kind(self, kind: Kind) -> "Alignment":
        """The part of a fitted alignment that a kind uses.

        Raises:
            PipelineError: the kind asks for a step that was not fitted.
        """
        chain = ALIGNMENTS[kind]
        if not chain:
            return Alignment(self.dimension)
        if chain not in self.steps:
            raise PipelineError(
                f"retrieval.alignment: {kind} was not fitted when these images were embedded; run `dvc repro` again, "
                "or set it to pretext_mean"
            )
        return replace(self, chain=chain)

    def only(self, kind: Kind) -> Self:
        """The same without the steps that a kind does not use; errors as in `as_kind`."""
        chain = self.as_kind(kind).chain
        return replace(self, steps={name: step for name, step in self.steps.items() if name == chain[: len(name)]})

    def save(self, path: Path) -> None:
        """Writes all of its steps as safetensors, whole or not at all."""
        layout = {"dimension": np.array(self.dimension, np.int64), "facing": np.array(self.facing, np.float64)}
        arrays: dict[str, NDArray[np.generic]] = {**layout, "widths": np.array(self.widths, np.int64)}
        for chain, step in self.steps.items():
            # An empty array marks the step, for those that learn nothing.
            arrays |= {f"{'+'.join(chain)}/{name}": array for name, array in {"": MARK, **step.arrays()}.items()}
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote; `as_kind` chooses a chain.

        Raises:
            PipelineError: the file is missing, cut or holds something else.
        """
        try:
            arrays = load_file(str(path))
            dimension, facing = int(arrays.pop("dimension")), float(arrays.pop("facing"))
            widths = tuple(arrays.pop("widths").tolist())
            found: dict[str, dict[str, NDArray[np.generic]]] = {}
            for key, array in arrays.items():
                chain, _, name = key.partition("/")
                found.setdefault(chain, {}).update({name: array} if name else {})
            steps = {
                tuple(chain.split("+")): load(STEPS[chain.split("+")[-1]]).of(some) for chain, some in found.items()
            }
            return cls(dimension, widths, facing, steps=steps)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as failure:
            raise PipelineError(f"{path}: can't be read as alignment ({failure}); run `dvc repro` again") from failure


def fit_pretext(
    folder: Path, widths: tuple[int, ...] = (), facing: float = 0.0, *, projected: bool = False
) -> Alignment:
    """All steps of all kinds, fitted on `pretext_photos.parquet` and `pretext_edges.parquet` of a folder of embeddings.

    Args:
        folder: of the embeddings.
        widths: as in `Alignment`.
        facing: as in `Alignment`. A mirrored photo and its mirrored edges are a pair like others.
        projected: as in `Alignment`.

    Raises:
        PipelineError: a table is missing, cut or empty, or the two do not hold the same images in the same order.
    """
    photos, edges = open_pretext(folder)
    found = Alignment(photos.dimension, widths, facing, projected).fitted(("mean",), photos, edges)
    if not np.array_equal(photos.labels.image_ids, edges.labels.image_ids):
        raise PipelineError(f"{edges.path}: holds other images than {photos.path}; run `dvc repro` again")
    for kind, chain in ALIGNMENTS.items():
        if kind not in TRANSDUCTIVE:
            found = found.fitted(chain, photos, edges)
    return found


def of_kind(kind: Kind, photos: EmbeddingTable, sketches: EmbeddingTable) -> Alignment:
    """The alignment of one kind for gallery `photos` and query `sketches` of one folder of embeddings.

    The folder holds `alignment.safetensors`, which also tells the parts that a vector joins, or else
    `pretext_photos.parquet` and `pretext_edges.parquet` to fit it on.

    Raises:
        PipelineError: what the kind needs is missing, empty or of another dimension.
    """
    if kind == "none":
        return Alignment(photos.dimension)
    path = photos.path.parent / FILE_NAME
    saved = Alignment.load(path) if path.exists() else None
    if saved is not None and saved.dimension != photos.dimension:
        raise PipelineError(
            f"{path}: means have {saved.dimension} numbers, but {photos.dimension} in {photos.path}; "
            "delete it and run `dvc repro` again"
        )
    if kind in TRANSDUCTIVE:
        layout = (saved.widths, saved.facing) if saved else ((), 0.0)
        return Alignment(photos.dimension, *layout).fitted(ALIGNMENTS[kind], photos, sketches)
    if saved is not None:
        return saved.as_kind(kind)
    return Alignment(photos.dimension).fitted(ALIGNMENTS[kind], *open_pretext(path.parent))
