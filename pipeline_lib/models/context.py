"""The context network: one encoder shared by all patches, late fusion of two fc6 vectors, 8 directions.

Every patch is encoded once and used in all its pairs: 8 encoder passes (4 regions, 2 domains) serve 24 pairs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models.encoder import Encoder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as OpenCV's RGB2GRAY


def normalise(pixels: Tensor, settings: params.Train) -> Tensor:
    """Turns pixels into the encoder's input.

    Args:
        pixels: uint8[N, H, W, 3] (RGB) or uint8[N, H, W] (edge maps and drawings).
        settings: `color` (grey, for photos) and `patch_norm`.

    Returns:
        float32[N, 3, H, W] in channels-last memory; by ImageNet's mean and deviation, or each image to mean 0 and
        deviation 1 under `patch_norm`.
    """
    values = pixels.to(torch.float32)
    if values.ndim == 4 and settings.color == "grey":
        values = values @ values.new_tensor(GREY)
    if settings.patch_norm:
        if values.ndim == 3:
            values = values.unsqueeze(-1).expand(-1, -1, -1, 3)
        spread, mean = torch.std_mean(values, dim=(1, 2, 3), keepdim=True)
        values = (values - mean) / (spread + 255e-3)
    else:
        # (x / 255 - mean) / deviation as one product and one sum over memory that is written once.
        deviation = values.new_tensor(IMAGENET_STD)
        scale, shift = 1 / (255.0 * deviation), -values.new_tensor(IMAGENET_MEAN) / deviation
        values = values.mul_(scale) if values.ndim == 4 else values.unsqueeze(-1) * scale
        values = values.add_(shift)
    return values.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def drop_colours(images: Tensor, generator: torch.Generator) -> Tensor:
    """Keeps one channel and fills the other two with faint noise (Doersch et al. 2015, against chromatic aberration).

    Args:
        images: float[N, 3, H, W].
        generator: source of the draw, on the CPU.

    Returns:
        float[N, 3, H, W].
    """
    kept = torch.randint(3, (len(images),), generator=generator)
    mask = functional.one_hot(kept, 3).to(images).view(-1, 3, 1, 1)
    spread = images.std(dim=(2, 3), keepdim=True).mean(dim=1, keepdim=True)
    noise = torch.randn(images.shape, generator=generator).to(images) * (0.01 * spread)
    return (images * mask + noise * (1 - mask)).contiguous(memory_format=torch.channels_last)


class LateFusion(nn.Module):
    """Fully connected layers over the concatenation of some patches' fc6 vectors, to 8 directions.

    The first layer is linear in the concatenation, W [a; b] = W_a a + W_b b. So each half is applied once a patch
    and the halves are added per pair: the same numbers for a third of the work.
    """

    def __init__(self, width: int, settings: params.Train, patches: int) -> None:
        super().__init__()
        self.halves = nn.ModuleList(nn.Linear(width, settings.head[0], bias=part == 0) for part in range(patches))
        sizes = [*settings.head, 8]
        layers = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        self.rest = nn.ModuleList(layers)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # He et al. 2015; the halves add up to one layer of `patches` times the inputs.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                module.weight.data.div_(patches**0.5 if module in set(self.halves) else 1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(layers[-1].weight, std=0.01)

    def forward(self, fc6: Tensor, places: list[Tensor]) -> Tensor:
        """Logits of the directions.

        Args:
            fc6: float[B, P, D], the P patches of each image, after the ReLU and dropout.
            places: per fused patch int64[K], which of the P patches it is in each of K pairs.

        Returns:
            float[B, K, 8].
        """
        hidden = sum(half(fc6)[:, index] for half, index in zip(self.halves, places, strict=True))
        for layer in self.rest:
            hidden = layer(functional.relu(hidden))
        logits: Tensor = hidden
        return logits


class Logits(NamedTuple):
    """What the context network says of each pair."""

    pair: Tensor  # float[B, K, 8]
    one_patch: Tensor  # float[B, K, 8], from the first patch alone


class ContextNet(nn.Module):
    """Encoder and heads. The second head sees one patch only: what it can tell, the layout gives away."""

    def __init__(self, settings: params.Train, patch_size: int, first: Tensor, second: Tensor) -> None:
        """Builds the network.

        Args:
            settings: section `train`.
            patch_size: px.
            first: int64[K], the first patch of each pair among the patches of an image.
            second: int64[K], likewise.
        """
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings, patch_size)
        self.dropout = nn.Dropout(settings.dropout)
        self.fusion = LateFusion(settings.fc6, settings, patches=2)
        self.one_patch = LateFusion(settings.fc6, settings, patches=1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.first: Tensor
        self.second: Tensor

    def forward(self, images: Tensor, count: int) -> Logits:
        """Predicts directions.

        Args:
            images: float[count * P, 3, H, W], the P patches of one image after the other.
            count: number of images B.
        """
        fc6 = self.encoder(images)
        fc6 = self.dropout(functional.relu(fc6)).view(count, -1, fc6.shape[1])
        # Detached: the measure must not shape what it measures.
        alone = self.one_patch(fc6.detach(), [self.first])
        return Logits(self.fusion(fc6, [self.first, self.second]), alone)
