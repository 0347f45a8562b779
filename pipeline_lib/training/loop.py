"""The training loop: from start weights to a trained context network, resumable to the bit.

Every random choice is a function of the seed and the step's number, so a checkpoint needs no random state.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.models import weights
from pipeline_lib.models.calibration import calibrate
from pipeline_lib.models.context import ContextNet
from pipeline_lib.models.device import choose_device, choose_precision, keep_freed_memory, use_threads
from pipeline_lib.pretext.batches import Batch, PatchShards, pair_table
from pipeline_lib.training import checkpoint
from pipeline_lib.training.checkpoint import Progress
from pipeline_lib.training.step import Pairs, inputs_of, train_step
from pipeline_lib.training.validation import Predictions, predict

CALIBRATION_IMAGES = 512
"""Images whose patches set the BatchNorm of pretrained layers: 4,096 patches, 2 million places at conv1."""


@dataclass(frozen=True)
class Trained:
    """A trained network and how it got there."""

    model: ContextNet
    start: dict[str, torch.Tensor]  # the encoder's state before the first step
    history: list[dict[str, float]]
    predictions: Predictions  # on all draws of the held-out images
    origin: str  # of the start weights
    precision: str
    device: str
    seconds: float


def learning_rate(step: int, steps: int, settings: params.Train) -> float:
    """Linear warm-up to the peak, then half a cosine to 0 (Loshchilov and Hutter 2017)."""
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def seed_of(settings: params.Train, step: int) -> int:
    """The seed of everything random in a step (dropout, colour dropping); step -1 draws the start weights."""
    return (settings.seed * 1_000_003 + step + 1) % (1 << 62)


def start_network(
    settings: params.Train, shards: PatchShards, base: Path, device: torch.device
) -> tuple[ContextNet, str]:
    """The network before its first step, and where its pretrained layers come from."""
    torch.manual_seed(seed_of(settings, -1))
    table = pair_table(settings.domain)
    model = ContextNet(settings, shards.size, torch.from_numpy(table.first), torch.from_numpy(table.second))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    start = weights.load(settings, base)
    if start is None:
        return model, "none (He initialisation)"
    weights.apply(start, model.encoder, settings.pretrained)
    if settings.batch_norm and settings.batch_norm_init == "calibrated":
        batches = shards.epoch(0, settings.batch_images, shuffle=(settings.seed, "calibration"))
        limit = -(-CALIBRATION_IMAGES // settings.batch_images)
        calibrate(
            model.encoder,
            settings.pretrained,
            (inputs_of(batch, settings, device, None) for _, batch in zip(range(limit), batches, strict=False)),
        )
    return model, start.origin


def make_optimiser(model: ContextNet, settings: params.Train) -> torch.optim.SGD:
    """SGD with momentum; pretrained layers may learn at a rate of their own, norms and biases do not decay."""
    pretrained = {
        id(value)
        for number in model.encoder.pretrained_convs(settings.pretrained)
        for layer in (model.encoder.conv(number), model.encoder.conv_norm(number))
        for value in layer.parameters()
    }
    if settings.pretrained == "fc6":
        pretrained |= {id(value) for value in (*model.encoder.fc6.parameters(), *model.encoder.fc6_norm.parameters())}
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for value in model.parameters():
        factor = settings.pretrained_rate if id(value) in pretrained else 1.0
        decay = settings.weight_decay if value.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(value)
    return torch.optim.SGD(
        [{"params": group, "factor": key[0], "weight_decay": key[1]} for key, group in groups.items()],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        fused=True,  # reads and writes each weight once
    )


def train(
    settings: params.Train, patches: Path, train_ids: list[str], val_ids: list[str], base: Path, scratch: Path
) -> Trained:
    """Trains a context network.

    Args:
        settings: section `train`.
        patches: folder of patch shards.
        train_ids: images to learn from.
        val_ids: images to measure on.
        base: folder from which a relative `train.weights_file` resolves.
        scratch: folder of the checkpoint; a run that was cut off goes on from it.

    Raises:
        PipelineError: too few images, bad weights, a checkpoint that does not fit, a loss that is not finite.
    """
    use_threads(settings.threads)
    keep_freed_memory()
    device = choose_device(settings)
    torch.backends.cudnn.deterministic = True
    precision = choose_precision(settings, device)
    shards = PatchShards(patches, train_ids, settings.domain)
    held_out = PatchShards(patches, val_ids, settings.domain)
    steps = shards.count() // settings.batch_images
    if steps == 0:
        raise PipelineError(
            f"train.batch_images: {settings.batch_images} is more than the {shards.count()} training images; lower it"
        )
    model, origin = start_network(settings, shards, base, device)
    start = {name: value.detach().cpu().clone() for name, value in model.encoder.state_dict().items()}
    optimiser = make_optimiser(model, settings)
    path = scratch / "checkpoint.pt"
    progress = checkpoint.restore(path, model, optimiser, settings.threads, device.type) or Progress()
    run = _Run(settings, model, optimiser, shards, held_out, device, precision, steps, path)
    with tqdm(
        total=steps * settings.epochs * settings.batch_images,
        initial=(progress.epoch * steps + progress.step) * settings.batch_images,
        desc="train",
        unit="image",
        unit_scale=True,
        mininterval=1.0,
    ) as bar:
        while progress.epoch < settings.epochs:
            run.epoch(progress, bar)
    run.save(progress)
    model.eval()
    predictions = predict(model, held_out, range(held_out.draws), run.pairs, settings, precision)
    return Trained(model, start, progress.history, predictions, origin, precision, device.type, progress.seconds)


@dataclass
class _Run:
    """What stays the same over all epochs of a run."""

    settings: params.Train
    model: ContextNet
    optimiser: torch.optim.SGD
    shards: PatchShards
    held_out: PatchShards
    device: torch.device
    precision: str
    steps: int  # of an epoch
    checkpoint_path: Path

    def __post_init__(self) -> None:
        self.pairs = Pairs.of(pair_table(self.settings.domain), self.device)
        self.clock = time.monotonic()  # of the time that `progress.seconds` does not hold yet
        self.saved = self.clock

    def epoch(self, progress: Progress, bar: tqdm[NoReturn]) -> None:
        """Trains the rest of an epoch, validates, and moves `progress` to the next one."""
        settings = self.settings
        batches = self.shards.epoch(
            progress.epoch % self.shards.draws,
            settings.batch_images,
            shuffle=(settings.seed, "epoch", progress.epoch),
            start=progress.step,
            drop_last=True,
        )
        self.model.train()
        for batch in batches:
            self._step(batch, progress)
            bar.update(settings.batch_images)
            if time.monotonic() - self.saved >= settings.checkpoint_seconds:
                self.save(progress)
        found = predict(self.model, self.held_out, range(1), self.pairs, settings, self.precision)
        row = self._row(progress, found)
        bar.set_postfix(train=f"{row['train_accuracy']:.3f}", val=f"{row['val_accuracy']:.3f}")
        progress.history.append(row)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, [0.0, 0.0, 0.0]

    def _step(self, batch: Batch, progress: Progress) -> None:
        number = progress.epoch * self.steps + progress.step
        rate = learning_rate(number, self.steps * self.settings.epochs, self.settings)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        torch.manual_seed(seed_of(self.settings, number))
        augment = torch.Generator().manual_seed(seed_of(self.settings, number))
        images = inputs_of(batch, self.settings, self.device, augment)
        result = train_step(self.model, self.optimiser, images, len(batch.image_ids), self.pairs, self.precision)
        progress.sums[0] += float(result.loss)
        progress.sums[1] += float((result.correct * self.pairs.weights).mean())
        progress.sums[2] += 1
        progress.step += 1
        if not math.isfinite(progress.sums[0]):
            raise PipelineError(f"training diverged in epoch {progress.epoch + 1}; lower train.learning_rate")

    def _row(self, progress: Progress, found: Predictions) -> dict[str, float]:
        pair_weights = self.pairs.weights.cpu().numpy()
        loss, accuracy, steps = progress.sums
        last = (progress.epoch + 1) * self.steps - 1
        return {
            "epoch": progress.epoch + 1,
            "learning_rate": round(learning_rate(last, self.steps * self.settings.epochs, self.settings), 8),
            "train_loss": round(loss / steps, 6),
            "train_accuracy": round(accuracy / steps, 6),
            "val_loss": round(found.loss, 6),
            "val_accuracy": round(float((found.correct * pair_weights).mean()), 6),
            "val_accuracy_one_patch": round(float((found.correct_one_patch * pair_weights).mean()), 6),
        }

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint."""
        now = time.monotonic()
        progress.seconds += now - self.clock
        checkpoint.save(
            self.checkpoint_path, self.model, self.optimiser, progress, self.settings.threads, self.device.type
        )
        self.clock = self.saved = time.monotonic()
