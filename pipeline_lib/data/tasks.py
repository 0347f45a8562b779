"""Work over shards: one function, many tasks, on all cores; finished shards stay finished.

A task is a picklable description of one output file; `process_shard(task) -> stats` is a pure function of it. Nothing
outside this file knows how the work is spread, so that another engine can take the place of the process pool.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pipeline_lib.data.files import read_json, write_json
from pipeline_lib.errors import PipelineError

Stats = dict[str, Any]


class ShardTask(Protocol):
    """What every task tells of itself."""

    @property
    def path(self) -> Path:
        """The Parquet file that the task writes."""

    @property
    def rows(self) -> int:
        """How many items it works on (for the progress bar)."""


Task = TypeVar("Task", bound=ShardTask)


@dataclass(frozen=True)
class Outcome(Generic[Task]):
    """What became of one task: its stats, or the failure in words."""

    task: Task
    stats: Stats | None
    error: str | None


def stats_path(path: Path) -> Path:
    """The file beside a shard that says it is finished."""
    return path.with_suffix(".json")


def finished_stats(path: Path) -> Stats | None:
    """The stats of a finished shard; None where it is missing, unfinished or cut."""
    if not (path.exists() and stats_path(path).exists()):
        return None
    try:
        stats = read_json(stats_path(path))
        # The footer stands at the end of a Parquet file, so a file that was cut does not open.
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
    work: Callable[[Task], Stats],
    tasks: Sequence[Task],
    *,
    workers: int,
    description: str,
    unit: str,
    retries: int = 1,
) -> list[Outcome[Task]]:
    """Runs `work` on every unfinished task, with a progress bar and a rate on standard error.

    Args:
        work: a module-level function; it writes `task.path` and returns stats with at least `rows`, the rows written.
        tasks: what to do; tasks whose shard is finished already are only counted.
        workers: processes; 0 takes one per core, 1 works in this process.
        description: of the progress bar.
        unit: what a row is, for the rate.
        retries: how often a failed task is tried again.

    Returns:
        One outcome per task, in the order of `tasks`. A failure is a value, never an exception.
    """
    outcomes: dict[int, Outcome[Task]] = {}
    for number, task in enumerate(tasks):
        stats = finished_stats(task.path)
        if stats is not None:
            outcomes[number] = Outcome(task, stats, None)
    total = sum(task.rows for task in tasks)
    done = sum(tasks[number].rows for number in outcomes)
    with tqdm(total=total, initial=done, desc=description, unit=unit, unit_scale=True, mininterval=1.0) as bar:
        for _ in range(1 + retries):
            left = [n for n in range(len(tasks)) if n not in outcomes or outcomes[n].error is not None]
            if not left:
                break
            for number, outcome in _once(work, [(n, tasks[n]) for n in left], workers):
                outcomes[number] = outcome
                if outcome.error is None:
                    bar.update(outcome.task.rows)
    return [outcomes[number] for number in range(len(tasks))]


def _once(
    work: Callable[[Task], Stats], tasks: list[tuple[int, Task]], workers: int
) -> Iterator[tuple[int, Outcome[Task]]]:
    count = min(workers or os.cpu_count() or 1, len(tasks))
    if count == 1:
        for number, task in tasks:
            try:
                yield number, Outcome(task, _finish(work, task), None)
            except Exception as failure:  # noqa: BLE001  whatever a task raises is its outcome
                yield number, Outcome(task, None, f"{type(failure).__name__}: {failure}")
        return
    # Spawned, not forked: OpenCV and Arrow keep threads that a fork would copy half of.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=_end_with_parent) as pool:
        futures = {pool.submit(_finish, work, task): (number, task) for number, task in tasks}
        for future in as_completed(futures):
            number, task = futures[future]
            try:
                yield number, Outcome(task, future.result(), None)
            except BrokenProcessPool:
                yield number, Outcome(task, None, "a worker process died (out of memory?); lower the stage's workers")
            except Exception as failure:  # noqa: BLE001
                yield number, Outcome(task, None, f"{type(failure).__name__}: {failure}")


def _end_with_parent() -> None:
    """Lets a worker end when its parent is killed; it would work on beside the next run, and then wait for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def reopen_bad(outcomes: Sequence[Outcome[Task]]) -> None:
    """Lets the next run try shards whose stats count `bad` images again.

    What kept an image from being read (a right, a mount) can be mended and leave its size, time and bytes as they are,
    so no key tells. Only a run that has come to its end forgets; one that was cut off goes on with all it has.
    """
    for outcome in outcomes:
        if outcome.stats is not None and outcome.stats["bad"]:
            stats_path(outcome.task.path).unlink(missing_ok=True)


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
