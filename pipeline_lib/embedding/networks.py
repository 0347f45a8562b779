"""From prepared images to vectors: the layers of a trained network at one size or several, or of several networks.

Networks that were trained apart err apart, and so do the layers of one (`embed.apart`). With every part of a vector at
the same length, and the alignment fitted part by part (`alignment.Alignment.widths`), an inner product is the mean of
the parts' own similarities.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.embedding.embedder import BESIDE, beside
from pipeline_lib.embedding.projection import FILE_NAME as PROJECTION
from pipeline_lib.embedding.projection import Projection
from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import resolve_path
from pipeline_lib.models.device import autocast, choose_precision
from pipeline_lib.models.inputs import normalise, prepare, scaled
from pipeline_lib.models.saved import LoadedEncoder, load_encoder
from pipeline_lib.run import META, RECORD, WEIGHTS, Run


def joined(vectors: Sequence[Tensor]) -> Tensor:
    """Vectors of the same N images, float[N, D] each, side by side, each of length 1; a single one as it is."""
    return vectors[0] if len(vectors) == 1 else torch.cat([functional.normalize(each) for each in vectors], dim=1)


def maps_of(loaded: LoadedEncoder, settings: params.Embed) -> Callable[[Tensor], dict[str, Tensor]]:
    """The function from normalised images to the network's last maps and fc6, by their names in `embed.layers`.

    Maps are float[N, C, h, w], the one before the last averaged to the last one's places; fc6 is float[N, D].
    """
    precision = choose_precision(settings, loaded.device)

    def maps(images: Tensor) -> dict[str, Tensor]:
        with autocast(loaded.device, precision):
            before, last = loaded.encoder.maps(images)
            fc6: Tensor = loaded.encoder.read(last)
        return {"fc6": fc6.float(), "pool5": last.float(), "conv4": before.float()}

    return maps


def parts_of(
    loaded: LoadedEncoder, settings: params.Embed, channels: Mapping[str, Vectors] = MappingProxyType({})
) -> Callable[[Tensor], list[Tensor]]:
    """The function that section `embed` describes.

    Args:
        loaded: the network.
        settings: the section.
        channels: by layer the directions of its channels that are kept, float32[K, C]; others are kept whole.

    Returns:
        A function of images prepared at the section's largest size, to vectors, float[N, D] each. The layers are joined
        to one vector, or are vectors of their own under `apart`. Where a vector joins several sizes or layers, each of
        these is scaled to length 1; they follow one another in the order of the sizes, the layers of a size together.
    """
    maps = maps_of(loaded, settings)
    kept = {name: torch.from_numpy(directions).to(loaded.device) for name, directions in channels.items()}

    def layers(images: Tensor, size: int) -> list[Tensor]:
        if images.shape[-1] != size:
            images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
        found = maps(images)
        for name, directions in kept.items():
            found[name] = torch.einsum("nchw,kc->nkhw", found[name], directions)
        return [found[name].flatten(1) for name in settings.layers.split("+")]

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
    projection: Projection | None = None  # of the vectors of all layers, where `embed.dimension` asks for one

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

    @property
    def dimension(self) -> int:
        """See `Embedder`."""
        with torch.inference_mode():
            return int(self.embed(torch.zeros(1, 3, self.size, self.size)).shape[1])

    @property
    def meta(self) -> Mapping[str, Any]:
        """See `Embedder`; of several networks, their architectures together and the rest of the own one."""
        names = " + ".join(str(member.meta.get("architecture", "")) for member in self.members)
        return {**self.own.meta, "architecture": names}

    def scaled(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `Embedder`."""
        return scaled(image, self.size)

    @torch.inference_mode()
    def vectors(self, images: NDArray[np.uint8]) -> Vectors:
        """See `Embedder`."""
        found: Vectors = self.embed(normalise(torch.from_numpy(images), self.own.train)).float().cpu().numpy()
        return found

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """An image (uint8[H, W, 3] RGB, or uint8[H, W]) as their input, float32[1, 3, size, size]."""
        return prepare(image, self.size, self.own.train)

    @cached_property
    def embed(self) -> Callable[[Tensor], Tensor]:
        """The function from prepared images, float32[N, 3, size, size], to vectors, float[N, D].

        Where they join several parts (see `parts_of`), of one network or of several, each has length 1. Under
        `embed.facing` of the run's own network, the vectors of the mirror images follow.
        """
        facing, projection = bool(self.own.params.embed.facing), self.projection

        def embed(images: Tensor) -> Tensor:
            views = [joined(self._parts(each)) for each in ((images, images.flip(-1)) if facing else (images,))]
            if projection is None:
                return torch.cat(views, dim=1) if facing else views[0]
            return torch.from_numpy(projection.apply([view.numpy() for view in views]))

        return embed

    def _parts(self, images: Tensor) -> list[Tensor]:
        return [part.cpu() for parts in self._functions for part in parts(images)]

    @cached_property
    def _functions(self) -> list[Callable[[Tensor], list[Tensor]]]:
        channels = self.projection.channels if self.projection else {}
        return [parts_of(member, member.params.embed, channels) for member in self.members]

    @property
    def facing(self) -> float:
        """How `Alignment` weighs mirror images: not at all where a projection has done so already."""
        return 0.0 if self.projection else self.own.params.embed.facing

    def widths(self) -> tuple[int, ...]:
        """Numbers per part of an image's vector; () of one part, as `Alignment` has it."""
        if self.projection:
            return ()
        with torch.inference_mode():
            found = tuple(part.shape[1] for part in self._parts(torch.zeros(1, 3, self.size, self.size)))
        return found if len(found) > 1 else ()

    def labels(self) -> str:
        """The labels that they have seen: "none", or those of the first of them that has seen some."""
        return next((seen for member in self.members if (seen := member.train.labels) != "none"), "none")


def open_networks(run: Run) -> Networks:
    """The networks of a run: its own, and those beside it.

    Raises:
        PipelineError: a network or the projection is missing or damaged, or they can't see one prepared image.
    """
    projection = Projection.load(run.embeddings / PROJECTION) if run.params.embed.dimension else None
    return Networks(load_networks(run), projection)


def weights_of(run: Run) -> list[Path]:
    """The files of their weights, in their order."""
    return [run.weights, *(folder / "model" / WEIGHTS for folder in beside(run.embeddings))]


def load_networks(run: Run) -> tuple[LoadedEncoder, ...]:
    """The networks alone; errors as in `open_networks`."""
    runs = [run, *(Run.open(folder, run.root) for folder in beside(run.embeddings))]
    return tuple(load_encoder(each.model, each.params) for each in runs)


def take_beside(run: Run) -> None:
    """Copies what `embed.beside` names below the run's embeddings, so that the run can be searched without them.

    Args:
        run: whose section `embed` names finished runs; what was below its embeddings goes.

    Raises:
        PipelineError: a folder holds no finished run, or its weights have another digest; names the params key.
    """
    members = [found for name, digest in run.params.embed.runs for found in _members(run.root, name, digest)]
    shutil.rmtree(run.embeddings / BESIDE, ignore_errors=True)
    for number, other in enumerate(members):
        target = run.embeddings / BESIDE / str(number)
        for file in (RECORD, f"model/{META}", f"model/{WEIGHTS}", *other.record.get("files", ())):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(other.folder / file, target / file)


def _members(root: Path, name: str, digest: str) -> list[Run]:
    """The run of a name in `embed.beside`, and those beside it."""
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
    return [other, *(Run.open(copy, root) for copy in beside(other.embeddings))]
