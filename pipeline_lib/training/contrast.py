"""The contrastive objective: which drawing belongs to which photo, among all of a batch.

InfoNCE (van den Oord, Li and Vinyals 2018, eq. 4) in both directions, as CLIP takes it (Radford et al. 2021). The pairs
are an image's own photo and edge views, so there is no label in it. Telling photos apart pays for forgetting what
photos of one kind have in common, so the start network's view of them can be kept beside it: distillation from a
frozen teacher (feature hints, Romero et al. 2015; against forgetting, Li and Hoiem 2016). Where a batch holds each
image as it is and mirrored (`contrast.mirror_negatives`), a drawing is also told from the photo that faces the other
way: the hardest of negatives, the same content in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models.context import normalise
from pipeline_lib.pretext.views import Views


class Contrast(NamedTuple):
    """What a batch of views gives."""

    loss: Tensor  # float[]
    correct: Tensor  # bool[B], whether a drawing's nearest photo of the batch is its own


def inputs_of(views: Views, settings: params.Train, device: torch.device) -> Tensor:
    """The encoder's input: float32[2 B, 3, size, size], all photo views, then all edge views."""
    parts = [torch.from_numpy(pixels).to(device, non_blocking=True) for pixels in (views.photos, views.edges)]
    both = torch.cat([normalise(part, settings) for part in parts])
    return both.contiguous(memory_format=torch.channels_last)


def group_numbers(image_ids: list[str], groups: Mapping[str, str], mirrored: NDArray[np.bool_] | None = None) -> Tensor:
    """int64[B], equal for images that show the same; such are not told apart.

    Args:
        image_ids: B names.
        groups: image_id -> group_id.
        mirrored: bool[B]; an image and its mirror image do not show the same. None where that does not matter.
    """
    numbers: dict[tuple[str, bool], int] = {}
    ways = [False] * len(image_ids) if mirrored is None else mirrored.tolist()
    keys = [(groups.get(name, name), way) for name, way in zip(image_ids, ways, strict=True)]
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])


def departure(features: Tensor, start: Tensor) -> Tensor:
    """How far last maps have moved from those of the start network.

    Args:
        features: float[B, C, h, w].
        start: float[B, C, h, w], of the same images.

    Returns:
        float[], in [0, 2]: 1 minus the cosine of both at a place, averaged over places and images.
    """
    return 1 - functional.cosine_similarity(features.float(), start.float(), dim=1).mean()


def info_nce(photos: Tensor, edges: Tensor, groups: Tensor, temperature: float) -> Contrast:
    """InfoNCE in both directions.

    Args:
        photos: float[B, D], the embeddings of photo views; their length does not matter.
        edges: float[B, D], of the edge views, in the same order.
        groups: int64[B]; images of one group are not each other's negatives.
        temperature: what cosines are divided by.
    """
    a, b = (functional.normalize(part.float(), dim=1) for part in (photos, edges))
    logits = b @ a.T / temperature
    same = groups[:, None] == groups[None, :]
    same.fill_diagonal_(fill_value=False)
    logits = logits.masked_fill(same, float("-inf"))
    own = torch.arange(len(logits), device=logits.device)
    loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    return Contrast(loss, logits.argmax(dim=1) == own)
