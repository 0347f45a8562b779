"""Layers that look at more than one image, over the batch of all processes: BatchNorm, and the draw of dropout.

`torch.nn.SyncBatchNorm` does the same on GPUs and refuses the CPU.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline_lib.errors import PipelineError
from pipeline_lib.models.context import ContextNet
from pipeline_lib.training import ranks


def join_processes(model: ContextNet) -> None:
    """Puts the layers of this module into a network that several processes train; alone, it stays as it is.

    Raises:
        PipelineError: a layer of it takes BatchNorm's statistics in a way of its own.
    """
    if ranks.share().of > 1:
        _replace_norms(model)
        model.dropout = SharedDropout(model.dropout.p)


def _replace_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            if type(child) not in (nn.BatchNorm1d, nn.BatchNorm2d):
                raise PipelineError(
                    f"train.encoder: its layer {type(child).__name__} is BatchNorm of a kind that several processes "
                    "can't train; start one, or take an encoder without"
                )
            setattr(module, name, SharedBatchNorm.of(child))
        else:
            _replace_norms(child)


class SharedBatchNorm(_BatchNorm):
    """BatchNorm with the statistics of all processes, each of which holds as many images."""

    @classmethod
    def of(cls, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Self:
        """Takes over a layer's weights and statistics: the same tensors."""
        made = cls(norm.num_features, norm.eps, norm.momentum)
        made.weight, made.bias = norm.weight, norm.bias
        made.running_mean, made.running_var = norm.running_mean, norm.running_var
        made.num_batches_tracked = norm.num_batches_tracked
        return made.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  as in nn.Module
        """Any shape will do."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as in nn.Module
        """Normalises float[N, C, ...]."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        axes = [axis for axis in range(values.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
        own = torch.stack(torch.var_mean(values, axes, correction=0))
        variances, means = ranks.all_rows(own[None]).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        self._remember(mean.detach(), variance.detach(), len(means) * values.numel() // values.shape[1])
        scale = self.weight * (variance + self.eps).rsqrt()
        return (values * scale.view(shape) + (self.bias - mean * scale).view(shape)).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics as nn.BatchNorm2d does, with the variance of a sample."""
        assert self.momentum is not None  # noqa: S101  no layer here averages over all steps
        assert self.running_mean is not None  # noqa: S101
        assert self.running_var is not None  # noqa: S101
        assert self.num_batches_tracked is not None  # noqa: S101
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


class SharedDropout(nn.Dropout):
    """Dropout drawn for the whole batch, of which each process takes its own part, as one process would draw it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as in nn.Module
        """Drops numbers of float[N, ...]."""
        if not self.training:
            return input
        share = ranks.share()
        everything = input.new_ones(share.of * len(input), *input.shape[1:])
        return input * functional.dropout(everything, self.p)[share.own(len(everything))]
