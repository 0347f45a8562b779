"""Siamese and triplet networks (Sangkloy et al. 2016), trained on the training part of the sketch-photo pairs.

What they start from shows whether context prediction helps as pretraining: `siamese_alexnet` and `triplet_alexnet`
start from the network that the pipeline starts from, `..._from_context` from the same network after context prediction.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline_lib.baselines.embedding import from_rows
from pipeline_lib.baselines.supervised.batches import PairBatches, Pixels, square, write
from pipeline_lib.baselines.supervised.network import build, load, save
from pipeline_lib.baselines.supervised.recipe import Recipe
from pipeline_lib.baselines.supervised.training import Where, inputs, train
from pipeline_lib.baselines.system import Benchmark, Domain, Embedder, Image, Training, Vectors, VectorSystem
from pipeline_lib.files import digest_of_file, read_json, write_json
from pipeline_lib.models.device import choose_device, choose_precision, keep_freed_memory, use_threads
from pipeline_lib.params import Params

NETWORK = "network.safetensors"
RECORD = "training.json"


@dataclass(frozen=True)
class PairNetwork(VectorSystem):
    """One supervised network."""

    recipe: Recipe  # how it is built and trained

    @classmethod
    def of(cls, name: str, recipe: Recipe) -> Self:
        """The row of a recipe."""
        return cls(name, "pairs", paired=True, forms=("none",), processes=1, recipe=recipe)

    def learned_from(self, training: Training) -> tuple[object, ...]:
        """The run's model, where it starts from that."""
        return (digest_of_file(training.run.weights),) if self.recipe.start != "none" else ()

    def inapplicable(self, benchmark: Benchmark) -> str:
        """It needs pairs to learn from, and start weights that are what its name says."""
        train_section = benchmark.training.run.params.train
        if not len(benchmark.training.photos):
            return "no training part: every drawn picture is searched"
        if self.recipe.start != "none" and (train_section.encoder, train_section.pretrained) != ("alexnet", "conv5"):
            return "starts from the pipeline's network, which here is no AlexNet with pretrained convolutions"
        return ""

    def fit(self, training: Training, folder: Path) -> None:
        """Scales the images once, then trains; both resume after an interruption."""
        settings, recipe = training.run.params, self.recipe
        keep_freed_memory()
        threads = use_threads(settings.train.threads)
        device = choose_device(settings.train)
        where = Where(device, choose_precision(settings.train, device), threads)
        photos = _scaled(folder, "photo", training.photos, training, recipe.image_size)
        sketches = _scaled(folder, "sketch", training.sketches, training, recipe.image_size)
        names, classes = np.unique(training.photos["class_name"].to_numpy(str), return_inverse=True)
        row = {image_id: number for number, image_id in enumerate(photos.image_ids)}
        drawn = np.array([row[name] for name in training.sketches["instance_id"]], np.int64)
        batches = PairBatches(photos, sketches, drawn, classes.astype(np.int64), recipe)
        network = build(recipe, settings, training.run.model, len(names)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        checkpoint = folder / "checkpoint.pt"
        history = train(network, batches, recipe, settings.train, where, checkpoint)
        save(network, folder / NETWORK)
        record = {
            "recipe": recipe.model_dump(),
            "photos": len(photos.image_ids),
            "sketches": len(sketches.image_ids),
            "classes": names.tolist(),
            "precision": where.precision,
            "device": device.type,
            "history": history,
        }
        write_json(folder / RECORD, record)
        for path in (checkpoint, *(folder / f"{domain}.parquet" for domain in ("photo", "sketch"))):
            path.unlink()

    def embedder(self, folder: Path, settings: Params) -> Embedder:
        """The embedding, by torch in this process."""
        use_threads(settings.embed.threads)
        record = read_json(folder / RECORD)
        network = build(self.recipe, settings, None, len(record["classes"]))
        load(network, folder / NETWORK)
        device = choose_device(settings.train)
        network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

        @torch.inference_mode()
        def embed(images: Sequence[Image], domain: Domain) -> Vectors:
            scaled = np.stack([square(image.pixels, self.recipe.image_size, domain) for image in images])
            vectors: Vectors = network.embed(inputs(scaled, settings.train, device), domain).float().cpu().numpy()
            return vectors

        return embed


def _scaled(folder: Path, domain: Domain, rows: pd.DataFrame, training: Training, size: int) -> Pixels:
    path = folder / f"{domain}.parquet"

    def images() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for given in from_rows(rows, training.source):
            yield from ((image.image_id, image.pixels) for image in given)

    if not path.exists():
        write(path, images(), size, domain)
    return Pixels.open(path)


_SIAMESE = partial(Recipe, loss="contrastive", margin=1.0)
_TRIPLET = partial(Recipe, loss="triplet", margin=0.3)
SYSTEMS = (
    PairNetwork.of("siamese_alexnet", _SIAMESE(start="imagenet")),
    PairNetwork.of("triplet_alexnet", _TRIPLET(start="imagenet")),
    PairNetwork.of("siamese_alexnet_from_context", _SIAMESE(start="context")),
    PairNetwork.of("triplet_alexnet_from_context", _TRIPLET(start="context")),
    PairNetwork.of("triplet_alexnet_two_branches", _TRIPLET(start="imagenet", shared=False)),
    # From random weights: torchvision's weights for this layout are in no package registry.
    PairNetwork.of("siamese_resnet18_scratch", _SIAMESE(start="none", layout="resnet18")),
    PairNetwork.of("triplet_resnet18_scratch", _TRIPLET(start="none", layout="resnet18")),
)
