"""Where and how exactly numbers are computed: device, threads, mixed precision."""

import ctypes
from contextlib import AbstractContextManager, nullcontext

import cv2
import torch

from pipeline_lib import params
from pipeline_lib.data.cores import usable_cores
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


def use_threads(count: int, processes: int = 1) -> int:
    """Sets the compute threads of torch, on which the order of sums and so the bits depend; OpenCV gets one.

    Between one and several threads OpenCV's Canny differs in a few pixels. On images of a few hundred px, several take
    nearly twice the processor's time for the same, and it is torch that needs the cores.

    Args:
        count: as a key `threads` of the params says; 0 takes one per physical core that this process may use, which
            limits of a container count for, too.
        processes: among which these cores are shared out.

    Returns:
        How many torch has now.
    """
    if not count:
        count = max(1, usable_cores(physical=True) // processes)
    torch.set_num_threads(count)
    cv2.setNumThreads(1)
    return count


def leaves_cores(device: torch.device, processes: int = 1) -> bool:
    """Whether cores are idle while a network computes: on another device, or in fewer threads than there are cores.

    `processes` is how many compute like this one on this machine.
    """
    return device.type != "cpu" or torch.get_num_threads() * processes < usable_cores()


KEPT_BELOW, KEPT_AT_MOST = 1 << 30, (1 << 31) - 1
"""Bytes of the blocks, and of them all, that `keep_freed_memory` keeps."""


def keep_freed_memory() -> None:
    """Lets the process keep the memory of freed tensors for the next ones.

    glibc gives blocks above a threshold back to the system at once, and each new tensor then pays for fresh pages: 12 %
    of the time of a training step. Where there is another C library nothing happens. From the outside the same comes
    by MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_threshold, KEPT_BELOW)
    mallopt(trim_threshold, KEPT_AT_MOST)


def has_bf16(device: torch.device) -> bool:
    """Whether the processor itself multiplies bfloat16; emulated, it would be slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001


def choose_precision(settings: params.Train | params.Embed, device: torch.device) -> str:
    """`bf16` or `fp32`, as `precision` of the section says; `auto` takes bf16 where the processor has it."""
    if settings.precision == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return settings.precision


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision for a block: weights stay float32, products are bfloat16."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
