"""What a network is trained for. An objective is a class in a file of its own and a line of the registry.

The loop and the step know no objective by name: they take every one that has a weight in `train.objectives`, run each
stream of batches through the network once, and add up the losses of the objectives that read it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from pipeline_lib import params
from pipeline_lib.models.context import ContextNet
from pipeline_lib.registry import OBJECTIVES, load


@dataclass(frozen=True)
class Setup:
    """What an objective is made from."""

    settings: params.Train  # section `train`
    model: ContextNet  # before its first step
    stream: Any  # that the objective reads, a `streams.PatchStream` or `streams.ViewStream`
    base: Path  # folder from which relative paths in the params resolve
    scratch: Path  # folder of this run, for what should outlive a stop
    device: torch.device  # where to compute
    precision: str  # `bf16` or `fp32`


class Objective(ABC):
    """A loss on what the network makes of a batch."""

    @classmethod
    def of(cls, setup: Setup) -> Self:  # noqa: ARG003  what a subclass asks
        """Made once, before the first step; an objective that needs nothing leaves this as it is.

        Raises:
            PipelineError: something that it needs can't be had; names the params key.
        """
        return cls()

    @abstractmethod
    def loss(self, outputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, float[], before its weight, and figures of the step by the name of their column.

        Args:
            outputs: what the stream's `forward` gave: `streams.PatchOutputs` or `streams.ViewOutputs`.
        """


class Weighted(NamedTuple):
    """An objective and its weight in the loss."""

    weight: float
    objective: Objective


def objectives_of(setup: Setup, reads: str) -> list[Weighted]:
    """The objectives with a weight that read a stream, in the registry's order."""
    return [
        Weighted(setup.settings.weight(name), load(spec.place).of(setup))
        for name, spec in OBJECTIVES.items()
        if spec.reads == reads and setup.settings.weight(name)
    ]


def weighted_loss(objectives: Sequence[Weighted], outputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of weighted losses, float[], and all figures, detached."""
    figures: dict[str, Tensor] = {}
    terms = []
    for weight, objective in objectives:
        loss, found = objective.loss(outputs)
        terms.append(weight * loss)
        figures |= {name: value.detach() for name, value in found.items()}
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total, figures
