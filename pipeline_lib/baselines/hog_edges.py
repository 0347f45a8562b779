"""HOG on edges: histograms of oriented gradients of blurred edge maps of both sides. Nothing is learned."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.baselines.hog import hog_vectors, photo_lines
from pipeline_lib.baselines.system import Benchmark, Domain, Embedder, Image, Training, Vectors, VectorSystem
from pipeline_lib.errors import PipelineError
from pipeline_lib.params import Params
from pipeline_lib.retrieval.alignment import FILE_NAME


@dataclass(frozen=True)
class HogOnEdges(VectorSystem):
    """Photos become Canny edge maps, sketches stay what they are; see `hog.hog_vector`."""

    code = ("baselines/hog.py",)

    def fit(self, training: Training, folder: Path) -> None:
        """Takes over the means that the pipeline fitted on all pretext pairs."""
        shutil.copyfile(made_by(training) / FILE_NAME, folder / FILE_NAME)

    def ready(self, benchmark: Benchmark) -> Path | None:
        """The pipeline's own row of the same name; Li 2014 is embedded here."""
        return None if benchmark.ratings is not None else made_by(benchmark.training)

    def embedder(self, folder: Path, settings: Params) -> Embedder:  # noqa: ARG002  nothing is learned
        """HOG of the lines, with the sizes of section `baselines`."""

        def embed(images: Sequence[Image], domain: Domain) -> Vectors:
            lines = [
                photo_lines(image.pixels, settings.edges) if domain == "photo" else image.pixels for image in images
            ]
            return hog_vectors(lines, settings.baselines)

        return embed


def made_by(training: Training) -> Path:
    """Where the baselines stage put its HOG vectors."""
    folder = training.model.parent / "baselines" / "hog"
    if not (folder / FILE_NAME).exists():
        raise PipelineError(f"{folder / FILE_NAME}: is missing; run `dvc repro baselines` first")
    return folder


SYSTEMS = (HogOnEdges("hog", "none"),)
