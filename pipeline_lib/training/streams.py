"""The two streams of batches that objectives learn from: patches of 4-region layouts, and views of whole images.

A stream reads batches, runs them through the network once for all of its objectives, and measures on held-out images.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.data.share import ALL, Share
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.context import ContextNet, Logits
from pipeline_lib.models.device import autocast, leaves_cores
from pipeline_lib.models.inputs import drop_colours, normalise
from pipeline_lib.pretext.batches import Batch, PairTable, PatchShards, pair_table
from pipeline_lib.pretext.views import Views, ViewShards
from pipeline_lib.training import ranks


class Stream(Protocol):
    """What the loop asks of a stream."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Figures of a step that have a column in the history even where no objective gives them."""

    @property
    def shown(self) -> Mapping[str, str]:
        """Labels of the progress bar, and the columns that they show."""

    def batches(self, epoch: int, step: int, steps: int) -> Iterator[Any]:
        """The batches from `step` of `epoch` on; an epoch has `steps`."""

    def forward(self, model: ContextNet, batch: Any, seed: int) -> Any:
        """What the network makes of a batch; `seed` is of everything random in it."""

    def validate(self, model: ContextNet) -> dict[str, float]:
        """Figures on held-out images, by the name of their column."""


@dataclass(frozen=True)
class Pairs:
    """A pair table as tensors on the device."""

    directions: Tensor  # int64[K]
    weights: Tensor  # float32[K]

    @classmethod
    def of(cls, table: PairTable, device: torch.device) -> Self:
        """Moves the parts that the loss needs."""
        return cls(torch.from_numpy(table.directions).to(device), torch.from_numpy(table.weights).to(device))


@dataclass(frozen=True)
class PatchOutputs:
    """What the network says of the pairs of B images."""

    logits: Logits
    pairs: Pairs


class PairLosses(NamedTuple):
    """What both heads say of a batch, on the device."""

    pair: Tensor  # float[], weighted cross entropy of the head that sees both patches
    one_patch: Tensor  # float[], of the one that sees the first patch alone; it does not reach the encoder
    correct: Tensor  # bool[B, K]
    correct_one_patch: Tensor  # bool[B, K]


def pair_losses(logits: Logits, pairs: Pairs) -> PairLosses:
    """Cross entropy over the pairs of every image, each direction with the same total weight."""
    count = logits.pair.shape[0]
    targets = pairs.directions.expand(count, -1)

    def loss(values: Tensor) -> Tensor:
        each = functional.cross_entropy(values.float().flatten(0, 1), targets.flatten(), reduction="none")
        return (each.view(count, -1) * pairs.weights).mean()

    right, alone = logits.pair.argmax(-1) == targets, logits.one_patch.argmax(-1) == targets
    return PairLosses(loss(logits.pair), loss(logits.one_patch), right, alone)


@dataclass(frozen=True)
class Predictions:
    """What the network got right on held-out images, a row per layout, so that intervals can resample images."""

    image_ids: list[str]  # [N]
    correct: NDArray[np.bool_]  # [N, K]
    correct_one_patch: NDArray[np.bool_]  # [N, K]
    loss: float


def patch_inputs(
    batch: Batch,
    settings: params.Train,
    device: torch.device,
    augment: torch.Generator | None,
    share: Share = ALL,
) -> Tensor:
    """The encoder's input for a batch of layouts.

    Args:
        batch: layouts of B images.
        settings: section `train` (colour, per-patch normalisation).
        device: where to compute.
        augment: source of colour dropping; None in validation.
        share: which part of a step's layouts these are.

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
            images = drop_colours(images, augment, share)
        parts.append(images.view(count, 4, *images.shape[1:]))
    stacked = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return stacked.flatten(0, 1).contiguous(memory_format=torch.channels_last)


class PatchStream:
    """Layouts of images: 4 patches in each domain."""

    columns: tuple[str, ...] = ("train_loss", "train_accuracy")
    shown: Mapping[str, str] = {"train": "train_accuracy", "val": "val_accuracy"}

    def __init__(
        self,
        settings: params.Train,
        folder: Path,
        image_ids: list[str],
        held_out_ids: list[str],
        device: torch.device,
        precision: str,
    ) -> None:
        self.settings, self.device, self.precision = settings, device, precision
        self.share = ranks.share()
        ranks.require_equal_parts(settings.batch_images, "train.batch_images")
        self.shards = PatchShards(folder, image_ids, settings.domain)
        self.held_out = PatchShards(folder, held_out_ids, settings.domain)
        self.pairs = Pairs.of(pair_table(settings.domain), device)

    def batches(self, epoch: int, step: int, steps: int) -> Iterator[Batch]:  # noqa: ARG002  an epoch ends by itself
        """Each image once, in an order of the epoch's own."""
        settings = self.settings
        shuffle = (settings.seed, "epoch", epoch)
        draw = epoch % self.shards.draws
        return self.shards.epoch(
            draw, settings.batch_images, shuffle=shuffle, start=step, drop_last=True, share=self.share
        )

    def forward(self, model: ContextNet, batch: Batch, seed: int) -> PatchOutputs:
        """Predicts the directions of all pairs."""
        images = patch_inputs(batch, self.settings, self.device, torch.Generator().manual_seed(seed), self.share)
        with autocast(self.device, self.precision):
            logits = model(images, len(batch.image_ids))
        return PatchOutputs(logits, self.pairs)

    def validate(self, model: ContextNet) -> dict[str, float]:
        """Loss and accuracy on the first draw of held-out images."""
        found = self.predict(model, range(1))
        weights = self.pairs.weights.cpu().numpy()
        return {
            "val_loss": round(found.loss, 6),
            "val_accuracy": round(float((found.correct * weights).mean()), 6),
            "val_accuracy_one_patch": round(float((found.correct_one_patch * weights).mean()), 6),
        }

    @torch.no_grad()
    def predict(self, model: ContextNet, draws: range) -> Predictions:
        """Runs the network over draws of held-out images in evaluation mode, and leaves it in the mode it had."""
        names: list[str] = []
        right, alone, loss_sum = [], [], 0.0
        was_training = model.training
        model.eval()
        for draw in draws:
            for batch in self.held_out.epoch(draw, self.settings.batch_images, shuffle=None):
                with autocast(self.device, self.precision):
                    inputs = patch_inputs(batch, self.settings, self.device, None)
                    logits = model(inputs, len(batch.image_ids))
                result = pair_losses(logits, self.pairs)
                names += batch.image_ids
                right.append(result.correct.cpu().numpy())
                alone.append(result.correct_one_patch.cpu().numpy())
                loss_sum += float(result.pair) * len(batch.image_ids)
        model.train(was_training)
        return Predictions(names, np.concatenate(right), np.concatenate(alone), loss_sum / len(names))


@dataclass(frozen=True)
class ViewSource:
    """Where views come from."""

    pairs: Path  # folder of pair shards
    settings: params.Contrast
    groups: Mapping[str, str]  # image_id -> group_id; images of one group are not told apart


@dataclass(frozen=True)
class ViewOutputs:
    """What the encoder makes of the views of B images, of which this process has run b: all, where it is alone."""

    image_ids: list[str]  # [B]
    images: Tensor  # float[2 b, 3, size, size], photo views, then edge views
    features: Tensor  # float[2 b, C, h, w], last maps
    photos: Tensor  # float[B, D], fc6 of the photo views
    edges: Tensor  # float[B, D], of the edge views
    groups: Tensor  # int64[B], equal for images that show the same
    temperature: float  # what cosines are divided by


def view_inputs(views: Views, settings: params.Train, device: torch.device) -> Tensor:
    """The encoder's input: float32[2 B, 3, size, size], all photo views, then all edge views."""
    parts = [torch.from_numpy(pixels).to(device, non_blocking=True) for pixels in (views.photos, views.edges)]
    both = torch.cat([normalise(part, settings) for part in parts])
    return both.contiguous(memory_format=torch.channels_last)


def group_numbers(image_ids: list[str], groups: Mapping[str, str], mirrored: NDArray[np.bool_] | None = None) -> Tensor:
    """int64[B], equal for images that show the same; such are not told apart.

    Args:
        image_ids: B names.
        groups: image_id -> group_id.
        mirrored: bool[B]; an image and its mirror image do not show the same. None where none is mirrored.
    """
    numbers: dict[tuple[str, bool], int] = {}
    ways = [False] * len(image_ids) if mirrored is None else mirrored.tolist()
    keys = [(groups.get(name, name), way) for name, way in zip(image_ids, ways, strict=True)]
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])


def _names(batch: Views) -> tuple[list[str], NDArray[np.bool_] | None]:
    """The images of all processes' parts of a batch, and which of them are mirrored."""
    parts = ranks.every((batch.image_ids, batch.mirrored))
    mirrored = [each for _, each in parts if each is not None]
    return [name for names, _ in parts for name in names], np.concatenate(mirrored) if mirrored else None


class ViewStream:
    """A photo view and an edge view of each image."""

    columns: tuple[str, ...] = ()
    shown: Mapping[str, str] = {"match": "val_match_at_1"}

    def __init__(
        self,
        settings: params.Train,
        source: ViewSource,
        image_ids: list[str],
        held_out_ids: list[str],
        device: torch.device,
        precision: str,
    ) -> None:
        self.settings, self.source, self.device, self.precision = settings, source, device, precision
        ahead = leaves_cores(device, ranks.on_this_machine())
        self.shards = ViewShards(source.pairs, image_ids, source.settings, ahead=ahead)
        if self.shards.count < 2:
            raise PipelineError(
                "train.objectives.contrast: a contrast needs two training images; set it to 0 or add some"
            )
        ranks.require_equal_parts(self.shards.batch, "contrast.batch_images")
        self.held_out = ViewShards(source.pairs, held_out_ids, source.settings, ahead=ahead)

    def batches(self, epoch: int, step: int, steps: int) -> Iterator[Views]:
        """Batches without end, pass after pass over all images."""
        return self.shards.batches(self.settings.seed, epoch * steps + step, ranks.share())

    def forward(self, model: ContextNet, batch: Views, seed: int) -> ViewOutputs:  # noqa: ARG002  views are drawn
        """Last maps of this process's views, fc6 of all."""
        names, mirrored = _names(batch)
        groups = group_numbers(names, self.source.groups, mirrored).to(self.device)
        images = view_inputs(batch, self.settings, self.device)
        with autocast(self.device, self.precision):
            features = model.encoder.pool5(images)
            photos, edges = map(ranks.all_rows, model.encoder.read(features).chunk(2))
        return ViewOutputs(names, images, features, photos, edges, groups, self.source.settings.temperature)

    @torch.no_grad()
    def validate(self, model: ContextNet) -> dict[str, float]:
        """Part of the held-out drawings whose nearest held-out photo, by cosine, is their own (or one of its group).

        It needs no label, so settings may be chosen by it. The views are the same at every call.
        """
        was_training = model.training
        model.eval()
        names: list[str] = []
        parts: list[Tensor] = []
        for views in self.held_out.once():
            with autocast(self.device, self.precision):
                vectors = model.encoder(view_inputs(views, self.settings, self.device))
            names += views.image_ids
            parts.append(functional.normalize(vectors.float(), dim=1).view(2, len(views.image_ids), -1))
        model.train(was_training)
        photos, edges = torch.cat(parts, dim=1)
        numbers = group_numbers(names, self.source.groups).to(self.device)
        right = [numbers[(part @ photos.T).argmax(dim=1)] for part in edges.split(1024)]
        return {"val_match_at_1": round(float((torch.cat(right) == numbers).float().mean()), 6)}
