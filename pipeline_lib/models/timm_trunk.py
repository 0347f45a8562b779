"""Trunks by the name that timm knows them by: `train.encoder: timm:NAME`, without a line of ours per network.

timm (Wightman 2019, Apache 2.0) is an extra: `python tools/install.py requirements-timm.txt`. The last two maps are
those of its features interface; of a vision transformer, the patch tokens of its last two blocks, normalised as its
last are. Its config tells how pixels are normalised.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline_lib.errors import PipelineError
from pipeline_lib.models.inputs import IMAGENET_MEAN, IMAGENET_STD

MAPS = 2
"""The last ones that are read."""


class Trunk(nn.Module):
    """A network of timm without its classifier, which gives its last two maps."""

    gain: Tensor
    shift: Tensor

    def __init__(self, name: str, **weights: Any) -> None:
        """Builds it.

        Args:
            name: that timm knows, with or without the tag of its weights, such as `resnet18` or
                `vit_small_patch14_dinov2.lvd142m`.
            weights: arguments of `timm.create_model` that say which it starts from; without any they are drawn by
                chance.

        Raises:
            PipelineError: timm is not installed, knows no such network, or can't tell its maps.
        """
        super().__init__()
        self.name = name
        self.model: Any = _network(name, **weights)
        self.taken = self.model.prune_intermediate_layers(MAPS, prune_norm=False, prune_head=True)
        # Pixels come normalised by ImageNet's mean and deviation; this network may want others.
        config = self.model.pretrained_cfg
        theirs, deviation = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
        ours, spread = (torch.tensor(values).view(-1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("gain", spread / deviation, persistent=False)
        self.register_buffer("shift", (ours - theirs) / deviation, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The map before the last and the last, float[N, B, g, g] and float[N, C, h, w], of float[N, 3, H, W].

        Raises:
            PipelineError: the network can't see images of this size.
        """
        try:
            before, last = self.model.forward_intermediates(
                images * self.gain + self.shift,
                indices=self.taken,
                norm=True,
                output_fmt="NCHW",
                intermediates_only=True,
            )
        except (AssertionError, RuntimeError) as failure:
            if isinstance(failure, RuntimeError) and "must match the size" not in str(failure):
                raise
            raise PipelineError(
                f"train.encoder: timm:{self.name} can't see images of {images.shape[-1]} px ({failure}); set "
                "patches.size, contrast.image_size and embed.image_size to sides that it can, or take another network"
            ) from failure
        return before, last


def __getattr__(name: str) -> Callable[..., nn.Sequential]:
    """The trunk of a network of timm, as a line of the registry names it: `pipeline_lib.models.timm_trunk:NAME`."""
    if name.startswith("__"):
        raise AttributeError(name)

    def build(*, batch_norm: bool) -> nn.Sequential:  # noqa: ARG001  each is built as its paper says
        return nn.Sequential(Trunk(name))

    return build


def pretrained(name: str, file: Path | None) -> tuple[dict[str, Tensor], str]:
    """Start weights of a trunk under the names of its own state, and where they come from.

    Args:
        name: of the network.
        file: a state dict as timm publishes it; None takes timm's hub, or what it has left on this machine.

    Raises:
        PipelineError: the hub is out of reach or has none for this name, or the file holds another network's.
    """
    weights: dict[str, Any] = {"pretrained": True}
    if file:
        weights["pretrained_cfg_overlay"] = {"file": str(file)}
    try:
        trunk = Trunk(name, **weights)
    except PipelineError:
        raise
    except Exception as failure:  # of many kinds: the hub's, the network's, torch's
        raise PipelineError(
            f"{file}: holds no weights of timm:{name} ({failure}); correct train.weights_file or train.encoder"
            if file
            else f"train.weights: timm could not fetch those of {name} ({failure}); check the connection, or fetch "
            "them where there is one and name the file: train.weights: file, with weights_file and weights_sha256"
        ) from failure
    tag = trunk.model.pretrained_cfg.get("tag") or "no tag"
    return trunk.state_dict(), file.name if file else f"timm {name.partition('.')[0]} ({tag})"


def _network(name: str, **weights: Any) -> Any:
    try:
        import timm  # noqa: PLC0415  an extra
    except ImportError as failure:
        raise PipelineError(
            f"train.encoder: timm:{name} needs the package timm ({failure}); install it with "
            "`python tools/install.py requirements-timm.txt`, or take another encoder"
        ) from failure
    if not timm.is_model(name):
        known = timm.list_models()
        near = difflib.get_close_matches(name, known, 3) or [one for one in known if name in one][:3]
        raise PipelineError(
            f"train.encoder: timm has no network {name}"
            + (
                f"; perhaps {' or '.join(near)}"
                if near
                else "; its names: python -c 'import timm; print(timm.list_models())'"
            )
        )
    # With its classifier, since without one timm takes weights of which layers are missing.
    try:
        # A transformer for one size of images takes others so, and such as are no multiple of its patches.
        network = timm.create_model(name, dynamic_img_size=True, dynamic_img_pad=True, **weights)
    except TypeError:
        network = timm.create_model(name, **weights)
    if not hasattr(network, "prune_intermediate_layers"):
        raise PipelineError(f"train.encoder: timm's {name} gives no maps of features; take another network")
    return network
