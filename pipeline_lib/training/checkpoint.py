"""Checkpoints from which training goes on to the same bits."""

import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline_lib.errors import PipelineError
from pipeline_lib.files import replacing
from pipeline_lib.training import ranks


@dataclass
class Progress:
    """How far training is: the next step is `step` of `epoch`."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of this epoch's steps, by the name of a column of `history`
    history: list[dict[str, float]] = field(default_factory=list)  # a row per finished epoch
    seconds: float = 0.0

    def add(self, figures: Mapping[str, float]) -> None:
        """Counts a step that found these figures."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.step += 1

    def require_finite(self, losses: Iterable[float]) -> None:
        """Stops a training whose weights have broken.

        Raises:
            PipelineError: one of these losses, of this epoch or behind the last one, is no finite number.
        """
        if not all(map(math.isfinite, losses)):
            number = self.epoch + (self.step > 0)
            raise PipelineError(f"training diverged in epoch {number}; lower train.learning_rate")

    def means(self) -> dict[str, float]:
        """Of this epoch's steps so far, to six decimals."""
        return {name: round(value / self.step, 6) for name, value in self.sums.items()}

    def finish_epoch(self, row: dict[str, float]) -> None:
        """Keeps the epoch's row; the next step is the first of the next epoch."""
        self.history.append(row)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}


def save(
    path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, progress: Progress, threads: int, device: str
) -> None:
    """Writes a checkpoint, whole or not at all: it is on the disk before it takes the old one's name."""
    with replacing(path) as aside, aside.open("wb") as stream:
        state = {
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "progress": asdict(progress),
            "threads": threads,
            "device": device,
            "processes": ranks.share().of,
        }
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())


def restore(
    path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, threads: int, device: str
) -> Progress | None:
    """Loads a checkpoint into model and optimiser; None where there is none.

    Raises:
        PipelineError: it was written with another number of processes or threads, on another device, or is damaged.
    """
    if not path.exists():
        return None
    try:
        _check(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        made_with, made_on, made_by = state["threads"], state["device"], state.get("processes", 1)
        progress = Progress(**state["progress"])
    except Exception as failure:
        raise PipelineError(f"{path}: is no checkpoint ({failure}); delete it to train from the start") from failure
    if made_by != ranks.share().of:
        raise PipelineError(
            f"{path}: was written by {made_by} processes; going on with {ranks.share().of} would end in other bits. "
            f"Start {made_by} (torchrun's --nproc-per-node and --nnodes), or delete the file to train from the start"
        )
    if made_with != threads or made_on != device:
        raise PipelineError(
            f"{path}: was written on {made_on} with train.threads: {made_with}; going on with {threads} threads on "
            f"{device} would end in other bits. Set them back, or delete the file to train from the start"
        )
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return progress


def _check(path: Path) -> None:
    """Compares a checkpoint with its checksums: torch writes them, and does not look at them when it loads."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it is damaged")
