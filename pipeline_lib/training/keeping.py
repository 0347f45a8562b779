"""Keeping what the start weights know: last maps of photos stay close to those of the start network.

Telling photos apart makes a network forget what photos of one kind have in common. Distillation from its own frozen
start holds on to it (feature hints, Romero et al. 2015; against forgetting, Li and Hoiem 2016). It costs half a forward
pass a step.
"""

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from pipeline_lib.models.device import autocast
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.training.objective import Objective, Setup
from pipeline_lib.training.streams import ViewOutputs


def departure(features: Tensor, start: Tensor) -> Tensor:
    """How far last maps have moved from those of the start network.

    Args:
        features: float[B, C, h, w].
        start: float[B, C, h, w], of the same images.

    Returns:
        float[], in [0, 2]: 1 minus the cosine of both at a place, averaged over places and images.
    """
    return 1 - functional.cosine_similarity(features.float(), start.float(), dim=1).mean()


@dataclass(frozen=True)
class Keeping(Objective):
    """The encoder before its first step, in evaluation mode, to which photo views are held."""

    start: Encoder
    precision: str

    @classmethod
    def of(cls, setup: Setup) -> Self:
        """Copies the encoder as it is now."""
        return cls(copy.deepcopy(setup.model.encoder).eval().requires_grad_(requires_grad=False), setup.precision)

    def loss(self, outputs: ViewOutputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The departure of the photo views' maps."""
        count = len(outputs.images) // 2
        with torch.no_grad(), autocast(outputs.images.device, self.precision):
            start = self.start.pool5(outputs.images[:count])
        moved = departure(outputs.features[:count], start)
        return moved, {"departure": moved}
