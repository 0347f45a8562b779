"""BatchNorm that does not disturb pretrained layers: scale and shift from one pass over training patches."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline_lib.models.encoder import Encoder


@torch.no_grad()
def calibrate(encoder: Encoder, pretrained: str, batches: Iterable[Tensor]) -> None:
    """Sets the BatchNorm behind each pretrained layer so that activations start unchanged.

    BatchNorm gives gamma (x - mean) / sqrt(var + eps) + beta. With gamma = sqrt(var + eps) and beta = mean, the
    statistics of the pass, that is x. In training the batch's own statistics take their place, close to them.

    Args:
        encoder: with BatchNorm and pretrained weights in place.
        pretrained: value of `train.pretrained`; layers it does not name keep scale 1 and shift 0.
        batches: float[N, 3, H, W] each, normalised training patches.
    """
    layers: list[tuple[nn.Module, nn.Module]] = [
        (encoder.conv(number), encoder.conv_norm(number)) for number in encoder.pretrained_convs(pretrained)
    ]
    if pretrained == "fc6":
        layers.append((encoder.fc6, encoder.fc6_norm))
    layers = [(layer, norm) for layer, norm in layers if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d)]
    if not layers:
        return
    sums = {layer: _Moments() for layer, _ in layers}
    hooks = [layer.register_forward_hook(sums[layer].add) for layer, _ in layers]
    # While the statistics are taken the norms let everything through, so one pass serves all layers.
    bypasses = [norm.register_forward_hook(lambda _module, inputs, _output: inputs[0]) for _, norm in layers]
    was_training = encoder.training
    encoder.eval()
    try:
        for batch in batches:
            encoder(batch)
    finally:
        for hook in hooks + bypasses:
            hook.remove()
        encoder.train(was_training)
    for layer, norm in layers:
        mean, variance = sums[layer].result()
        norm.running_mean.copy_(mean)  # type: ignore[operator]
        norm.running_var.copy_(variance)  # type: ignore[operator]
        norm.weight.copy_((variance + norm.eps).sqrt())  # type: ignore[operator]
        norm.bias.copy_(mean)  # type: ignore[operator]


class _Moments:
    """Running mean and variance per channel, in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Any = 0.0
        self.squares: Any = 0.0

    def add(self, _layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        values = output.double()
        axes = [axis for axis in range(values.ndim) if axis != 1]
        self.count += values.numel() // values.shape[1]
        self.total = self.total + values.sum(dim=axes)
        self.squares = self.squares + values.square().sum(dim=axes)

    def result(self) -> tuple[Tensor, Tensor]:
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp_min(0.0)
        return mean.float(), variance.float()
