"""What the network can do on held-out images.

Pretext accuracy is kept per image, so that intervals can resample images and not pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models.context import ContextNet
from pipeline_lib.models.device import autocast
from pipeline_lib.pretext.batches import PatchShards
from pipeline_lib.pretext.views import ViewShards
from pipeline_lib.training.contrast import group_numbers
from pipeline_lib.training.contrast import inputs_of as view_inputs
from pipeline_lib.training.step import Pairs, inputs_of, losses


@dataclass(frozen=True)
class Predictions:
    """What the network got right, a row per layout."""

    image_ids: list[str]  # [N]
    correct: NDArray[np.bool_]  # [N, K]
    correct_one_patch: NDArray[np.bool_]  # [N, K]
    loss: float


@torch.no_grad()
def predict(
    model: ContextNet,
    shards: PatchShards,
    draws: range,
    pairs: Pairs,
    settings: params.Train,
    precision: str,
) -> Predictions:
    """Runs the network in evaluation mode over draws of held-out images.

    Args:
        model: left in the mode it had.
        shards: of the held-out images.
        draws: which draws.
        pairs: directions and weights of the K pairs.
        settings: section `train`.
        precision: `bf16` or `fp32`.
    """
    device = next(model.parameters()).device
    names: list[str] = []
    right, alone, loss_sum = [], [], 0.0
    was_training = model.training
    model.eval()
    for draw in draws:
        for batch in shards.epoch(draw, settings.batch_images, shuffle=None):
            with autocast(device, precision):
                logits = model(inputs_of(batch, settings, device, None), len(batch.image_ids))
            _, _, result = losses(logits, pairs)
            names += batch.image_ids
            right.append(result.correct.cpu().numpy())
            alone.append(result.correct_one_patch.cpu().numpy())
            loss_sum += float(result.loss) * len(batch.image_ids)
    model.train(was_training)
    return Predictions(names, np.concatenate(right), np.concatenate(alone), loss_sum / len(names))


@torch.no_grad()
def match(
    model: ContextNet, shards: ViewShards, groups: Mapping[str, str], settings: params.Train, precision: str
) -> float:
    """Part of the drawings whose nearest photo, by cosine, is their own (or one of its group).

    It needs no label, so settings may be chosen by it.

    Args:
        model: left in the mode it had.
        shards: of the held-out images; their views are the same at every call.
        groups: image_id -> group_id.
        settings: section `train`.
        precision: `bf16` or `fp32`.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    names: list[str] = []
    parts: list[Tensor] = []
    for views in shards.once():
        with autocast(device, precision):
            vectors = model.encoder(view_inputs(views, settings, device))
        names += views.image_ids
        parts.append(functional.normalize(vectors.float(), dim=1).view(2, len(views.image_ids), -1))
    model.train(was_training)
    photos, edges = torch.cat(parts, dim=1)
    numbers = group_numbers(names, groups).to(device)
    right = [numbers[(part @ photos.T).argmax(dim=1)] for part in edges.split(1024)]
    return float((torch.cat(right) == numbers).float().mean())
