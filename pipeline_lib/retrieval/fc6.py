"""From prepared images to vectors: fc6, at one size or several, and beside it the maps that it reads from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models.device import autocast, choose_precision
from pipeline_lib.retrieval.encode import LoadedEncoder


def parts_of(loaded: LoadedEncoder, settings: params.Embed) -> Callable[[Tensor], list[Tensor]]:
    """The function that section `embed` describes.

    Args:
        loaded: the network.
        settings: the section.

    Returns:
        A function of images prepared at the section's largest size, to vectors, float[N, D] each. The layers are joined
        to one vector, or are vectors of their own under `apart`. Where a vector joins several sizes or layers, each of
        these is scaled to length 1; they follow one another in the order of the sizes, the layers of a size together.
    """
    precision = choose_precision(settings, loaded.device)

    def layers(images: Tensor, size: int) -> list[Tensor]:
        if images.shape[-1] != size:
            images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
        with autocast(loaded.device, precision):
            before, last = loaded.encoder.maps(images)
            fc6: Tensor = loaded.encoder.read(last, settings.fc6_input).float()
        values = functional.relu(fc6) if settings.activation == "relu" else fc6
        found = {"fc6": values, "pool5": last.float().flatten(1), "conv4": before.float().flatten(1)}
        return [found[name] for name in settings.layers.split("+")]

    def embed(images: Tensor) -> list[Tensor]:
        images = images.to(loaded.device)
        seen = [layers(images, size) for size in settings.sizes]
        if settings.apart:
            return [joined(layer) for layer in zip(*seen, strict=True)]
        return [joined([layer for size in seen for layer in size])]

    return embed


def joined(vectors: Sequence[Tensor]) -> Tensor:
    """Vectors of the same N images, float[N, D] each, side by side, each of length 1; a single one as it is."""
    return vectors[0] if len(vectors) == 1 else torch.cat([functional.normalize(each) for each in vectors], dim=1)


def fc6_of(loaded: LoadedEncoder, settings: params.Embed) -> Callable[[Tensor], Tensor]:
    """The same with all vectors joined: to float[N, D]."""
    parts = parts_of(loaded, settings)
    return lambda images: joined(parts(images))


def pool5_of(loaded: LoadedEncoder) -> Callable[[Tensor], Tensor]:
    """The function from prepared images to flattened pool5 (float[N, C * h * w])."""
    return lambda images: loaded.encoder.pool5(images.to(loaded.device)).flatten(1)
