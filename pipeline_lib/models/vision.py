"""GoogLeNet (Szegedy et al. 2015, with BatchNorm) and ResNet-18 (He et al. 2016): torchvision's, up to the last map."""

from torch import nn
from torchvision import models

CLASSIFIER = {"avgpool", "dropout", "fc", "aux1", "aux2"}


def googlenet(*, batch_norm: bool) -> nn.Sequential:  # noqa: ARG001  it is built with BatchNorm only
    """One stage per module of torchvision's."""
    return _up_to_last_map(models.googlenet(weights=None, aux_logits=False, init_weights=False))


def resnet18(*, batch_norm: bool) -> nn.Sequential:  # noqa: ARG001
    """One stage per module of torchvision's."""
    return _up_to_last_map(models.resnet18(weights=None))


def _up_to_last_map(net: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(child for name, child in net.named_children() if name not in CLASSIFIER))
