"""Encoders that end in fc6, over the trunks of `trunks.py`."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models.trunks import (
    BEFORE_LAST,
    CHANNELS,
    PRETRAINED_CONVS,
    PRETRAINED_FC6_GRID,
    built_stages,
    layout,
    side_of,
    table_stages,
)


class Encoder(nn.Module):
    """Convolutions, then fc6.

    fc6 reads a fixed grid of places of the last map, the grid that a patch gives (2 x 2 for 96 px in the `alexnet`
    layout, 1 x 1 in `doersch`, 3 x 3 in the others), torchvision's (6 x 6, VGG16 7 x 7) where pretrained fc6 weights
    are loaded, or that of `fc6_grid`. How it meets an input that gives other places is chosen in `forward`.
    """

    def __init__(self, settings: params.Train, patch_size: int) -> None:
        super().__init__()
        self.name = settings.encoder
        self.batch_norm = settings.batch_norm
        if settings.encoder in ("googlenet", "resnet18", "efficientnet_lite0"):
            self.stages = built_stages(settings.encoder)
            channels = CHANNELS[settings.encoder]
        else:
            convs = layout(settings.encoder, settings.conv2_channels)
            # Doersch's network was built in Caffe, whose pooling rounds up: 96 px would vanish otherwise.
            self.stages = table_stages(convs, batch_norm=settings.batch_norm, ceil_mode=settings.encoder == "doersch")
            channels = convs[-1].channels
        places = side_of(self.stages, patch_size)
        given = PRETRAINED_FC6_GRID[settings.encoder] if settings.pretrained == "fc6" else places
        self.grid = settings.fc6_grid or given
        self.fc6 = nn.Linear(channels * self.grid**2, settings.fc6)
        self.fc6_norm = nn.BatchNorm1d(settings.fc6) if settings.batch_norm else nn.Identity()
        self._initialise()
        # Without gradients the frozen layers are not gone through backwards, nor are their activations kept.
        self.frozen = [self.stages[number - 1] for number in self.pretrained_convs(settings.frozen)]
        for stage in self.frozen:
            stage.requires_grad_(requires_grad=False)

    def _initialise(self) -> None:
        # He et al. 2015: keeps the scale of activations through ReLU layers. PyTorch's default shrinks it by sqrt(3)
        # a layer, and a net without BatchNorm then starts so flat that a comparison with BatchNorm would be unfair.
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002  as in nn.Module
        """As `nn.Module.train`, but frozen layers normalise as in use: else their statistics would go on moving."""
        super().train(mode)
        for stage in self.frozen:
            stage.eval()
        return self

    def pool5(self, images: Tensor) -> Tensor:
        """Features of the last map: of the last pooling layer, where the trunk ends in one.

        Args:
            images: float[N, 3, H, W], normalised (see `context.normalise`).

        Returns:
            float[N, C, h, w], not negative but for EfficientNet, whose last map is not rectified.
        """
        features: Tensor = self.stages(images)
        return features

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the map before the last, averaged to the last one's places, and of the last.

        Args:
            images: as in `pool5`.

        Returns:
            float[N, B, h, w] and float[N, C, h, w].
        """
        before: Tensor = self.stages[: BEFORE_LAST[self.name]](images)
        last: Tensor = self.stages[BEFORE_LAST[self.name] :](before)
        return functional.adaptive_avg_pool2d(before, (last.shape[-2], last.shape[-1])), last

    def forward(self, images: Tensor, fc6_input: str = "pool") -> Tensor:
        """fc6 before its ReLU.

        Args:
            images: float[N, 3, H, W], normalised.
            fc6_input: what becomes of an input that gives other places than fc6 reads. `pool`: pool5 is averaged to
                fc6's grid (or repeated, where it has fewer places), so fc6 sees the whole image at the resolution of
                that grid. `slide`: fc6 is applied at every place as a convolution and averaged, so it sees the image
                part by part. For an input that gives just its grid both are the same.

        Returns:
            float[N, D].
        """
        return self.read(self.pool5(images), fc6_input)

    def read(self, features: Tensor, fc6_input: str = "pool") -> Tensor:
        """fc6 before its ReLU, of a last map; see `forward`.

        Args:
            features: float[N, C, h, w], as `pool5` gives it.
            fc6_input: `pool` or `slide`.

        Returns:
            float[N, D].
        """
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
        """Convolution `number`, from 1, of a layout that is written as a table."""
        module = self.stages[number - 1][0]  # type: ignore[index]
        assert isinstance(module, nn.Conv2d)  # noqa: S101  built above
        return module

    def conv_norm(self, number: int) -> nn.Module:
        """What normalises convolution `number`, from 1: BatchNorm2d or Identity."""
        module: nn.Module = self.stages[number - 1][1]  # type: ignore[index]
        return module

    def pretrained_convs(self, pretrained: str) -> range:
        """Numbers of the convolutions (EfficientNet: resolutions) that `train.pretrained` takes from start weights."""
        if pretrained == "none":
            return range(1, 1)
        level = 5 if pretrained == "fc6" else int(pretrained[-1])
        return range(1, PRETRAINED_CONVS[self.name][level - 1] + 1)
