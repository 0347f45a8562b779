"""Ours: what the pipeline's runs embed, each under the name of its run, and the same networks before training."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline_lib.baselines.system import (
    FORMS,
    Benchmark,
    Domain,
    Embedder,
    Image,
    Supervision,
    Training,
    Vectors,
    VectorSystem,
)
from pipeline_lib.embedding.alignment import FILE_NAME
from pipeline_lib.embedding.networks import fc6_of, open_networks
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.files import digest_of_file, read_json, write_json
from pipeline_lib.models.device import use_threads
from pipeline_lib.models.inputs import prepare
from pipeline_lib.models.saved import START, load_encoder
from pipeline_lib.params import Params, fingerprint
from pipeline_lib.run import WEIGHTS, Run

PLACE = "run.json"
UNTRAINED = "-untrained"


@dataclass(frozen=True)
class TrainedRun(VectorSystem):
    """What a run of this name embeds, under the alignment that it fitted."""

    supervision: Supervision = "imagenet"
    processes: int = field(default=1, kw_only=True)
    weights: ClassVar[str] = WEIGHTS

    def run(self, training: Training) -> Run:
        """The run; asked for where `inapplicable` finds no reason."""
        return training.runs[self.name.removesuffix(UNTRAINED)]

    def made(self, run: Run) -> Path:
        """The folder of its vectors and alignment in the run."""
        return run.embeddings

    def functions(self, run: Run) -> tuple[Callable[[NDArray[np.uint8]], Tensor], Callable[[Tensor], Tensor]]:
        """From pixels to a prepared image, float32[1, 3, H, W], and from N of these to vectors, float[N, D]."""
        networks = open_networks(run)
        return networks.prepare, networks.embed

    def inapplicable(self, benchmark: Benchmark) -> str:
        """A run that was not given, lacks these vectors or embedded other images."""
        if self.name.removesuffix(UNTRAINED) not in benchmark.training.runs:
            return "no run of this name on these images was given"
        run = self.run(benchmark.training)
        if not (self.made(run) / FILE_NAME).exists():
            return f"{self.made(run).name} was not embedded in this run"
        if benchmark.ratings is None:
            for name, frame in (("photos", benchmark.gallery), ("sketches", benchmark.queries)):
                labels = EmbeddingTable.open(self.made(run) / f"{name}.parquet").labels
                if labels.image_ids.tolist() != frame["image_id"].tolist():
                    return f"the given run of this name embedded other {name}"
        return ""

    def learned_from(self, training: Training) -> tuple[object, ...]:
        """The weights, how the run embeds, and how it aligns."""
        run = self.run(training)
        files = (run.model / self.weights, self.made(run) / FILE_NAME)
        embed = fingerprint(run.params.embed, {"threads"})
        return *map(digest_of_file, files), embed, run.params.retrieval.alignment

    def forms_on(self, training: Training) -> tuple[str, ...]:
        """The run's own alignment first: its row bears the bare name."""
        own = self.run(training).params.retrieval.alignment
        return (own, *(form for form in FORMS if form != own))

    def fit(self, training: Training, folder: Path) -> None:
        """Takes over the alignment, and where the run is."""
        run = self.run(training)
        shutil.copyfile(self.made(run) / FILE_NAME, folder / FILE_NAME)
        write_json(folder / PLACE, {"folder": str(run.folder.resolve()), "root": str(run.root)})

    def ready(self, benchmark: Benchmark) -> Path | None:
        """The run's own embeddings of the benchmark's images; Li 2014 is embedded here."""
        return None if benchmark.ratings is not None else self.made(self.run(benchmark.training))

    def embedder(self, folder: Path, settings: Params) -> Embedder:
        """As section `embed` of the run says, by torch in this process."""
        use_threads(settings.embed.threads)
        place = read_json(folder / PLACE)
        prepared, network = self.functions(Run.open(Path(place["folder"]), Path(place["root"])))

        @torch.inference_mode()
        def embed(images: Sequence[Image], domain: Domain) -> Vectors:  # noqa: ARG001  one network for both
            batch = torch.cat([prepared(image.pixels) for image in images])
            vectors: Vectors = network(batch.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
            return vectors

        return embed


@dataclass(frozen=True)
class UntrainedRun(TrainedRun):
    """fc6 of the same network before its first step."""

    weights: ClassVar[str] = START

    def made(self, run: Run) -> Path:
        """What the baselines stage wrote."""
        return run.folder / "baselines" / "untrained"

    def functions(self, run: Run) -> tuple[Callable[[NDArray[np.uint8]], Tensor], Callable[[Tensor], Tensor]]:
        """As the baselines stage embeds."""
        loaded, settings = load_encoder(run.model, run.params, START), run.params.embed
        return lambda pixels: prepare(pixels, settings.largest, loaded.train), fc6_of(loaded, settings)


SYSTEMS = (
    *(TrainedRun(name) for name in ("source", "default", "voc-sketchy", "default-sketchy")),
    *(UntrainedRun(f"{name}{UNTRAINED}") for name in ("source", "voc-sketchy")),
)
