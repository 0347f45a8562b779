"""Encoders of the AlexNet family that end in fc6, built from one table each.

`alexnet` is torchvision's layout (Krizhevsky 2014, one tower). `doersch` is the layout of Doersch, Gupta and Efros
(2015) as the source of this project draws it: wider convolutions, conv2 with stride 2, local response normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline_lib import params

PRETRAINED_FC6_GRID = 6
"""torchvision's fc6 reads 6 x 6 places of pool5."""


@dataclass(frozen=True)
class Conv:
    """One convolution and what follows its ReLU."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: bool = False
    normalise: bool = False


def layout(name: str, conv2_channels: int) -> tuple[Conv, ...]:
    """The five convolutions of a layout, `alexnet` or `doersch`."""
    if name == "alexnet":
        return (
            Conv(64, 11, stride=4, padding=2, pool=True),
            Conv(192, 5, padding=2, pool=True),
            Conv(384, 3, padding=1),
            Conv(256, 3, padding=1),
            Conv(256, 3, padding=1, pool=True),
        )
    return (
        Conv(96, 11, stride=4, pool=True, normalise=True),
        Conv(conv2_channels, 5, stride=2, padding=2, pool=True, normalise=True),
        Conv(384, 3, padding=1),
        Conv(384, 3, padding=1),
        Conv(256, 3, padding=1, pool=True),
    )


class Encoder(nn.Module):
    """Convolutions, then fc6.

    fc6 reads a fixed grid of places of the last pooling layer, the grid that a patch gives (2 x 2 for 96 px in the
    `alexnet` layout, 1 x 1 in `doersch`), or 6 x 6 where pretrained fc6 weights are loaded. How it meets an input
    that gives more places is chosen in `forward`.
    """

    def __init__(self, settings: params.Train, patch_size: int) -> None:
        super().__init__()
        self.convs = layout(settings.encoder, settings.conv2_channels)
        self.batch_norm = settings.batch_norm
        stages, channels = [], 3
        for conv in self.convs:
            parts: list[nn.Module] = [
                nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, conv.padding),
                nn.BatchNorm2d(conv.channels) if settings.batch_norm else nn.Identity(),
            ]
            if conv.pool:
                # Doersch's network was built in Caffe, whose pooling rounds up: 96 px would vanish otherwise.
                # Before the ReLU, which commutes with a maximum: the same numbers from a quarter of the work.
                parts.append(nn.MaxPool2d(3, 2, ceil_mode=settings.encoder == "doersch"))
            parts.append(nn.ReLU(inplace=True))
            if conv.normalise:
                parts.append(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0))
            stages.append(nn.Sequential(*parts))
            channels = conv.channels
        self.stages = nn.Sequential(*stages)
        with torch.no_grad():
            places = self.stages.eval()(torch.zeros(1, 3, patch_size, patch_size)).shape[-1]
        self.train()
        self.grid = PRETRAINED_FC6_GRID if settings.pretrained == "fc6" else int(places)
        self.fc6 = nn.Linear(channels * self.grid**2, settings.fc6)
        self.fc6_norm = nn.BatchNorm1d(settings.fc6) if settings.batch_norm else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        # He et al. 2015: keeps the scale of activations through ReLU layers. PyTorch's default shrinks it by sqrt(3)
        # a layer, and a net without BatchNorm then starts so flat that a comparison with BatchNorm would be unfair.
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def pool5(self, images: Tensor) -> Tensor:
        """Features of the last pooling layer.

        Args:
            images: float[N, 3, H, W], normalised (see `context.normalise`).

        Returns:
            float[N, C, h, w], not negative.
        """
        features: Tensor = self.stages(images)
        return features

    def forward(self, images: Tensor, fc6_input: str = "pool") -> Tensor:
        """fc6 before its ReLU.

        Args:
            images: float[N, 3, H, W], normalised.
            fc6_input: what becomes of an input larger than a patch. `pool`: pool5 is averaged to fc6's grid, so fc6
                sees the whole image at the resolution of one patch. `slide`: fc6 is applied at every place as a
                convolution and averaged, so it sees the image patch by patch. For a patch both are the same.

        Returns:
            float[N, D].
        """
        features = self.pool5(images)
        if fc6_input == "slide" and min(features.shape[-2:]) >= self.grid:
            kernel = self.fc6.weight.view(self.fc6.out_features, features.shape[1], self.grid, self.grid)
            return self._norm6(functional.conv2d(features, kernel, self.fc6.bias)).mean(dim=(2, 3))
        pooled = functional.adaptive_avg_pool2d(features, self.grid)
        output: Tensor = self.fc6_norm(self.fc6(pooled.flatten(1)))
        return output

    def _norm6(self, maps: Tensor) -> Tensor:
        # BatchNorm1d over the channels of a map: every place counts as a sample.
        count, channels, height, width = maps.shape
        flat = self.fc6_norm(maps.permute(0, 2, 3, 1).reshape(-1, channels))
        back: Tensor = flat.view(count, height, width, channels)
        return back.permute(0, 3, 1, 2)

    def conv(self, number: int) -> nn.Conv2d:
        """Convolution `number` (1 to 5)."""
        module = self.stages[number - 1][0]  # type: ignore[index]
        assert isinstance(module, nn.Conv2d)  # noqa: S101  built above
        return module

    def conv_norm(self, number: int) -> nn.Module:
        """What normalises convolution `number` (1 to 5): BatchNorm2d or Identity."""
        module: nn.Module = self.stages[number - 1][1]  # type: ignore[index]
        return module
