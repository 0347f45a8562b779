"""The context network: one encoder shared by all patches, late fusion of two fc6 vectors, 8 directions.

Every patch is encoded once and used in all its pairs: 8 encoder passes (4 regions, 2 domains) serve 24 pairs.
"""

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models.encoder import Encoder


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
