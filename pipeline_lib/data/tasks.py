"""Work over shards: one function, many tasks, on all cores; finished shards are kept.

A task is a picklable description of one output file; `work(task) -> stats` is a pure function of it. Only this file
knows how the work is spread: over processes, or over a Ray cluster by `ray_tasks.py`.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pipeline_lib.data.ray_tasks import map_on_ray
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import publish_folder, read_json, write_json

Stats = dict[str, Any]


class ShardTask(Protocol):
    """What every task has."""

    @property
    def path(self) -> Path:
        """The Parquet file that the task writes."""

    @property
    def rows(self) -> int:
        """Number of items, for the progress bar."""


Task = TypeVar("Task", bound=ShardTask)


@dataclass(frozen=True)
class Outcome(Generic[Task]):
    """The result of one task: its stats, or the error."""

    task: Task
    stats: Stats | None
    error: str | None


def stats_path(path: Path) -> Path:
    """The file beside a shard that marks it as finished."""
    return path.with_suffix(".json")


def finished_stats(path: Path) -> Stats | None:
    """The stats of a finished shard; None where it is missing, unfinished or truncated."""
    if not (path.exists() and stats_path(path).exists()):
        return None
    try:
        stats = read_json(stats_path(path))
        # The footer is at the end of a Parquet file, so a truncated file does not open.
        if pq.read_metadata(path).num_rows != stats["rows"]:
            return None
    except (PipelineError, pa.ArrowException, OSError, KeyError):
        return None
    return dict(stats)


def _finish(work: Callable[[Task], Stats], task: Task) -> Stats:
    stats = work(task)
    write_json(stats_path(task.path), stats)
    return stats


def map_shards(
    work: Callable[[Task], Stats], tasks: Sequence[Task], *, workers: int, description: str, unit: str, ray: str = ""
) -> list[Outcome[Task]]:
    """Runs `work` on every task whose shard is unfinished, with a progress bar on standard error.

    Args:
        work: a module-level function; it writes `task.path` and returns stats with at least `rows`, the rows written.
        tasks: what to do; a failed one is tried again once.
        workers: processes; 0 takes one per core, 1 works in this process.
        description: of the progress bar.
        unit: of its rate.
        ray: address of a Ray cluster that works in the stead of processes; "" for none.

    Returns:
        One outcome per task, in the order of `tasks`. Failures are returned, never raised.

    Raises:
        PipelineError: there is no cluster at `ray`.
    """
    finished = ((number, task, finished_stats(task.path)) for number, task in enumerate(tasks))
    outcomes = {number: Outcome(task, stats, None) for number, task, stats in finished if stats is not None}
    # Counted once: a task that killed its worker must not be tried again in this process when it alone is left.
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    total = sum(task.rows for task in tasks)
    done = sum(tasks[number].rows for number in outcomes)
    with tqdm(total=total, initial=done, desc=description, unit=unit, unit_scale=True, mininterval=1.0) as bar:
        for _ in range(2):
            left = [n for n in range(len(tasks)) if n not in outcomes or outcomes[n].error is not None]
            if not left:
                break
            for number, outcome in _once(work, [(n, tasks[n]) for n in left], workers, ray):
                outcomes[number] = outcome
                if outcome.error is None:
                    bar.update(outcome.task.rows)
    return [outcomes[number] for number in range(len(tasks))]


def _once(
    work: Callable[[Task], Stats], tasks: list[tuple[int, Task]], workers: int, ray: str
) -> Iterator[tuple[int, Outcome[Task]]]:
    if ray:
        numbered = dict(tasks)
        for number, result in map_on_ray(partial(_finish, work), tasks, ray):
            yield number, _outcome(numbered[number], result)
        return
    if workers == 1:
        for number, task in tasks:
            yield number, _outcome(task, partial(_finish, work, task))
        return
    # Spawned, since the threads of OpenCV and Arrow do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent) as pool:
        futures = {pool.submit(_finish, work, task): (number, task) for number, task in tasks}
        for future in as_completed(futures):
            number, task = futures[future]
            yield number, _outcome(task, future.result)


def _outcome(task: Task, result: Callable[[], Stats]) -> Outcome[Task]:
    try:
        return Outcome(task, result(), None)
    except BrokenProcessPool:
        return Outcome(task, None, "a worker process died (out of memory?); lower machine.workers")
    except Exception as failure:  # noqa: BLE001  the outcome of the task
        return Outcome(task, None, f"{type(failure).__name__}: {failure}")


def _end_with_parent() -> None:
    """Ends a worker when its parent is killed; it would go on beside the next run, then wait for tasks for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def reopen_bad(outcomes: Sequence[Outcome[Task]]) -> None:
    """Lets the next run read shards with `bad` images again.

    An unreadable image may become readable (a permission, a mount) with the same size, time and bytes, so that no key
    changes. Call it when all shards are done: a run that was interrupted goes on with all of them.
    """
    for outcome in outcomes:
        if outcome.stats is not None and outcome.stats["bad"]:
            stats_path(outcome.task.path).unlink(missing_ok=True)


def publish_shards(tasks: Sequence[ShardTask], out: Path) -> None:
    """Moves the folder of finished shards to `out`, without the stats beside them; errors as in `publish_folder`."""
    publish_folder(tasks[0].path.parent, out)
    for task in tasks:
        stats_path(out / task.path.name).unlink(missing_ok=True)


def stats_or_raise(outcomes: Sequence[Outcome[Task]]) -> list[Stats]:
    """The stats of all outcomes.

    Raises:
        PipelineError: at least one task failed; names the first three shards and why.
    """
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        reasons = "\n".join(f"  {outcome.task.path.name}: {outcome.error}" for outcome in failed[:3])
        raise PipelineError(
            f"{len(failed)} of {len(outcomes)} shards failed; finished ones are kept, run the stage again:\n{reasons}"
        )
    return [outcome.stats for outcome in outcomes if outcome.stats is not None]
