"""Pretext accuracy on held-out images: per image, so that intervals can resample images and not pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.models.context import ContextNet
from pipeline_lib.models.device import autocast
from pipeline_lib.pretext.batches import PatchShards
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
