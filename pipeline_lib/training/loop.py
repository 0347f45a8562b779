"""The training loop: from start weights to a trained context network, resumable to the bit.

Every random choice is a function of the seed and the step's number, so a checkpoint needs no random state.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.context import ContextNet
from pipeline_lib.models.device import choose_device, choose_precision, keep_freed_memory, use_threads
from pipeline_lib.training import checkpoint, ranks
from pipeline_lib.training.checkpoint import Progress
from pipeline_lib.training.norms import join_processes
from pipeline_lib.training.objective import Setup, Weighted, objectives_of, weighted_loss
from pipeline_lib.training.start import learning_rate, make_optimiser, seed_of, start_network
from pipeline_lib.training.streams import PatchStream, Predictions, Stream, ViewSource, ViewStream


@dataclass(frozen=True)
class Trained:
    """A trained network and how it got there."""

    model: ContextNet
    start: dict[str, Tensor]  # the encoder's state before the first step
    images: int  # that it learned from
    history: list[dict[str, float]]
    predictions: Predictions  # on all draws of the held-out images
    matched: float | None  # part of the held-out drawings whose nearest held-out photo is their own
    origin: str  # of the start weights
    precision: str
    device: str
    threads: int  # of each process
    processes: int
    seconds: float


class Task(NamedTuple):
    """A batch of one stream, and the objectives that read it."""

    stream: Stream
    batch: Any
    objectives: Sequence[Weighted]


def train_step(
    model: ContextNet, optimiser: torch.optim.Optimizer, tasks: Iterable[Task], seed: int
) -> dict[str, Tensor]:
    """Forward, backward and update; it keeps no global state.

    Args:
        model: in training mode.
        optimiser: over the model's parameters.
        tasks: one after the other: gradients add up, and the activations of one at a time are kept.
        seed: of everything random in the step.

    Returns:
        The objectives' figures, float[] each, by the name of their column; of all processes, where there are several.
    """
    optimiser.zero_grad(set_to_none=True)
    figures: dict[str, Tensor] = {}
    for stream, batch, objectives in tasks:
        loss, found = weighted_loss(objectives, stream.forward(model, batch, seed))
        loss.backward()  # type: ignore[no-untyped-call]
        figures |= found
    ranks.average_gradients(model)
    optimiser.step()
    return ranks.averaged(figures)


def train(
    settings: params.Train,
    patches: Path,
    train_ids: list[str],
    val_ids: list[str],
    base: Path,
    scratch: Path,
    views: ViewSource | None = None,
    checkpoint_seconds: float = 20.0,
) -> Trained:
    """Trains a context network, together with the other processes where torchrun has started several.

    Args:
        settings: section `train`.
        patches: folder of patch shards.
        train_ids: images to learn from.
        val_ids: images to measure on.
        base: folder from which a relative `train.weights_file` resolves.
        scratch: folder of the checkpoint, the same for all processes; a run that was cut off goes on from it.
        views: for objectives that learn from views. Each step then takes a batch of views beside its batch of layouts.
        checkpoint_seconds: at least this long between two checkpoints.

    Raises:
        PipelineError: too few images, bad weights, a checkpoint that does not fit, a loss that is not finite.
    """
    threads = use_threads(settings.threads, ranks.on_this_machine())
    keep_freed_memory()
    device = choose_device(settings)
    torch.backends.cudnn.deterministic = True
    precision = choose_precision(settings, device)
    layouts = PatchStream(settings, patches, train_ids, val_ids, device, precision)
    images = layouts.shards.count()
    steps = images // settings.batch_images
    if steps == 0:
        remedy = "lower it" if images >= 2 else "add photos"
        raise PipelineError(
            f"train.batch_images: {settings.batch_images} is more than the {images} training images; {remedy}"
        )
    model, origin = start_network(settings, layouts.shards, base, device)
    ranks.copy_first(model)
    join_processes(model)
    start = {name: value.detach().cpu().clone() for name, value in model.encoder.state_dict().items()}
    streams: dict[str, Stream] = {"patches": layouts}
    if views is not None and settings.views:
        streams["views"] = ViewStream(settings, views, train_ids, val_ids, device, precision)
    objectives = {
        name: objectives_of(Setup(settings, model, stream, base, scratch, device, precision), name)
        for name, stream in streams.items()
    }
    optimiser = make_optimiser(model, settings)
    path = scratch / "checkpoint.pt"
    progress = checkpoint.restore(path, model, optimiser, threads, device.type) or Progress()
    if len(set(ranks.every((progress.epoch, progress.step)))) > 1:
        raise PipelineError(
            f"{path}: not all processes find the same there; they need one folder that all machines share"
        )
    run = _Run(settings, model, optimiser, streams, objectives, steps, path, checkpoint_seconds, device.type, threads)
    with tqdm(
        total=steps * settings.epochs * settings.batch_images,
        initial=(progress.epoch * steps + progress.step) * settings.batch_images,
        desc="train",
        unit="image",
        unit_scale=True,
        mininterval=1.0,
        disable=not ranks.first(),
    ) as bar:
        while progress.epoch < settings.epochs:
            run.epoch(progress, bar)
    run.save(progress)
    model.eval()
    predictions = layouts.predict(model, range(layouts.held_out.draws))
    progress.require_finite([predictions.loss])
    return Trained(
        model,
        start,
        images,
        progress.history,
        predictions,
        progress.history[-1].get("val_match_at_1"),
        origin,
        precision,
        device.type,
        threads,
        ranks.share().of,
        progress.seconds,
    )


@dataclass
class _Run:
    """What stays the same over all epochs of a run."""

    settings: params.Train
    model: ContextNet
    optimiser: torch.optim.SGD
    streams: dict[str, Stream]
    objectives: dict[str, list[Weighted]]
    steps: int  # of an epoch
    checkpoint_path: Path
    checkpoint_seconds: float
    device: str
    threads: int

    def __post_init__(self) -> None:
        self.clock = time.monotonic()  # of the time that `progress.seconds` does not hold yet
        self.saved = self.clock

    def epoch(self, progress: Progress, bar: "tqdm[NoReturn]") -> None:
        """Trains the rest of an epoch, validates, and moves `progress` to the next one."""
        settings = self.settings
        self.model.train()
        sources = [stream.batches(progress.epoch, progress.step, self.steps) for stream in self.streams.values()]
        # The stream of layouts comes first and ends with the epoch.
        for batches in zip(*sources, strict=False):
            number = progress.epoch * self.steps + progress.step
            rate = learning_rate(number, self.steps * settings.epochs, settings)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            seed = seed_of(settings, number)
            torch.manual_seed(seed)
            given = zip(self.streams.values(), batches, self.objectives.values(), strict=True)
            tasks = [Task(*task) for task in given if task[-1]]
            step = train_step(self.model, self.optimiser, tasks, seed)
            progress.add({name: float(value) for name, value in step.items()})
            progress.require_finite(progress.sums.values())
            bar.update(settings.batch_images)
            if time.monotonic() - self.saved >= self.checkpoint_seconds:
                self.save(progress)
        row = self._row(progress)
        labels = {label: name for stream in self.streams.values() for label, name in stream.shown.items()}
        bar.set_postfix({label: f"{row[name]:.3f}" for label, name in labels.items()})
        progress.finish_epoch(row)

    def _row(self, progress: Progress) -> dict[str, float]:
        """A line of the history: means over the epoch's steps, then figures on held-out images, stream by stream."""
        means = progress.means()
        last = (progress.epoch + 1) * self.steps - 1
        row = {
            "epoch": progress.epoch + 1,
            "learning_rate": round(learning_rate(last, self.steps * self.settings.epochs, self.settings), 8),
        }
        for stream in self.streams.values():
            held_out = stream.validate(self.model)
            progress.require_finite(held_out.values())  # a step's own loss is that of before its update
            # A stream without columns of its own has those that its objectives gave.
            names = stream.columns or tuple(means)
            row |= {name: means.pop(name, math.nan) for name in names} | held_out
        return row | means

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint, for all processes."""
        if not ranks.first():
            return
        now = time.monotonic()
        progress.seconds += now - self.clock
        checkpoint.save(self.checkpoint_path, self.model, self.optimiser, progress, self.threads, self.device)
        self.clock = self.saved = time.monotonic()
