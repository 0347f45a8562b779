"""Several processes that train one network, started by torchrun: each runs its own part of every batch.

Losses are computed as if one process had the whole batch: what compares images sees the vectors of all processes
(`all_rows`), BatchNorm takes its statistics over all of them (`norms.py`), and gradients are averaged before the step.
So the result is that of one process, but for rounding. In one process every function here does nothing.

A process that dies is missed by the others, and so is one that hangs or whose network broke: see `_exchange`. On its
machine torchrun ends all at once.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline_lib.data.share import ALL, Share
from pipeline_lib.errors import PipelineError

LONGEST = timedelta(days=1)
"""That processes wait for the first one, which may wait for another run or make what all need."""
STALLED = timedelta(minutes=10)
"""That a process waits for the others within a step; it takes seconds, with a checkpoint perhaps minutes."""
Value = TypeVar("Value")


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Joins this process to the others that torchrun has started, with a GPU of its own where `device` is one.

    Raises:
        PipelineError: there are fewer GPUs than processes on this machine, or torchrun has started all for a second
            time.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    if (restarts := os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) != "0":
        # torch 2.12 keeps the store of addresses, in which processes then find those that have died, and may wait.
        raise PipelineError(
            f"torchrun --max-restarts {restarts}: processes that it starts again itself may not find one another; "
            "leave the option out, and start the same command again"
        )
    if device.type == "cuda":
        number, count = dist.get_node_local_rank(), torch.cuda.device_count()
        if number >= count:
            raise PipelineError(
                f"torchrun: this machine has {count} GPUs; start at most {count} processes on it, or set train.device "
                "to cpu"
            )
        torch.cuda.set_device(number)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST)
    try:
        _group()
        yield
    finally:
        _group.cache_clear()
        dist.destroy_process_group()


@cache
def _group() -> Any:
    """Of what is exchanged within a step; the one of all the rest waits longer."""
    return dist.new_group(timeout=STALLED)


@contextmanager
def _exchange() -> Iterator[None]:
    """Tells what it means where an exchange with the other processes fails.

    Raises:
        PipelineError: another process has died, hangs or can't be reached.
    """
    try:
        yield
    except RuntimeError as failure:
        number, of = share()
        raise PipelineError(
            f"process {number + 1} of {of} that train together lost another one, which died, hangs or can't be reached "
            f"({str(failure).strip().splitlines()[-1]}); start all again with the same command: they go on from the "
            "last checkpoint"
        ) from failure


def share() -> Share:
    """This process's number among all."""
    together = dist.is_available() and dist.is_initialized()
    return Share(dist.get_rank(), dist.get_world_size()) if together else ALL


def first() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return share().number == 0


def on_this_machine() -> int:
    """How many of the processes share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if share().of > 1 else 1


def wait() -> None:
    """Returns when all processes have called it."""
    if share().of > 1:
        with _exchange():
            dist.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """The first process runs the block, then the others, which find what it wrote."""
    if not first():
        wait()
    yield
    if first():
        wait()


def require_equal_parts(count: int, key: str) -> None:
    """Checks that every process gets as many images of a batch.

    Raises:
        PipelineError: `count` images, as `key` of the params says, are no multiple of the processes.
    """
    if count % share().of:
        raise PipelineError(
            f"{key}: {count} images a step can't be shared equally among {share().of} processes; set it to a multiple "
            f"of {share().of}, or start another number of processes"
        )


def every(value: Value) -> list[Value]:
    """What each process has here, in the order of their numbers."""
    if share().of == 1:
        return [value]
    values: list[Any] = [None] * share().of
    with _exchange():
        dist.all_gather_object(values, value, _group())
    return values


def all_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, float32[W N, ...], one process's after the other's, of float[N, ...].

    Gradients reach the processes that the rows come from, and add up over those that use them.
    """
    if share().of == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows.float())  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """torch's own (`torch.distributed.nn.functional.all_gather`) is deprecated without a public successor."""

    @staticmethod
    def forward(_context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(share().of)]
        with _exchange():
            dist.all_gather(parts, rows.contiguous(), _group())
        return torch.cat(parts)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        with _exchange():
            dist.all_reduce(total, group=_group())
        return total[share().own(len(total))]


@torch.no_grad()
def copy_first(module: torch.nn.Module) -> None:
    """Gives all processes the weights and statistics of the first, to the bit."""
    if share().of > 1:
        for value in module.state_dict().values():
            whole = value.contiguous()
            with _exchange():
                dist.broadcast(whole, 0, _group())
            value.copy_(whole)


@torch.no_grad()
def average(values: list[Tensor]) -> None:
    """Puts the mean over all processes into float32 tensors of one device."""
    if share().of == 1 or not values:
        return
    flat = torch.cat([value.flatten() for value in values])
    with _exchange():
        dist.all_reduce(flat, group=_group())
    flat /= share().of
    for value, mean in zip(values, torch.split(flat, [value.numel() for value in values]), strict=True):
        value.copy_(mean.view_as(value))


def average_gradients(module: torch.nn.Module) -> None:
    """Makes the gradients of this process's loss those of the mean loss of all."""
    if share().of > 1:
        average([value.grad for value in module.parameters() if value.grad is not None])


def averaged(figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Figures of a step, float[] each, as means over all processes."""
    if share().of == 1:
        return dict(figures)
    values = [value.detach().float().clone() for value in figures.values()]
    average(values)
    return dict(zip(figures, values, strict=True))
