"""VGG16: configuration D of Simonyan and Zisserman (2015)."""

from torch import nn

from pipeline_lib.models.alexnet import Conv, table_stages

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions, a pooling behind each block."""


def vgg16(*, batch_norm: bool) -> nn.Sequential:
    """One stage per convolution."""
    convs = [
        Conv(channels, 3, padding=1, pool=2 if number == count - 1 else 0)
        for channels, count in BLOCKS
        for number in range(count)
    ]
    return table_stages(tuple(convs), batch_norm=batch_norm)
