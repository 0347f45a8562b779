"""EfficientNet-Lite0 up to its last map: deep, with half of the multiplications of AlexNet's convolutions.

EfficientNet-B0 (Tan and Le 2019, table 1) without squeeze-and-excitation and with ReLU6 in place of swish, as its
authors released it for small devices; inverted residual blocks of depthwise convolutions (Sandler et al. 2018, fig. 3).
The published weights were trained in TensorFlow, which pads so that an output has its input's side divided by the
stride, rounded up, the odd pixel at the right and the bottom.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Group(NamedTuple):
    """A row of the paper's table: blocks of one kind."""

    blocks: int
    kernel: int
    stride: int  # of the first block
    expansion: int
    channels: int


STEM = 32
LEVELS: tuple[tuple[Group, ...], ...] = (
    (Group(1, 3, 1, 1, 16),),
    (Group(2, 3, 2, 6, 24),),
    (Group(2, 5, 2, 6, 40),),
    (Group(3, 3, 2, 6, 80), Group(3, 5, 1, 6, 112)),
    (Group(4, 5, 2, 6, 192), Group(1, 3, 1, 6, 320)),
)
"""Per resolution, from half of the image's side down to a 32nd: what `pretrained: conv1` to `conv5` take. The stem
belongs to the first. The last convolution, of one place to 1,280 channels for the classes, is left out."""
EPSILON = 1e-3


class SameConv(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's `SAME`."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """float[N, C, H, W] to float[N, O, ceil(H / stride), ceil(W / stride)]."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in images.shape[-2:])
        if height % 2 == width % 2 == 0:
            padding = (height // 2, width // 2)
            return functional.conv2d(images, self.weight, self.bias, self.stride, padding, groups=self.groups)
        edges = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(functional.pad(images, edges))


def _unit(conv: SameConv, *, activation: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = [conv, nn.BatchNorm2d(conv.out_channels, eps=EPSILON)]
    return nn.Sequential(*parts, nn.ReLU6(inplace=True)) if activation else nn.Sequential(*parts)


class Block(nn.Module):
    """An inverted residual: widen, look around channel by channel, narrow; what went in is added where shapes agree."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = _unit(SameConv(channels, wide, 1)) if expansion > 1 else nn.Identity()
        self.depthwise = _unit(SameConv(wide, wide, kernel, stride, groups=wide))
        self.project = _unit(SameConv(wide, out, 1), activation=False)
        self.shortcut = stride == 1 and channels == out

    def forward(self, images: Tensor) -> Tensor:
        """float[N, C, H, W] to float[N, O, H / stride, W / stride]."""
        output: Tensor = self.project(self.depthwise(self.expand(images)))
        return output + images if self.shortcut else output


def efficientnet_lite0(*, batch_norm: bool) -> nn.Sequential:  # noqa: ARG001  it is built with BatchNorm only
    """One stage per resolution, the stem first in the first; ends in a map that is not rectified."""
    levels, channels = [], STEM
    for number, groups in enumerate(LEVELS):
        parts: list[nn.Module] = [] if number else [_unit(SameConv(3, STEM, 3, stride=2))]
        for group in groups:
            for place in range(group.blocks):
                stride = 1 if place else group.stride
                parts.append(Block(channels, group.channels, group.kernel, stride, group.expansion))
                channels = group.channels
        levels.append(nn.Sequential(*parts))
    return nn.Sequential(*levels)


def levels_of(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The published state dict, by resolution and under the names of `efficientnet_lite0`.

    Raises:
        KeyError: a tensor is missing.
    """
    levels, first = [], 0
    for number, groups in enumerate(LEVELS):
        found: dict[str, Tensor] = {}
        if not number:
            found |= dict(_renamed(state, "_conv_stem", "_bn0", "0"))
        for place in range(sum(group.blocks for group in groups)):
            theirs, ours = f"_blocks.{first + place}.", str(place + (not number))
            if f"{theirs}_expand_conv.weight" in state:
                found |= dict(_renamed(state, f"{theirs}_expand_conv", f"{theirs}_bn0", f"{ours}.expand"))
            found |= dict(_renamed(state, f"{theirs}_depthwise_conv", f"{theirs}_bn1", f"{ours}.depthwise"))
            found |= dict(_renamed(state, f"{theirs}_project_conv", f"{theirs}_bn2", f"{ours}.project"))
        first += sum(group.blocks for group in groups)
        levels.append(found)
    return levels


def _renamed(state: Mapping[str, Tensor], conv: str, norm: str, name: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.0.weight", state[f"{conv}.weight"].float()
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.1.{part}", state[f"{norm}.{part}"].float()
    yield f"{name}.1.num_batches_tracked", torch.tensor(0)
