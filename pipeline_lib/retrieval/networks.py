"""Several trained networks as one: their vectors joined, to be aligned each by itself.

Networks that were trained apart err apart, and so do the layers of one (`embed.apart`). With every part of a vector at
the same length, and the alignment fitted part by part (`alignment.Alignment.widths`), an inner product is the mean of
the parts' own similarities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pipeline_lib import params
from pipeline_lib.data.files import read_json
from pipeline_lib.errors import PipelineError
from pipeline_lib.models import earlier
from pipeline_lib.retrieval.copies import SETTINGS, copies
from pipeline_lib.retrieval.encode import LoadedEncoder, load_encoder
from pipeline_lib.retrieval.fc6 import joined, parts_of


@dataclass(frozen=True)
class Network:
    """A trained network and how it embeds an image: section `embed` of the run that it comes from."""

    loaded: LoadedEncoder
    settings: params.Embed


@dataclass(frozen=True)
class Networks:
    """The networks that embed an image, the run's own first."""

    members: tuple[Network, ...]

    def __post_init__(self) -> None:
        first = self.own.train
        for other in self.members[1:]:
            train = other.loaded.train
            if (train.color == "grey", train.patch_norm) != (first.color == "grey", first.patch_norm):
                raise PipelineError(
                    "embed.beside: a run there has other values of train.color or train.patch_norm; networks see an "
                    "image prepared in one way"
                )

    @property
    def own(self) -> LoadedEncoder:
        """The run's own network."""
        return self.members[0].loaded

    @property
    def size(self) -> int:
        """The side that images are prepared at, px: the largest that any of them asks for."""
        return max(member.settings.largest for member in self.members)

    @property
    def batch(self) -> int:
        """Images at a time, as the run's own section `embed` says."""
        return self.members[0].settings.batch

    @cached_property
    def embed(self) -> Callable[[Tensor], Tensor]:
        """The function from prepared images, float32[N, 3, size, size], to vectors, float[N, D].

        Where they join several parts (see `parts_of`), of one network or of several, each has length 1. Under
        `embed.facing` of the run's own network, the vectors of the mirrored images follow.
        """
        if not self.members[0].settings.facing:
            return lambda images: joined(self._parts(images))
        return lambda images: torch.cat([joined(self._parts(each)) for each in (images, images.flip(-1))], dim=1)

    def _parts(self, images: Tensor) -> list[Tensor]:
        return [part.cpu() for parts in self._functions for part in parts(images)]

    @cached_property
    def _functions(self) -> list[Callable[[Tensor], list[Tensor]]]:
        return [parts_of(member.loaded, member.settings) for member in self.members]

    def widths(self) -> tuple[int, ...]:
        """Numbers per part of an image's vector; () of one part, as `Alignment` has it."""
        with torch.inference_mode():
            found = tuple(part.shape[1] for part in self._parts(torch.zeros(1, 3, self.size, self.size)))
        return found if len(found) > 1 else ()

    def labelled(self) -> bool:
        """Whether any of them learned from ImageNet's labels: through its start weights or its teacher."""
        settings = [member.loaded.train for member in self.members]
        return any(train.pretrained != "none" or train.teacher_weight > 0 for train in settings)


def open_networks(model: Path, settings: params.Embed, embeddings: Path) -> Networks:
    """The networks of a run.

    Args:
        model: folder that the train stage wrote.
        settings: section `embed` of the run.
        embeddings: folder of its embeddings, which holds what `copies.take` copied.

    Raises:
        PipelineError: a network is missing or damaged, or they can't see one prepared image.
    """
    members = [Network(load_encoder(model), settings)]
    for folder in copies(embeddings):
        try:
            own = params.Embed.model_validate(earlier.embed(read_json(folder / SETTINGS)))
        except ValueError as failure:
            raise PipelineError(f"{folder / SETTINGS}: can't be used ({failure}); make that run again") from failure
        members.append(Network(load_encoder(folder), own))
    return Networks(tuple(members))
