"""The interface behind which every compared system stands, and how systems are found.

A system is one file of this folder that ends in `SYSTEMS = (...)`. Nothing lists the files: a new one takes part as
soon as it is there. Each file is loaded in a process of its own, so it may import torch or faiss (not both).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline_lib.data.files import digest_of_file
from pipeline_lib.data.source import FileSource, Source
from pipeline_lib.params import Params
from pipeline_lib.retrieval.alignment import KINDS, Kind

FORMS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "pretext_csls")
"""Forms of most rows. How hubs are counted is a matter of the study of the default's method, not of all systems."""

Supervision = Literal["none", "imagenet", "classes", "pairs"]
Domain = Literal["photo", "sketch"]
Vectors = NDArray[np.float32]


class Image(NamedTuple):
    """One image that is embedded: its labels and pixels, uint8[H, W, 3] RGB, or uint8[H, W] for an edge map."""

    image_id: str
    class_name: str
    instance_id: str
    pixels: NDArray[np.uint8]


Embedder = Callable[[Sequence[Image], Domain], Vectors]
"""From images of one domain to float32[N, D]: finite, no row all zeros. Edge maps come as domain `sketch`."""

Projector = Callable[[Vectors, Domain], Vectors]
"""From vectors float32[N, D] of one domain to float32[N, K]."""


@dataclass(frozen=True)
class Run:
    """A finished run of the pipeline.

    Attributes:
        settings: its params.
        data: its artefacts: catalog, pairs, model, embeddings.
        base: the folder that relative paths of its params resolve from.
    """

    settings: Params
    data: Path
    base: Path


@dataclass(frozen=True)
class Training:
    """What a system may learn from; it belongs to one finished run of the pipeline.

    Attributes:
        name: of the run's data set; what a system learned is kept by it.
        settings: the run's params.
        source: reads the images of `catalog`.
        catalog: rows as in `schemas.CATALOG`: role pretext are the unlabelled photos.
        pairs: folder of shards with the pretext photos and their edge maps, columns as in `schemas.PAIRS`.
        model: folder that the train stage wrote.
        photos: catalog rows of the photos that a system under supervision may see. Empty where there are none.
        sketches: catalog rows of their sketches; `instance_id` is the `image_id` of the photo, so these are the pairs.
        joint: a run of the default's method, contrast beside context, on the same gallery and queries; None where there
            is none.
        base: the folder that a relative `train.weights_file` resolves from.
    """

    name: str
    settings: Params
    source: Source
    catalog: pd.DataFrame
    pairs: Path
    model: Path
    photos: pd.DataFrame
    sketches: pd.DataFrame
    joint: Run | None = None
    base: Path = Path()


@dataclass(frozen=True)
class Part:
    """A part of a benchmark that figures are given for.

    Attributes:
        name: what its rows say under `dataset`.
        gallery: image_ids of the photos that are searched.
        queries: image_ids of the sketches.
        unseen: whether it holds nothing of `Training.photos` and `sketches`, so that supervised systems are measured.
    """

    name: str
    gallery: frozenset[str]
    queries: frozenset[str]
    unseen: bool


@dataclass(frozen=True)
class Benchmark:
    """Photos to search and sketches to search with.

    Attributes:
        name: sketchy, openmoji, li2014 (photos cut to the object) or li2014_img (whole photos).
        training: what systems may learn from before they are measured here.
        source: reads the images.
        gallery: image_id, class_name, instance_id, path, domain, content; in the order of image_id.
        queries: likewise.
        parts: what is measured.
        ratings: float64[M, N], how much photo n is what sketch m shows, 0..8; NaN between classes. None unless Li 2014.
    """

    name: str
    training: Training
    source: Source | FileSource
    gallery: pd.DataFrame
    queries: pd.DataFrame
    parts: tuple[Part, ...]
    ratings: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class System(ABC):
    """What all systems tell of themselves. A subclass is a frozen dataclass; its fields are its settings.

    Attributes:
        name: of the row.
        supervision: the strongest labels it has seen: none, imagenet, classes or pairs.
        paired: whether it learns from `Training.photos` and `sketches`, so that only unseen parts are fair.
        uses_model: whether it reads `Training.model`, so that a new model makes its results void.
        code: files of the library, relative to `pipeline_lib`, that its results depend on besides its own file.
    """

    name: str
    supervision: Supervision
    paired: bool = field(default=False, kw_only=True)
    uses_model: bool = field(default=False, kw_only=True)
    code: ClassVar[tuple[str, ...]] = ()

    def inapplicable(self, benchmark: Benchmark) -> str:  # noqa: ARG002  what a subclass asks
        """Why there can be no row for this benchmark, for the table; "" where there can."""
        return ""

    def learned_from(self, training: Training) -> tuple[object, ...]:
        """What its results depend on besides images, params and code: the model it reads."""
        return (digest_of_file(training.model / "encoder.safetensors"),) if self.uses_model else ("",)

    def fit(self, training: Training, folder: Path) -> None:  # noqa: B027  most systems learn nothing
        """Learns, and writes what it learned to `folder`; it is called once, and again only if something changed.

        Args:
            training: what it may learn from.
            folder: empty, or left by a run that was cut off, so that long training can go on where it stopped.
        """


@dataclass(frozen=True)
class VectorSystem(System):
    """A system that makes a vector of every image.

    Attributes:
        forms: what is done to the vectors (kinds of alignment, `retrieval/alignment.py`), or how two are compared
            (`baselines/similarity.py`); one row each, the first under the bare name.
        processes: that embed at a time; 0 is one a core, for NumPy and OpenCV. 1 is this process, for torch, which has
            threads of its own.
    """

    forms: tuple[str, ...] = field(default=FORMS, kw_only=True)
    processes: int = field(default=0, kw_only=True)

    def ready(self, benchmark: Benchmark) -> Path | None:  # noqa: ARG002  what a subclass asks
        """A folder of embeddings of this benchmark that the pipeline has made already; None where there is none.

        It holds `photos.parquet`, `sketches.parquet`, `alignment.safetensors` and `system.json`, as the embed stage
        writes them.
        """
        return None

    @abstractmethod
    def embedder(self, folder: Path, settings: Params) -> Embedder:
        """The function from images to vectors; made once a process and called with up to 64 images of one domain.

        Args:
            folder: what `fit` wrote; everything learned comes from there.
            settings: the params of the run that `fit` was given.
        """


@dataclass(frozen=True)
class ProjectedSystem(VectorSystem):
    """A system whose vectors are another row's, projected. That row embeds the images once for all that project it."""

    def __post_init__(self) -> None:
        # The pretext pairs' vectors are not kept, so there is nothing to take their means over.
        if "pretext_mean" in self.forms:
            raise ValueError(f"{self.name}: vectors that are projected have no form pretext_mean")

    @property
    @abstractmethod
    def stored(self) -> VectorSystem:
        """The row whose vectors are projected, as its own file lists it; it is run first if need be."""

    @abstractmethod
    def projector(self, folder: Path) -> Projector:
        """The function from that row's vectors to this one's; called with some 1,000 at a time.

        Args:
            folder: what `fit` wrote.
        """


@dataclass(frozen=True)
class ScoreSystem(System):
    """A system that scores pairs of a sketch and a photo, and has no vectors."""

    @abstractmethod
    def score(self, benchmark: Benchmark, folder: Path, scratch: Path) -> tuple[NDArray[np.float32], float]:
        """Scores all photos for all sketches.

        Args:
            benchmark: what is scored.
            folder: what `fit` wrote.
            scratch: for what should outlive a run that is cut off; keyed by the inputs.

        Returns:
            float32[M, N], rows as `benchmark.queries`, columns as `benchmark.gallery`; higher is better, -inf for what
            can't be scored. And the seconds that the whole gallery took.
        """


def system_modules(folder: Path | None = None) -> list[str]:
    """Names of the files that hold systems, in order: those with a line that begins `SYSTEMS`."""
    place = folder or Path(__file__).parent
    marked = (
        path for path in sorted(place.glob("*.py")) if re.search(r"^SYSTEMS\b", path.read_text("utf-8"), re.MULTILINE)
    )
    return [path.stem for path in marked]
