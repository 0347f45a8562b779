"""From prepared images to vectors: fc6, with the last map beside it, at one size or several, less a mirror's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models.device import autocast, choose_precision
from pipeline_lib.retrieval.encode import LoadedEncoder


def fc6_of(loaded: LoadedEncoder, settings: params.Embed) -> Callable[[Tensor], Tensor]:
    """The function that section `embed` describes, from images prepared at its largest size to fc6, float[N, D].

    Where there are several sizes, or `pool5` adds the last map, flattened, to fc6, each part is scaled to length 1.
    Parts follow one another in the order of the sizes, a size's map behind its fc6.

    With f(x) such a vector of an image, scaled to length 1, and w = `mirror`, an image gets f(x) - w f(x mirrored).
    The sum of both views' vectors, which does not know left from right, is thereby scaled by 1 - w, and their
    difference, which knows nothing else, by 1 + w.
    """
    precision = choose_precision(settings, loaded.device)

    def parts(images: Tensor, size: int) -> list[Tensor]:
        if images.shape[-1] != size:
            images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
        with autocast(loaded.device, precision):
            features = loaded.encoder.pool5(images)
            fc6: Tensor = loaded.encoder.read(features, settings.fc6_input).float()
        values = functional.relu(fc6) if settings.activation == "relu" else fc6
        return [values, features.float().flatten(1)] if settings.pool5 else [values]

    def seen(images: Tensor) -> Tensor:
        vectors = [part for size in settings.sizes for part in parts(images, size)]
        return vectors[0] if len(vectors) == 1 else torch.cat([functional.normalize(each) for each in vectors], dim=1)

    def embed(images: Tensor) -> Tensor:
        images = images.to(loaded.device)
        if not settings.mirror:
            return seen(images)
        own, other = (functional.normalize(seen(each)) for each in (images, images.flip(-1)))
        return own - settings.mirror * other

    return embed


def pool5_of(loaded: LoadedEncoder) -> Callable[[Tensor], Tensor]:
    """The function from prepared images to flattened pool5 (float[N, C * h * w])."""
    return lambda images: loaded.encoder.pool5(images.to(loaded.device)).flatten(1)
