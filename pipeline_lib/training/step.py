"""One training step: a batch of layouts (and of views, where the contrast counts) in, an updated network out.

It keeps no global state, so that wrapping the network for data parallel training is one line.

Loss: cross entropy over the pairs of every image, each direction with the same total weight, plus the same for the
head that sees one patch (which does not reach the encoder); plus `contrast.info_nce`, `contrast.departure` and
`teacher.relational_loss`, each by its weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models.context import ContextNet, Logits, drop_colours, normalise
from pipeline_lib.models.device import autocast
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.pretext.batches import Batch, PairTable
from pipeline_lib.training.contrast import Contrast, departure, info_nce
from pipeline_lib.training.teacher import relational_loss


@dataclass(frozen=True)
class Pairs:
    """A pair table as tensors on the device."""

    directions: Tensor  # int64[K]
    weights: Tensor  # float32[K]

    @classmethod
    def of(cls, table: PairTable, device: torch.device) -> Pairs:
        """Moves the parts that the loss needs."""
        return cls(torch.from_numpy(table.directions).to(device), torch.from_numpy(table.weights).to(device))


@dataclass(frozen=True)
class Result:
    """What a step or a validation batch gives, on the device."""

    loss: Tensor  # float[], of the pair head
    correct: Tensor  # bool[B, K]
    correct_one_patch: Tensor  # bool[B, K]


def inputs_of(batch: Batch, settings: params.Train, device: torch.device, augment: torch.Generator | None) -> Tensor:
    """The encoder's input for a batch.

    Args:
        batch: layouts of B images.
        settings: section `train` (colour, per-patch normalisation).
        device: where to compute.
        augment: source of colour dropping; None in validation and where `color` is not `drop`.

    Returns:
        float32[B * P, 3, size, size]: per image its photo patches, then its edge patches.
    """
    parts = []
    count = len(batch.image_ids)
    for pixels in (batch.photos, batch.edges):
        if pixels is None:
            continue
        tensor = torch.from_numpy(pixels).to(device, non_blocking=True)
        images = normalise(tensor.flatten(0, 1), settings)
        if augment is not None and pixels is batch.photos and settings.color == "drop":
            images = drop_colours(images, augment)
        parts.append(images.view(count, 4, *images.shape[1:]))
    stacked = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return stacked.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def losses(logits: Logits, pairs: Pairs) -> tuple[Tensor, Tensor, Result]:
    """Weighted cross entropy of both heads, and which pairs were told right."""
    count = logits.pair.shape[0]
    targets = pairs.directions.expand(count, -1)

    def loss(values: Tensor) -> Tensor:
        each = functional.cross_entropy(values.float().flatten(0, 1), targets.flatten(), reduction="none")
        return (each.view(count, -1) * pairs.weights).mean()

    pair, one_patch = loss(logits.pair), loss(logits.one_patch)
    right = logits.pair.argmax(-1) == targets
    right_alone = logits.one_patch.argmax(-1) == targets
    return pair, one_patch, Result(pair.detach(), right, right_alone)


class ContextTask(NamedTuple):
    """Layouts to predict directions in."""

    images: Tensor  # float[B * P, 3, size, size] as `inputs_of` gives them
    layouts: int  # B
    pairs: Pairs
    weight: float = 1.0  # in the loss


class Kept(NamedTuple):
    """What the photos' maps are kept close to."""

    start: Encoder  # the encoder before the first step, in evaluation mode
    weight: float = 1.0


class Taught(NamedTuple):
    """What a teacher says of the views' photos."""

    vectors: Tensor  # float32[B, E] as `teacher.Teacher.of` gives them
    images: Tensor  # int64[B], equal for views of one photo
    weight: float = 1.0


class ContrastTask(NamedTuple):
    """Views to tell apart."""

    images: Tensor  # float[2 B, 3, size, size] as `contrast.inputs_of` gives them
    groups: Tensor  # int64[B]
    temperature: float
    weight: float = 1.0
    kept: Kept | None = None
    taught: Taught | None = None


class Step(NamedTuple):
    """What each objective found; None for one that took no part."""

    context: Result | None
    contrast: Contrast | None
    beside: dict[str, Tensor]  # further losses of the views before their weights, float[] each


def train_step(
    model: ContextNet,
    optimiser: torch.optim.Optimizer,
    context: ContextTask | None,
    contrast: ContrastTask | None,
    precision: str,
) -> Step:
    """Forward, backward and update on a batch of layouts, of views, or of both.

    Args:
        model: in training mode.
        optimiser: over the model's parameters.
        context: layouts.
        contrast: views.
        precision: `bf16` or `fp32`.
    """
    optimiser.zero_grad(set_to_none=True)
    result, found = None, None
    beside: dict[str, Tensor] = {}
    # One objective after the other: gradients add up, and the activations of one at a time are kept.
    if context is not None:
        with autocast(context.images.device, precision):
            logits = model(context.images, context.layouts)
        pair, one_patch, result = losses(logits, context.pairs)
        (context.weight * (pair + one_patch)).backward()  # type: ignore[no-untyped-call]
    if contrast is not None:
        with autocast(contrast.images.device, precision):
            features = model.encoder.pool5(contrast.images)
            photos, edges = model.encoder.read(features).chunk(2)
        loss, correct = info_nce(photos, edges, contrast.groups, contrast.temperature)
        total = contrast.weight * loss
        if contrast.taught is not None:
            beside["relation"] = relational_loss(photos, edges, *contrast.taught[:2], contrast.temperature)
            total = total + contrast.taught.weight * beside["relation"]
        if contrast.kept is not None:
            count = len(contrast.images) // 2
            with torch.no_grad(), autocast(contrast.images.device, precision):
                start = contrast.kept.start.pool5(contrast.images[:count])
            beside["departure"] = departure(features[:count], start)
            total = total + contrast.kept.weight * beside["departure"]
        total.backward()  # type: ignore[no-untyped-call]
        found = Contrast(loss.detach(), correct)
    optimiser.step()
    return Step(result, found, {name: value.detach() for name, value in beside.items()})
