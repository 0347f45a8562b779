"""The training loop: from start weights to a trained context network, resumable to the bit.

Every random choice is a function of the seed and the step's number, so a checkpoint needs no random state.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.context import ContextNet
from pipeline_lib.models.device import choose_device, choose_precision, keep_freed_memory, use_threads
from pipeline_lib.pretext.batches import Batch, PatchShards, pair_table
from pipeline_lib.pretext.views import Views, ViewShards
from pipeline_lib.training import checkpoint
from pipeline_lib.training.checkpoint import Progress
from pipeline_lib.training.contrast import group_numbers
from pipeline_lib.training.contrast import inputs_of as view_inputs
from pipeline_lib.training.start import learning_rate, make_optimiser, seed_of, start_network
from pipeline_lib.training.step import ContextTask, ContrastTask, Kept, Pairs, Step, Taught, inputs_of, train_step
from pipeline_lib.training.teacher import Teacher, ask
from pipeline_lib.training.validation import Predictions, match, predict


@dataclass(frozen=True)
class Trained:
    """A trained network and how it got there."""

    model: ContextNet
    start: dict[str, torch.Tensor]  # the encoder's state before the first step
    images: int  # that it learned from
    history: list[dict[str, float]]
    predictions: Predictions  # on all draws of the held-out images
    matched: float | None  # part of the held-out drawings whose nearest held-out photo is their own
    origin: str  # of the start weights
    precision: str
    device: str
    seconds: float


@dataclass(frozen=True)
class ViewSource:
    """Where the views of the contrastive objective come from."""

    pairs: Path  # folder of pair shards
    settings: params.Contrast
    groups: Mapping[str, str]  # image_id -> group_id; images of one group are not told apart


def train(
    settings: params.Train,
    patches: Path,
    train_ids: list[str],
    val_ids: list[str],
    base: Path,
    scratch: Path,
    views: ViewSource | None = None,
) -> Trained:
    """Trains a context network.

    Args:
        settings: section `train`.
        patches: folder of patch shards.
        train_ids: images to learn from.
        val_ids: images to measure on.
        base: folder from which a relative `train.weights_file` resolves.
        scratch: folder of the checkpoint; a run that was cut off goes on from it.
        views: for a `contrast_weight` above 0. Each step then takes a batch of views beside its batch of layouts.

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
    images = shards.count()
    steps = images // settings.batch_images
    if steps == 0:
        remedy = "lower it" if images >= 2 else "add photos"
        raise PipelineError(
            f"train.batch_images: {settings.batch_images} is more than the {images} training images; {remedy}"
        )
    model, origin = start_network(settings, shards, base, device)
    start = {name: value.detach().cpu().clone() for name, value in model.encoder.state_dict().items()}
    contrast = None
    if views is not None and settings.contrast_weight:
        contrast = _Views.of(views, train_ids, val_ids)
        if settings.keep_weight:
            first = copy.deepcopy(model.encoder).eval().requires_grad_(requires_grad=False)
            contrast = replace(contrast, kept=Kept(first, settings.keep_weight))
        if settings.teacher_weight:
            teacher = ask(settings, contrast.shards, base, scratch, device, precision)
            contrast = replace(contrast, teacher=teacher)
    optimiser = make_optimiser(model, settings)
    path = scratch / "checkpoint.pt"
    progress = checkpoint.restore(path, model, optimiser, settings.threads, device.type) or Progress()
    run = _Run(settings, model, optimiser, shards, held_out, device, precision, steps, path, contrast)
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
    progress.require_finite([predictions.loss])
    matched = progress.history[-1].get("val_match_at_1")
    return Trained(
        model, start, images, progress.history, predictions, matched, origin, precision, device.type, progress.seconds
    )


@dataclass(frozen=True)
class _Views:
    """Views to train on and to measure on, and who else has a say in what is learned from them."""

    source: ViewSource
    shards: ViewShards
    held_out: ViewShards
    kept: Kept | None = None
    teacher: Teacher | None = None

    @classmethod
    def of(cls, source: ViewSource, train_ids: list[str], val_ids: list[str]) -> _Views:
        shards = ViewShards(source.pairs, train_ids, source.settings)
        if shards.count < 2:
            raise PipelineError("train.contrast_weight: a contrast needs two training images; set it to 0 or add some")
        return cls(source, shards, ViewShards(source.pairs, val_ids, source.settings))


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
    contrast: _Views | None

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
        views: Iterator[Views | None] = itertools.repeat(None)
        if self.contrast is not None:
            views = self.contrast.shards.batches(settings.seed, progress.epoch * self.steps + progress.step)
        for batch, view in zip(batches, views, strict=False):
            self._step(batch, view, progress)
            bar.update(settings.batch_images)
            if time.monotonic() - self.saved >= settings.checkpoint_seconds:
                self.save(progress)
        found = predict(self.model, self.held_out, range(1), self.pairs, settings, self.precision)
        progress.require_finite([found.loss])  # a step's own loss is that of before its update
        row = self._row(progress, found)
        told = {"train": row["train_accuracy"], "val": row["val_accuracy"], "match": row.get("val_match_at_1")}
        bar.set_postfix({name: f"{value:.3f}" for name, value in told.items() if value is not None})
        progress.finish_epoch(row)

    def matched(self, contrast: _Views) -> float:
        """Part of the held-out drawings whose nearest held-out photo is their own."""
        return match(self.model, contrast.held_out, contrast.source.groups, self.settings, self.precision)

    def _step(self, batch: Batch, views: Views | None, progress: Progress) -> None:
        settings, number = self.settings, progress.epoch * self.steps + progress.step
        rate = learning_rate(number, self.steps * settings.epochs, settings)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        torch.manual_seed(seed_of(settings, number))
        context, contrast = None, None
        if settings.context_weight:
            augment = torch.Generator().manual_seed(seed_of(settings, number))
            images = inputs_of(batch, settings, self.device, augment)
            context = ContextTask(images, len(batch.image_ids), self.pairs, settings.context_weight)
        if views is not None and self.contrast is not None:
            source, teacher = self.contrast.source, self.contrast.teacher
            groups = group_numbers(views.image_ids, source.groups, views.mirrored).to(self.device)
            images = view_inputs(views, settings, self.device)
            taught = None
            if teacher is not None:
                taught = Taught(*teacher.of(views.image_ids, self.device), settings.teacher_weight)
            temperature = source.settings.temperature
            contrast = ContrastTask(images, groups, temperature, settings.contrast_weight, self.contrast.kept, taught)
        step = train_step(self.model, self.optimiser, context, contrast, self.precision)
        progress.add(self._figures(step))
        progress.require_finite(progress.sums.values())

    def _figures(self, step: Step) -> dict[str, float]:
        """What a step found, by the name of its column."""
        figures: dict[str, float] = {}
        if step.context is not None:
            right = (step.context.correct * self.pairs.weights).mean()
            figures |= {"train_loss": float(step.context.loss), "train_accuracy": float(right)}
        if step.contrast is not None:
            right = step.contrast.correct.float().mean()
            figures |= {"contrast_loss": float(step.contrast.loss), "contrast_accuracy": float(right)}
        return figures | {name: float(value) for name, value in step.beside.items()}

    def _row(self, progress: Progress, found: Predictions) -> dict[str, float]:
        pair_weights = self.pairs.weights.cpu().numpy()
        means = progress.means()
        last = (progress.epoch + 1) * self.steps - 1
        row = {
            "epoch": progress.epoch + 1,
            "learning_rate": round(learning_rate(last, self.steps * self.settings.epochs, self.settings), 8),
            "train_loss": means.pop("train_loss", math.nan),
            "train_accuracy": means.pop("train_accuracy", math.nan),
            "val_loss": round(found.loss, 6),
            "val_accuracy": round(float((found.correct * pair_weights).mean()), 6),
            "val_accuracy_one_patch": round(float((found.correct_one_patch * pair_weights).mean()), 6),
        }
        if self.contrast is not None:
            row |= means | {"val_match_at_1": round(self.matched(self.contrast), 6)}
        return row

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint."""
        now = time.monotonic()
        progress.seconds += now - self.clock
        checkpoint.save(
            self.checkpoint_path, self.model, self.optimiser, progress, self.settings.threads, self.device.type
        )
        self.clock = self.saved = time.monotonic()
