"""Ours: fc6 of the context predictor that the pipeline trained, and of the same network before its first step."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline_lib.baselines.system import Benchmark, Domain, Embedder, Image, Training, Vectors, VectorSystem
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.device import use_threads
from pipeline_lib.params import Params
from pipeline_lib.retrieval.alignment import FILE_NAME, Alignment
from pipeline_lib.retrieval.encode import fc6_of, load_encoder, prepare


@dataclass(frozen=True)
class ContextPredictor(VectorSystem):
    """fc6 of whole images, as the embed stage makes it, under the alignment that the embed stage fitted.

    Attributes:
        weights: file of the model folder.
        aligned_by: folder beside the model folder that holds the fitted means.
    """

    weights: str = "encoder.safetensors"
    aligned_by: str = "embeddings"
    code = ("models/encoder.py", "retrieval/encode.py")

    def inapplicable(self, benchmark: Benchmark) -> str:
        """Runs whose embed stage fitted no whitening, and those that do not evaluate this system."""
        fitted = benchmark.training.model.parent / self.aligned_by / FILE_NAME
        if not fitted.parent.exists():
            return f"{fitted.parent.name} was not embedded in this run"
        if "pretext_whitened" in self.forms and Alignment.load(fitted).directions is None:
            return "the run's images were embedded before its alignment had a whitening; run its embed stage again"
        return ""

    def fit(self, training: Training, folder: Path) -> None:
        """Takes over what the pipeline has learned."""
        home = training.model.parent
        for path in (training.model / self.weights, training.model / "meta.json", home / self.aligned_by / FILE_NAME):
            try:
                shutil.copyfile(path, folder / path.name)
            except OSError as failure:
                raise PipelineError(f"{path}: can't be read ({failure.strerror}); run `dvc repro` first") from failure

    def ready(self, benchmark: Benchmark) -> Path | None:
        """The pipeline's own embeddings, where it has embedded the benchmark's images; Li 2014 is embedded here."""
        return None if benchmark.ratings is not None else benchmark.training.model.parent / self.aligned_by

    def embedder(self, folder: Path, settings: Params) -> Embedder:
        """fc6 with the sizes of section `embed`, by torch in this process."""
        use_threads(settings.embed.threads)
        loaded = load_encoder(folder, self.weights)
        network = fc6_of(loaded, settings.embed)

        @torch.inference_mode()
        def embed(images: Sequence[Image], domain: Domain) -> Vectors:  # noqa: ARG001  one network for both
            batch = torch.cat([prepare(image.pixels, settings.embed.image_size, loaded.train) for image in images])
            vectors: Vectors = network(batch.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
            return vectors

        return embed


# The row that bears the bare name is the one under our alignment.
FORMS = ("pretext_mean", "none", "transductive_mean")
SYSTEMS = (
    ContextPredictor("context_fc6", "imagenet", forms=FORMS, processes=1, uses_model=True),
    ContextPredictor("context_fc6_whitened", "imagenet", forms=("pretext_whitened",), processes=1, uses_model=True),
    ContextPredictor(
        "untrained_fc6",
        "imagenet",
        weights="start.safetensors",
        aligned_by="baselines/untrained_fc6",
        forms=FORMS,
        processes=1,
        uses_model=True,
    ),
)
