"""Encoders that end in fc6: a trunk of convolutions from the registry, and a linear layer that reads its last map."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.registry import encoder_spec, load


class Encoder(nn.Module):
    """Convolutions, then fc6.

    fc6 reads a fixed grid of places of the last map: that of `fc6_grid`, or else the grid that a patch gives (2 x 2 for
    96 px in the `alexnet` layout, 1 x 1 in `doersch`, 3 x 3 in the others), or torchvision's (6 x 6, VGG16 7 x 7) where
    pretrained fc6 weights are loaded. A map of another size is averaged to that grid.
    """

    def __init__(self, settings: params.Train, patch_size: int) -> None:
        super().__init__()
        self.spec = encoder_spec(settings.encoder)
        self.stages: nn.Sequential = load(self.spec.trunk)(batch_norm=settings.batch_norm)
        channels, places = self._last_map(patch_size)
        self.grid = settings.fc6_grid or (self.spec.fc6_places if settings.pretrained == "fc6" else places)
        self.fc6 = nn.Linear(channels * self.grid**2, settings.fc6)
        self.fc6_norm = nn.BatchNorm1d(settings.fc6) if settings.batch_norm else nn.Identity()
        self._initialise()
        # Without gradients there is no backward pass through frozen layers, and their activations are not kept.
        self.frozen = [self.stages[number - 1] for number in self.pretrained_convs(settings.frozen)]
        for stage in self.frozen:
            stage.requires_grad_(requires_grad=False)

    def _initialise(self) -> None:
        # He et al. 2015: keeps the scale of activations through ReLU layers. PyTorch's default shrinks it by sqrt(3)
        # a layer, and a net without BatchNorm then starts so flat that a comparison with BatchNorm would be unfair.
        for module in self.modules() if self.spec.before_last else [self.fc6]:
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002  as in nn.Module
        """As `nn.Module.train`, but frozen layers stay in evaluation mode, so that their statistics do not move."""
        super().train(mode)
        for stage in self.frozen:
            stage.eval()
        return self

    def pool5(self, images: Tensor) -> Tensor:
        """Features of the last map: of the last pooling layer, where the trunk ends in one.

        Args:
            images: float[N, 3, H, W], normalised (see `inputs.normalise`).

        Returns:
            float[N, C, h, w], not negative except where the last map is not rectified, as in EfficientNet.
        """
        return self.last_two(images)[1]

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the map before the last, averaged to the last one's places, and of the last.

        Args:
            images: as in `pool5`.

        Returns:
            float[N, B, h, w] and float[N, C, h, w].
        """
        before, last = self.last_two(images)
        return functional.adaptive_avg_pool2d(before, (last.shape[-2], last.shape[-1])), last

    def last_two(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `maps`, but with as many places of the map before the last as it has: float[N, B, g, g]."""
        cut = self.spec.before_last
        if not cut:
            found: tuple[Tensor, Tensor] = self.stages(images)
            return found
        before: Tensor = self.stages[:cut](images)
        last: Tensor = self.stages[cut:](before)
        return before, last

    def forward(self, images: Tensor) -> Tensor:
        """fc6 before its ReLU: float[N, D] of normalised images, float[N, 3, H, W]."""
        return self.read(self.pool5(images))

    def read(self, features: Tensor) -> Tensor:
        """fc6 before its ReLU, of a last map: float[N, C, h, w], as `pool5` gives it, to float[N, D]."""
        pooled = functional.adaptive_avg_pool2d(features, self.grid)
        output: Tensor = self.fc6_norm(self.fc6(pooled.flatten(1)))
        return output

    def conv(self, number: int) -> nn.Conv2d:
        """Convolution `number`, from 1, of a trunk that is built from a table."""
        module = self.stages[number - 1][0]  # type: ignore[index]
        assert isinstance(module, nn.Conv2d)  # noqa: S101  built above
        return module

    def conv_norm(self, number: int) -> nn.Module:
        """What normalises convolution `number`, from 1: BatchNorm2d or Identity."""
        module: nn.Module = self.stages[number - 1][1]  # type: ignore[index]
        return module

    def pretrained_convs(self, pretrained: str) -> range:
        """Numbers of the stages, from 1, that a value of `train.pretrained` takes from published weights."""
        if pretrained == "none":
            return range(1, 1)
        level = 5 if pretrained == "fc6" else int(pretrained[-1])
        return range(1, self.spec.pretrained[level - 1] + 1)

    def _last_map(self, patch_size: int) -> tuple[int, int]:
        """Channels and side (in places) of the last map for a patch of `patch_size` px."""
        was_training = self.stages.training
        self.stages.eval()
        with torch.no_grad():
            shape = self.pool5(torch.zeros(1, 3, patch_size, patch_size)).shape
        self.stages.train(was_training)
        return int(shape[1]), int(shape[-1])
