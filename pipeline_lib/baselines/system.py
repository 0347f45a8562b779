"""The interface behind which every compared system stands, and how systems are found.

A system is one file of this folder that ends in `SYSTEMS = (...)`. Nothing lists the files: a new one takes part as
soon as it is there. Each file is loaded in a process of its own, so it may import torch or faiss (not both).
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline_lib.data.source import FileSource, Source
from pipeline_lib.params import Params
from pipeline_lib.registry import ALIGNMENTS
from pipeline_lib.run import Run

RECORD: Final = "system.json"
SKIPPED: Final = "skipped.json"
"""What lies in a folder of results: their record, or why there are none."""

FORMS: tuple[str, ...] = tuple(kind for kind, steps in ALIGNMENTS.items() if "hubness" not in steps)
"""Forms of most rows; hubness correction is studied with the default's method alone."""

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
class Training:
    """What a system may learn from: one finished run of the pipeline, and the images that it was made from."""

    name: str  # of the run's data set; what a system learned is kept under it
    run: Run  # the run
    source: Source  # reads the images of `catalog`
    catalog: pd.DataFrame  # rows as in `schemas.CATALOG`; those with role pretext are the unlabelled photos
    photos: pd.DataFrame  # catalog rows of the photos that a supervised system may see. Empty where there are none
    # catalog rows of their sketches; `instance_id` is the `image_id` of the photo, so these are the pairs.
    sketches: pd.DataFrame
    # all finished runs on the same data set by their names, `run` among them: what they embed is compared, too.
    runs: Mapping[str, Run] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A part of a benchmark that has figures of its own."""

    name: str  # what its rows say under `dataset`
    gallery: frozenset[str]  # image_ids of the photos that are searched
    queries: frozenset[str]  # image_ids of the sketches
    # whether it holds nothing of `Training.photos` and `sketches`, so that supervised systems are measured.
    unseen: bool


@dataclass(frozen=True)
class Benchmark:
    """Photos to search and sketches to search with."""

    name: str  # sketchy, openmoji, li2014 (photos cut to the object) or li2014_img (whole photos)
    training: Training  # what systems may learn from before they are measured here
    source: Source | FileSource  # reads the images
    gallery: pd.DataFrame  # image_id, class_name, instance_id, path, domain, content; in the order of image_id
    queries: pd.DataFrame  # likewise
    parts: tuple[Part, ...]  # what is measured
    # float64[M, N], how similar people found sketch m and photo n, 0..8; NaN between classes. None unless Li 2014.
    ratings: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class System(ABC):
    """What every system says about itself. A subclass is a frozen dataclass; its fields are its settings."""

    name: str  # of the row
    supervision: Supervision  # the strongest labels it has seen: none, imagenet, classes or pairs
    # whether it learns from `Training.photos` and `sketches`, so that only unseen parts are fair.
    paired: bool = field(default=False, kw_only=True)

    def inapplicable(self, benchmark: Benchmark) -> str:  # noqa: ARG002  what a subclass asks
        """Why this benchmark has no row of it, for the table; "" where it has."""
        return ""

    def learned_from(self, training: Training) -> tuple[object, ...]:  # noqa: ARG002  what a subclass asks
        """What its results depend on besides images, params and code, such as the weights that it starts from."""
        return ()

    def fit(self, training: Training, folder: Path) -> None:  # noqa: B027  most systems learn nothing
        """Learns, and writes what it learned to `folder`. Called once, and again only if something changed.

        Args:
            training: what it may learn from.
            folder: empty, or left by a call that was interrupted, so that long training can resume.
        """


@dataclass(frozen=True)
class VectorSystem(System):
    """A system that makes a vector of every image."""

    # how vectors are aligned (`registry.ALIGNMENTS`) or histograms compared (`evaluation/similarity.py`); a row each,
    # the first under the bare name.
    forms: tuple[str, ...] = field(default=FORMS, kw_only=True)
    # that embed at a time: 0 for one per core, as NumPy and OpenCV need; 1 for this process alone, as torch has
    # threads of its own.
    processes: int = field(default=0, kw_only=True)

    def forms_on(self, training: Training) -> tuple[str, ...]:  # noqa: ARG002  what a subclass asks
        """Its `forms` in the order of its rows."""
        return self.forms

    def ready(self, benchmark: Benchmark) -> Path | None:  # noqa: ARG002  what a subclass asks
        """A folder of embeddings of this benchmark that the pipeline has made already; None where there is none.

        It holds `photos.parquet`, `sketches.parquet`, `alignment.safetensors` and `system.json`, as the embed stage
        writes them.
        """
        return None

    @abstractmethod
    def embedder(self, folder: Path, settings: Params) -> Embedder:
        """The function from images to vectors; made once per process and called with up to 64 images of one domain.

        Args:
            folder: what `fit` wrote; everything learned comes from there.
            settings: params of the run that `fit` was given.
        """


@dataclass(frozen=True)
class ProjectedSystem(VectorSystem):
    """A system that projects another row's vectors, which are made once for all systems that project them."""

    def __post_init__(self) -> None:
        # Vectors of the pretext pairs are not kept, so there are no means of them.
        if "pretext_mean" in self.forms:
            raise ValueError(f"{self.name}: projected vectors have no form pretext_mean")

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
            scratch: for what should survive an interruption; its name is a key of the inputs.

        Returns:
            float32[M, N], rows as `benchmark.queries`, columns as `benchmark.gallery`; higher is better, -inf for what
            can't be scored. And the seconds that the whole gallery took.
        """


def system_modules(folder: Path | None = None) -> list[str]:
    """Names of the files that hold systems, in order: those with a line that begins `SYSTEMS`."""
    files = sorted((folder or Path(__file__).parent).glob("*.py"))
    return [path.stem for path in files if re.search(r"^SYSTEMS\b", path.read_text("utf-8"), re.MULTILINE)]
