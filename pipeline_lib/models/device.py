"""Where and how exactly numbers are computed: device, threads, mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from pipeline_lib import params
from pipeline_lib.errors import PipelineError


def choose_device(settings: params.Train) -> torch.device:
    """The device that `train.device` names; `auto` takes CUDA where there is one.

    Raises:
        PipelineError: `cuda` was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise PipelineError("train.device: cuda, but no CUDA device is at hand; set it to auto or cpu")
    return torch.device("cuda" if available and settings.device != "cpu" else "cpu")


def use_threads(count: int) -> None:
    """Sets the number of compute threads, on which the bits of a sum depend."""
    torch.set_num_threads(count)


def has_bf16(device: torch.device) -> bool:
    """Whether the processor itself multiplies bfloat16; emulated, it would be slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001


def choose_precision(settings: params.Train, device: torch.device) -> str:
    """`bf16` or `fp32`, as `train.precision` says; `auto` takes bf16 where the processor has it."""
    if settings.precision == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return settings.precision


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision for a block: weights stay float32, products are bfloat16."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
