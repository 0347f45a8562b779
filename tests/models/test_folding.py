"""A folded network gives the vectors that it gave before, without its BatchNorm layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline_lib import params
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.folding import folded

Make = Callable[..., params.Params]


def norms(network: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """Its BatchNorm layers."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["alexnet", "doersch", "vgg16", "resnet18", "googlenet", "efficientnet_lite0"])
@torch.no_grad()
def test_folding_changes_vectors_by_rounding_alone(make_params: Make, name: str) -> None:
    settings = make_params({"train.encoder": name, "train.pretrained": "none", "train.fc6": 32})
    torch.manual_seed(0)
    encoder = Encoder(settings.train, 96).eval()
    for norm in norms(encoder):
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
    images = torch.randn(2, 3, 96, 96)
    before, map_before = encoder(images), encoder.pool5(images)
    after = folded(encoder)
    assert norms(after) == []
    for old, new in ((before, after(images)), (map_before, after.pool5(images))):
        assert float((new - old).norm() / old.norm()) < 1e-4
