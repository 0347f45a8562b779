"""What each of several processes runs in test_ranks.py: `-m tests.cluster.ranks_job FILE`, a pickled list of jobs."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline_lib import params
from pipeline_lib.models.inputs import normalise
from pipeline_lib.training import loop, ranks, streams, teacher
from pipeline_lib.training.loop import Trained, train
from pipeline_lib.training.streams import ViewSource

IDS = [f"image/{number:02d}" for number in range(14)]


@dataclass(frozen=True)
class Job:
    """A training: 12 images to learn from, 2 to measure on."""

    settings: params.Params
    pairs: Path
    patches: Path
    out: Path  # holds the checkpoint, and what each process ends with
    double: bool = False  # computed in float64
    dies: int = 0  # the step before which the second of several processes is killed


@dataclass(frozen=True)
class Ended:
    """What a process ends with."""

    states: dict[str, Any]  # name -> array, of all weights and statistics
    history: list[dict[str, float]]
    processes: int

    @classmethod
    def of(cls, trained: Trained) -> Ended:
        """Takes it from a training."""
        states = {name: value.numpy() for name, value in trained.model.state_dict().items()}
        return cls(states, trained.history, trained.processes)

    def equals(self, other: Ended) -> bool:
        """Whether both are the same to the bit."""
        same = all(np.array_equal(value, other.states[name]) for name, value in self.states.items())
        return same and repr(self.history) == repr(other.history)


@contextmanager
def double_precision() -> Iterator[None]:
    """Computes all in float64, where rounding is too little to hide a mistake."""

    def doubled(pixels: torch.Tensor, settings: params.Train) -> torch.Tensor:
        return normalise(pixels, settings).double()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(streams, "normalise", doubled)
        patch.setattr(teacher, "normalise", doubled)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def learn(job: Job) -> Ended:
    """Trains, with a checkpoint after every step."""
    source = ViewSource(job.pairs, job.settings.contrast, {IDS[0]: "one", IDS[5]: "one"})
    with double_precision() if job.double else nullcontext():
        return Ended.of(
            train(job.settings.train, job.patches, IDS[:12], IDS[12:], Path(), job.out, source, checkpoint_seconds=0.0)
        )


def kill_before(step: int) -> None:
    """Lets this process be killed when it comes to a step."""
    whole, begun = loop.train_step, iter(range(1, step))

    def counted(*given: Any) -> Any:
        if next(begun, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*given)

    loop.train_step = counted  # type: ignore[assignment]


def main(jobs: list[Job]) -> None:
    """Does one job after the other together with the other processes."""
    with ranks.joined(torch.device("cpu")):
        number = ranks.share().number
        for job in jobs:
            if job.dies and number == 1:
                kill_before(job.dies)
            job.out.mkdir(exist_ok=True)
            (job.out / f"ended-{number}").write_bytes(pickle.dumps(learn(job)))


if __name__ == "__main__":
    from tests.cluster import ranks_job  # under the name by which its classes are pickled

    ranks_job.main(pickle.loads(Path(sys.argv[1]).read_bytes()))
