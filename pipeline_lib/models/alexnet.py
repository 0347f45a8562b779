"""AlexNet in two layouts, and stages built from a table of convolutions.

`alexnet` is torchvision's layout (Krizhevsky 2014, one tower). `doersch` is that of Doersch, Gupta and Efros (2015) as
the source of this project draws it: wider convolutions, conv2 with stride 2, local response normalisation.
"""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Conv:
    """One convolution and what follows it."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: int = 0  # side of a max pooling with stride 2; 0 for none
    normalise: bool = False


def table_stages(convs: tuple[Conv, ...], *, batch_norm: bool, ceil_mode: bool = False) -> nn.Sequential:
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


def alexnet(*, batch_norm: bool) -> nn.Sequential:
    """One stage per convolution."""
    convs = (
        Conv(64, 11, stride=4, padding=2, pool=3),
        Conv(192, 5, padding=2, pool=3),
        Conv(384, 3, padding=1),
        Conv(256, 3, padding=1),
        Conv(256, 3, padding=1, pool=3),
    )
    return table_stages(convs, batch_norm=batch_norm)


def doersch(*, batch_norm: bool) -> nn.Sequential:
    """One stage per convolution. Pooling rounds up as in Caffe, or patches of 96 px would vanish."""
    convs = (
        Conv(96, 11, stride=4, pool=3, normalise=True),
        Conv(384, 5, stride=2, padding=2, pool=3, normalise=True),
        Conv(384, 3, padding=1),
        Conv(384, 3, padding=1),
        Conv(256, 3, padding=1, pool=3),
    )
    return table_stages(convs, batch_norm=batch_norm, ceil_mode=True)
