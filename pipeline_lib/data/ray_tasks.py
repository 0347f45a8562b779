"""The work of `tasks.map_shards` on a Ray cluster, whose machines share the repository's folder and the photos.

Of Ray its core alone: tasks. What a machine was doing when it was lost, another does again.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pipeline_lib.errors import PipelineError
from pipeline_lib.files import LIBRARY

Result = TypeVar("Result")
Task = TypeVar("Task")

LOST = 5
"""A task that was lost more often, with the machine or process that ran it, has failed: it may be what ends them."""
AHEAD = 2
"""Tasks per core that Ray holds: the next is at hand when one is done, and a million take no memory."""


def map_on_ray(
    call: Callable[[Task], tuple[Result | None, str | None]], tasks: list[tuple[int, Task]], address: str
) -> Iterator[tuple[int, tuple[Result | None, str | None]]]:
    """Calls a function on every task, each on one core of the cluster.

    Args:
        call: gives the result of a task, or the error; it can be pickled, and the cluster's machines import its module
            from the folder that this process has it from.
        tasks: with their numbers.
        address: of the cluster, as `ray.init` takes it.

    Yields:
        Numbers of tasks in the order in which they end, each with what `call` gave; an error for a task that was lost.

    Raises:
        PipelineError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _connected(address)
    try:
        remote = ray.remote(num_cpus=1, max_retries=LOST)(_called)
        waiting = iter(tasks)
        running: dict[Any, int] = {}
        while True:
            room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))) - len(running)
            for _, (number, task) in zip(range(room), waiting, strict=False):
                running[remote.remote(call, task)] = number
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            number = running.pop(done)
            try:
                yield number, ray.get(done)
            except ray.exceptions.RayError as failure:  # `call` itself gives its errors as values
                yield number, (None, f"{type(failure).__name__}: {failure}")
    finally:
        ray.shutdown()  # this process's connection, not the cluster


def _called(call: Callable[[Task], Result], task: Task) -> Result:
    return call(task)


def _connected(address: str) -> Any:
    try:
        import ray  # noqa: PLC0415  an extra
        from ray.job_config import JobConfig  # noqa: PLC0415
    except ImportError as failure:
        raise PipelineError(
            f"machine.ray: {address}, but Ray can't be loaded ({failure}); install it (pip install -r "
            'requirements-cluster.txt), or set the key to ""'
        ) from failure
    # Where the cluster's machines find this library.
    job = JobConfig(code_search_path=[str(LIBRARY.parent)])
    try:
        ray.init(address, job_config=job, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as failure:
        raise PipelineError(
            f"machine.ray: no Ray cluster answers at {address} ({failure}); start one with `ray start --head` and name "
            'its address, or set the key to ""'
        ) from failure
    return ray
