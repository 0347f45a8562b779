"""The losses on sketch-photo pairs, over all pairs of a batch, the training step and the loop.

With D the distance of unit vectors, 0..2, and every photo of a batch that is not the one drawn as a negative:

- contrastive (Hadsell, Chopra and LeCun 2006), of the Siamese network: D^2 for pairs, max(0, m - D)^2 for others;
- triplet (Wang et al. 2014): max(0, m + D(sketch, its photo) - D(sketch, another photo)).

The Sketchy paper draws one negative per sketch; comparing with the whole batch takes no more encoder passes and gives
each sketch tens of them (Hermans, Beyer and Leibe 2017, whose mean over the terms that are not zero is taken).

Training resumes to the bit, as everything random is a function of seed, epoch and step.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from pipeline_lib.baselines.supervised.batches import Batch, PairBatches
from pipeline_lib.baselines.supervised.network import TwoBranches, parameter_groups
from pipeline_lib.baselines.supervised.recipe import Recipe
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.device import autocast
from pipeline_lib.models.inputs import normalise
from pipeline_lib.params import Train
from pipeline_lib.training.checkpoint import Progress, restore, save

# The root's slope is infinite at 0.
SMALLEST_SQUARE = 1e-6


def distances(sketches: Tensor, photos: Tensor) -> Tensor:
    """Euclidean distances of unit vectors.

    Args:
        sketches: float[M, D], of any length.
        photos: float[N, D], of any length.

    Returns:
        float[M, N] in 0..2.
    """
    cosine = functional.normalize(sketches) @ functional.normalize(photos).T
    return (2 - 2 * cosine).clamp_min(SMALLEST_SQUARE).sqrt()


def contrastive(distance: Tensor, drawn: Tensor, margin: float) -> Tensor:
    """Mean over pairs plus mean over the other combinations that are nearer than the margin.

    Args:
        distance: float[M, N], as `distances` gives.
        drawn: int64[M], which of the N photos each sketch depicts.
        margin: m.
    """
    own = _own(distance, drawn)
    others = (margin - distance[~own]).clamp_min(0)
    return distance[own].square().mean() + _mean_of_active(others.square())


def triplet(distance: Tensor, drawn: Tensor, margin: float) -> Tensor:
    """Mean over the triplets whose negative is not farther by the margin; arguments as in `contrastive`."""
    own = _own(distance, drawn)
    gaps = margin + distance[own][:, None] - distance
    return _mean_of_active(gaps[~own].clamp_min(0))


def _own(distance: Tensor, drawn: Tensor) -> Tensor:
    return torch.arange(distance.shape[1], device=distance.device) == drawn[:, None]


def _mean_of_active(values: Tensor) -> Tensor:
    return values.sum() / (values > 0).sum().clamp_min(1)


LOSSES = {"contrastive": contrastive, "triplet": triplet}


@dataclass(frozen=True)
class Where:
    """Device, precision and threads."""

    device: torch.device
    precision: str
    threads: int


def inputs(pixels: NDArray[np.uint8], settings: Train, device: torch.device) -> Tensor:
    """uint8[N, size, size(, 3)] as the encoder's input."""
    images = normalise(torch.from_numpy(np.ascontiguousarray(pixels)).to(device), settings)
    return images.contiguous(memory_format=torch.channels_last)


def train_step(
    network: TwoBranches,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    recipe: Recipe,
    settings: Train,
    where: Where,
) -> tuple[float, float, float]:
    """Forward, backward and update on one batch.

    Args:
        network: in training mode.
        optimiser: over its parameters.
        batch: images.
        recipe: loss, margin, weight of the classes.
        settings: section `train` of the encoder (colour, normalisation).
        where: device and precision.

    Returns:
        Pair loss, class loss, and the share of sketches whose nearest photo of the batch is their own.
    """
    drawn = torch.from_numpy(batch.drawn).to(where.device)
    classes = torch.from_numpy(batch.photo_classes).to(where.device)
    with autocast(where.device, where.precision):
        photos, sketches, logits = network(
            inputs(batch.photos, settings, where.device), inputs(batch.sketches, settings, where.device)
        )
    distance = distances(sketches.float(), photos.float())
    pair = LOSSES[recipe.loss](distance, drawn, recipe.margin)
    named = functional.cross_entropy(logits.float(), torch.cat([classes, classes[drawn]]))
    optimiser.zero_grad(set_to_none=True)
    (pair + recipe.class_weight * named).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    found = (distance.detach().argmin(dim=1) == drawn).float().mean()
    return float(pair.detach()), float(named.detach()), float(found)


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up to the peak, then half a cosine to 0."""
    warmup = max(1, round(recipe.warmup * steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    network: TwoBranches, batches: PairBatches, recipe: Recipe, settings: Train, where: Where, checkpoint: Path
) -> list[dict[str, float]]:
    """Trains a network in place.

    Args:
        network: before its first step; a checkpoint takes its place.
        batches: of training photos and sketches.
        recipe: how.
        settings: section `train` of the encoder.
        where: device, precision, threads.
        checkpoint: file from which an interrupted training resumes.

    Returns:
        A row per epoch: pair loss, class loss, share of sketches that find their photo in the batch.

    Raises:
        PipelineError: there are fewer photos than a batch holds, or the loss is not finite.
    """
    if batches.steps == 0:
        raise PipelineError(
            f"{len(batches.photos.image_ids)} training photos are fewer than a batch of {recipe.photos}"
        )
    torch.backends.cudnn.deterministic = True
    groups = parameter_groups(network, recipe)
    optimiser = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)
    progress = restore(checkpoint, network, optimiser, where.threads, where.device.type) or Progress()
    steps = batches.steps * recipe.epochs
    network.train()
    clock = time.monotonic()
    done = progress.epoch * batches.steps + progress.step
    with tqdm(total=steps, initial=done, desc=f"train {recipe.loss}", unit="batch", mininterval=1.0) as bar:
        while progress.epoch < recipe.epochs:
            number = progress.epoch * batches.steps + progress.step
            for group in optimiser.param_groups:
                group["lr"] = group["factor"] * learning_rate(number, steps, recipe)
            batch = batches.batch(progress.epoch, progress.step)
            values = train_step(network, optimiser, batch, recipe, settings, where)
            if not math.isfinite(values[0] + values[1]):
                raise PipelineError(f"training diverged in epoch {progress.epoch + 1}; lower the learning rate")
            progress.add(dict(zip(("pair_loss", "class_loss", "found"), values, strict=True)))
            bar.update(1)
            if progress.step == batches.steps:
                progress.finish_epoch({"epoch": progress.epoch + 1, **progress.means()})
                bar.set_postfix(found=f"{progress.history[-1]['found']:.3f}")
            if time.monotonic() - clock >= recipe.checkpoint_seconds:
                progress.seconds += time.monotonic() - clock
                save(checkpoint, network, optimiser, progress, where.threads, where.device.type)
                clock = time.monotonic()
    progress.seconds += time.monotonic() - clock
    save(checkpoint, network, optimiser, progress, where.threads, where.device.type)
    return progress.history
