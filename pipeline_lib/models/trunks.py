"""The convolutional trunks of the encoders: AlexNet's kin from one table each, GoogLeNet and ResNet from torchvision.

`alexnet` is torchvision's layout (Krizhevsky 2014, one tower). `doersch` is the layout of Doersch, Gupta and Efros
(2015) as the source of this project draws it: wider convolutions, conv2 with stride 2, local response normalisation.
`vgg16` is configuration D of Simonyan and Zisserman (2015). `googlenet` (Szegedy et al. 2015, with BatchNorm) and
`resnet18` (He et al. 2016) are torchvision's modules up to the last map; `efficientnet_lite0` has a file of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pipeline_lib.models import efficientnet_lite

Name = Literal["alexnet", "doersch", "vgg16", "googlenet", "resnet18", "efficientnet_lite0"]


@dataclass(frozen=True)
class Conv:
    """One convolution and what follows it."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: int = 0  # side of a max pooling with stride 2; 0 for none
    normalise: bool = False


def layout(name: Name, conv2_channels: int) -> tuple[Conv, ...]:
    """The convolutions of a layout that is written as a table: `alexnet`, `doersch` or `vgg16`."""
    if name == "alexnet":
        return (
            Conv(64, 11, stride=4, padding=2, pool=3),
            Conv(192, 5, padding=2, pool=3),
            Conv(384, 3, padding=1),
            Conv(256, 3, padding=1),
            Conv(256, 3, padding=1, pool=3),
        )
    if name == "doersch":
        return (
            Conv(96, 11, stride=4, pool=3, normalise=True),
            Conv(conv2_channels, 5, stride=2, padding=2, pool=3, normalise=True),
            Conv(384, 3, padding=1),
            Conv(384, 3, padding=1),
            Conv(256, 3, padding=1, pool=3),
        )
    if name == "vgg16":
        blocks = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
        return tuple(
            Conv(channels, 3, padding=1, pool=2 if number == count - 1 else 0)
            for channels, count in blocks
            for number in range(count)
        )
    raise ValueError(f"{name} has no table")


PRETRAINED_CONVS: dict[str, tuple[int, ...]] = {
    "alexnet": (1, 2, 3, 4, 5),
    "doersch": (1, 2, 3, 4, 5),
    "vgg16": (2, 4, 7, 10, 13),
    "efficientnet_lite0": (1, 2, 3, 4, 5),
}
"""Per layout: how many convolutions `pretrained: conv1` to `conv5` take (VGG16: blocks; EfficientNet: all
blocks of a resolution)."""

BEFORE_LAST = {"alexnet": 4, "doersch": 4, "vgg16": 10, "googlenet": 13, "resnet18": 7, "efficientnet_lite0": 4}
"""Per layout: how many of its stages lead to the map that `conv4` names, of twice as many places a side as the last or,
in AlexNet's kin, of as many as the last before it is pooled."""

PRETRAINED_FC6_GRID = {"alexnet": 6, "vgg16": 7}
"""How many places of the last pooling layer, squared, torchvision's fc6 reads."""

CHANNELS = {"googlenet": 1024, "resnet18": 512, "efficientnet_lite0": efficientnet_lite.CHANNELS}


def table_stages(convs: tuple[Conv, ...], *, batch_norm: bool, ceil_mode: bool) -> nn.Sequential:
    """One Sequential per convolution: convolution, BatchNorm or Identity, pooling, ReLU, LRN.

    Args:
        convs: the layout.
        batch_norm: whether BatchNorm follows every convolution.
        ceil_mode: pooling rounds its output's side up.
    """
    stages, channels = [], 3
    for conv in convs:
        parts: list[nn.Module] = [
            nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, conv.padding),
            nn.BatchNorm2d(conv.channels) if batch_norm else nn.Identity(),
        ]
        if conv.pool:
            # Before the ReLU, which commutes with a maximum: the same numbers from a quarter of the work.
            parts.append(nn.MaxPool2d(conv.pool, 2, ceil_mode=ceil_mode))
        parts.append(nn.ReLU(inplace=True))
        if conv.normalise:
            parts.append(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0))
        stages.append(nn.Sequential(*parts))
        channels = conv.channels
    return nn.Sequential(*stages)


def built_stages(name: Literal["googlenet", "resnet18", "efficientnet_lite0"]) -> nn.Sequential:
    """A network without weights, without its average pooling and classifier."""
    if name == "efficientnet_lite0":
        return efficientnet_lite.stages()
    from torchvision import models  # noqa: PLC0415  slow to import, needed for these two alone

    if name == "googlenet":
        net: nn.Module = models.googlenet(weights=None, aux_logits=False, init_weights=False)
    else:
        net = models.resnet18(weights=None)
    last = {"avgpool", "dropout", "fc", "aux1", "aux2"}
    return nn.Sequential(*(child for key, child in net.named_children() if key not in last))


def side_of(stages: nn.Module, patch_size: int) -> int:
    """Side of the last map for a patch, places."""
    was_training = stages.training
    with torch.no_grad():
        side = int(stages.eval()(torch.zeros(1, 3, patch_size, patch_size)).shape[-1])
    stages.train(was_training)
    return side
