"""From prepared images to vectors: the layers of a trained network at one size or several, or of several networks.

Networks that were trained apart err apart, and so do the layers of one (`embed.apart`). With every part of a vector at
the same length, and the alignment fitted part by part (`alignment.Alignment.widths`), an inner product is the mean of
the parts' own similarities.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import resolve_path
from pipeline_lib.models.device import autocast, choose_precision
from pipeline_lib.models.inputs import prepare
from pipeline_lib.models.saved import META, LoadedEncoder, load_encoder
from pipeline_lib.run import RECORD, WEIGHTS, Run

BESIDE = "beside"
"""Below a folder of embeddings: run folders of the other networks that take part, numbered in their order."""


def joined(vectors: Sequence[Tensor]) -> Tensor:
    """Vectors of the same N images, float[N, D] each, side by side, each of length 1; a single one as it is."""
    return vectors[0] if len(vectors) == 1 else torch.cat([functional.normalize(each) for each in vectors], dim=1)


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
            fc6: Tensor = loaded.encoder.read(last).float()
        found = {"fc6": fc6, "pool5": last.float().flatten(1), "conv4": before.float().flatten(1)}
        return [found[name] for name in settings.layers.split("+")]

    def embed(images: Tensor) -> list[Tensor]:
        images = images.to(loaded.device)
        seen = [layers(images, size) for size in settings.sizes]
        if settings.apart:
            return [joined(layer) for layer in zip(*seen, strict=True)]
        return [joined([layer for size in seen for layer in size])]

    return embed


def fc6_of(loaded: LoadedEncoder, settings: params.Embed) -> Callable[[Tensor], Tensor]:
    """The same with all vectors joined: to float[N, D]."""
    parts = parts_of(loaded, settings)
    return lambda images: joined(parts(images))


def pool5_of(loaded: LoadedEncoder) -> Callable[[Tensor], Tensor]:
    """The function from prepared images to flattened pool5 (float[N, C * h * w])."""
    return lambda images: loaded.encoder.pool5(images.to(loaded.device)).flatten(1)


@dataclass(frozen=True)
class Networks:
    """The networks that embed an image, each as section `embed` of its own params says; the run's own first."""

    members: tuple[LoadedEncoder, ...]

    def __post_init__(self) -> None:
        first = self.own.train
        for other in self.members[1:]:
            if (other.train.color == "grey", other.train.patch_norm) != (first.color == "grey", first.patch_norm):
                raise PipelineError(
                    "embed.beside: a run there has other values of train.color or train.patch_norm; networks see an "
                    "image prepared in one way"
                )

    @property
    def own(self) -> LoadedEncoder:
        """The run's own network."""
        return self.members[0]

    @property
    def size(self) -> int:
        """The side that images are prepared at, px: the largest that any of them asks for."""
        return max(member.params.embed.largest for member in self.members)

    @property
    def batch(self) -> int:
        """Images at a time, as the run's own section `embed` says."""
        return self.own.params.embed.batch

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """An image (uint8[H, W, 3] RGB, or uint8[H, W]) as their input, float32[1, 3, size, size]."""
        return prepare(image, self.size, self.own.train)

    @cached_property
    def embed(self) -> Callable[[Tensor], Tensor]:
        """The function from prepared images, float32[N, 3, size, size], to vectors, float[N, D].

        Where they join several parts (see `parts_of`), of one network or of several, each has length 1. Under
        `embed.facing` of the run's own network, the vectors of the mirror images follow.
        """
        if not self.own.params.embed.facing:
            return lambda images: joined(self._parts(images))
        return lambda images: torch.cat([joined(self._parts(each)) for each in (images, images.flip(-1))], dim=1)

    def _parts(self, images: Tensor) -> list[Tensor]:
        return [part.cpu() for parts in self._functions for part in parts(images)]

    @cached_property
    def _functions(self) -> list[Callable[[Tensor], list[Tensor]]]:
        return [parts_of(member, member.params.embed) for member in self.members]

    def widths(self) -> tuple[int, ...]:
        """Numbers per part of an image's vector; () of one part, as `Alignment` has it."""
        with torch.inference_mode():
            found = tuple(part.shape[1] for part in self._parts(torch.zeros(1, 3, self.size, self.size)))
        return found if len(found) > 1 else ()

    def labelled(self) -> bool:
        """Whether any of them learned from ImageNet's labels: through its start weights or its teacher."""
        return any(m.train.pretrained != "none" or m.train.weight("teacher") > 0 for m in self.members)


def open_networks(run: Run) -> Networks:
    """The networks of a run: its own, and those beside it.

    Raises:
        PipelineError: a network is missing or damaged, or they can't see one prepared image.
    """
    runs = [run, *(Run.open(folder, run.root) for folder in beside(run.embeddings))]
    return Networks(tuple(load_encoder(each.model, each.params) for each in runs))


def beside(embeddings: Path) -> list[Path]:
    """The run folders of the networks that take part beside the own one, in their order."""
    # File managers leave files of their own, such as .DS_Store.
    numbered = (folder for folder in (embeddings / BESIDE).glob("*") if folder.name.isdecimal())
    return sorted(numbered, key=lambda folder: int(folder.name))


def take_beside(run: Run) -> None:
    """Copies what `embed.beside` names below the run's embeddings, so that the run can be searched without them.

    Args:
        run: whose section `embed` names finished runs; what was below its embeddings goes.

    Raises:
        PipelineError: a folder holds no finished run, or its weights have another digest; names the params key.
    """
    members = [found for name, digest in run.params.embed.runs for found in _members(run.root, name, digest)]
    shutil.rmtree(run.embeddings / BESIDE, ignore_errors=True)
    for number, folder in enumerate(members):
        target = run.embeddings / BESIDE / str(number)
        (target / "model").mkdir(parents=True)
        for file in (RECORD, f"model/{META}", f"model/{WEIGHTS}"):
            shutil.copy2(folder / file, target / file)


def _members(root: Path, name: str, digest: str) -> list[Path]:
    """The run folder of a name in `embed.beside`, and those beside it."""
    folder = resolve_path(name, root, "embed.beside")
    try:
        other = Run.open(folder, root)
    except PipelineError as failure:
        raise PipelineError(f"embed.beside: {name}: {failure}; or leave it out") from failure
    found = str(other.record["weights"])
    if not found.startswith(digest):
        raise PipelineError(
            f"embed.beside: the weights in {other.model} are {found[:12]}..., not {digest}; the run was made again "
            f"since: write {name}@{found[:12]}"
        )
    return [folder, *beside(other.embeddings)]
