"""Ours: fc6 of the context predictor that the pipeline trained, and of the same network before its first step.

`joint_fc6` is fc6 of the pipeline's default, a network that learned contrast beside context. It comes from a run of its
own on the same images.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline_lib.baselines.system import Benchmark, Domain, Embedder, Image, Training, Vectors, VectorSystem
from pipeline_lib.data.files import digest_of_file, read_json, write_json
from pipeline_lib.errors import PipelineError
from pipeline_lib.models import earlier
from pipeline_lib.models.device import use_threads
from pipeline_lib.params import Embed, Params
from pipeline_lib.retrieval.alignment import FILE_NAME
from pipeline_lib.retrieval.encode import load_encoder, prepare
from pipeline_lib.retrieval.networks import Network, Networks
from pipeline_lib.retrieval.vectors import EmbeddingTable

EMBED = "embed.json"


@dataclass(frozen=True)
class ContextPredictor(VectorSystem):
    """fc6 of whole images, as the embed stage makes it, under the alignment that the embed stage fitted.

    Attributes:
        weights: file of the model folder.
        aligned_by: folder beside the model folder that holds the fitted means.
    """

    weights: str = "encoder.safetensors"
    aligned_by: str = "embeddings"
    code = ("models/encoder.py", "retrieval/encode.py", "retrieval/fc6.py", "retrieval/networks.py")

    def run(self, training: Training) -> tuple[Path, Params]:
        """The folder of the run's artefacts and its params; asked for where `inapplicable` finds no reason."""
        return training.model.parent, training.settings

    def learned_from(self, training: Training) -> tuple[object, ...]:
        """The model and the sizes at which its run embeds."""
        data, settings = self.run(training)
        embed = settings.embed.model_dump(exclude={"threads"})
        return digest_of_file(data / "model" / self.weights), embed

    def inapplicable(self, benchmark: Benchmark) -> str:
        """Runs that do not evaluate this system."""
        made = self.run(benchmark.training)[0] / self.aligned_by
        return "" if made.exists() else f"{made.name} was not embedded in this run"

    def fit(self, training: Training, folder: Path) -> None:
        """Takes over what the pipeline has learned."""
        data, settings = self.run(training)
        model = data / "model"
        for path in (model / self.weights, model / "meta.json", data / self.aligned_by / FILE_NAME):
            try:
                shutil.copyfile(path, folder / path.name)
            except OSError as failure:
                raise PipelineError(f"{path}: can't be read ({failure.strerror}); run `dvc repro` first") from failure
        write_json(folder / EMBED, settings.embed.model_dump())

    def ready(self, benchmark: Benchmark) -> Path | None:
        """The pipeline's own embeddings, where it has embedded the benchmark's images; Li 2014 is embedded here."""
        return None if benchmark.ratings is not None else self.run(benchmark.training)[0] / self.aligned_by

    def embedder(self, folder: Path, settings: Params) -> Embedder:
        """fc6 with the sizes of section `embed` of its run, by torch in this process."""
        use_threads(settings.embed.threads)
        sizes = Embed.model_validate(earlier.embed(read_json(folder / EMBED)))
        loaded = load_encoder(folder, self.weights)
        network = Networks((Network(loaded, sizes),)).embed

        @torch.inference_mode()
        def embed(images: Sequence[Image], domain: Domain) -> Vectors:  # noqa: ARG001  one network for both
            batch = torch.cat([prepare(image.pixels, sizes.largest, loaded.train) for image in images])
            vectors: Vectors = network(batch.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
            return vectors

        return embed


@dataclass(frozen=True)
class JointPredictor(ContextPredictor):
    """The same of the run that learned contrast beside context."""

    def run(self, training: Training) -> tuple[Path, Params]:
        """Of `Training.joint`."""
        assert training.joint is not None  # noqa: S101  `inapplicable` comes first
        return training.joint.data, training.joint.settings

    def inapplicable(self, benchmark: Benchmark) -> str:
        """No such run, or one on other images, such as one's own photos where the default's run was."""
        if benchmark.training.joint is None:
            return "no run of the default on these images was given"
        reason = super().inapplicable(benchmark)
        made = self.ready(benchmark)
        if reason or made is None:
            return reason
        for name, frame in (("photos", benchmark.gallery), ("sketches", benchmark.queries)):
            if EmbeddingTable.open(made / f"{name}.parquet").labels.image_ids.tolist() != frame["image_id"].tolist():
                return f"the given run of the default embedded other {name}"
        return ""


# The row that bears the bare name is the one under the run's own alignment.
FORMS = ("pretext_mean", "none", "pretext_whitened", "transductive_mean")
SYSTEMS = (
    ContextPredictor("context_fc6", "imagenet", forms=FORMS, processes=1),
    JointPredictor(
        "joint_fc6",
        "imagenet",
        forms=("pretext_whitened", "none", "pretext_mean", "transductive_mean"),
        processes=1,
    ),
    ContextPredictor(
        "untrained_fc6",
        "imagenet",
        weights="start.safetensors",
        aligned_by="baselines/untrained_fc6",
        forms=FORMS,
        processes=1,
    ),
)
