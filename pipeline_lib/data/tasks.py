"""Work over shards: one function, many tasks, on all cores; finished shards are kept.

A task is a picklable description of one output file; `work(task) -> stats` is a pure function of it. Only this file
knows how the work is spread: over processes, or over a Ray cluster by `ray_tasks.py`.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import pyarrow as pa
from tqdm import tqdm

from pipeline_lib.data.cores import usable_cores
from pipeline_lib.data.ray_tasks import map_on_ray
from pipeline_lib.data.schemas import open_parquet
from pipeline_lib.data.workers import Worker, done, words
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import publish_folder, read_json, remove, write_json

Stats = dict[str, Any]
DIED: Final = "a worker process died (out of memory?); lower machine.workers"
ENDS: Final = 5.0
"""Seconds that a worker without work is given to end."""


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
        with open_parquet(path) as file:
            if file.metadata.num_rows != stats["rows"]:
                return None
    except (PipelineError, pa.ArrowException, OSError, KeyError):
        return None
    return dict(stats)


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
    workers = min(workers or usable_cores(), len(tasks))
    total = sum(task.rows for task in tasks)
    kept = sum(tasks[number].rows for number in outcomes)
    with tqdm(total=total, initial=kept, desc=description, unit=unit, unit_scale=True, mininterval=1.0) as bar:
        for _ in range(2):
            left = [n for n in range(len(tasks)) if n not in outcomes or outcomes[n].error is not None]
            if not left:
                break
            with closing(_once(partial(_finished, work), [(n, tasks[n]) for n in left], workers, ray)) as ended:
                for number, outcome in ended:
                    outcomes[number] = outcome
                    if outcome.error is None:
                        bar.update(outcome.task.rows)
    return [outcomes[number] for number in range(len(tasks))]


def _once(
    work: Callable[[Task], Stats], tasks: list[tuple[int, Task]], workers: int, ray: str
) -> Generator[tuple[int, Outcome[Task]]]:
    if ray:
        numbered = dict(tasks)
        for number, (stats, error) in map_on_ray(partial(done, work), tasks, ray):
            yield number, Outcome(numbered[number], stats, error)
        return
    if workers == 1:
        for number, task in tasks:
            stats, error = done(work, task)
            yield number, Outcome(task, stats, error)
        return
    # Not Python's own pool: where a worker dies while tasks are still handed in, it raises, or waits for ever.
    waiting, pool = deque(tasks), _Pool(work)
    with pool:
        while waiting or pool.busy:
            while waiting and len(pool.busy) < workers:
                number, task = waiting.popleft()
                if (failure := pool.begin(number, task)) is not None:
                    yield number, Outcome(task, None, failure)
            if pool.busy:  # otherwise there is nothing to wait for, and it would be waited for ever
                yield from pool.finished()


class _Pool(Generic[Task]):
    """Workers that are started when they are needed; each has one task at most, so a death costs that one alone."""

    def __init__(self, work: Callable[[Task], Stats]) -> None:
        self.work = work
        self.busy: dict[Any, tuple[Worker, int, Task]] = {}  # by the pipe on which the result will come
        self.idle: list[Worker] = []

    def begin(self, number: int, task: Task) -> str | None:
        """Gives a task to a worker; returns why that failed."""
        worker = None
        try:
            worker = self.idle.pop() if self.idle else Worker()
            worker.pipe.send((self.work, task))
        except OSError as failure:
            if worker is not None:
                worker.end(0)
            return DIED if isinstance(failure, ConnectionError) else words(failure)
        except Exception as failure:  # noqa: BLE001  it can't be sent; the outcome of the task
            self.idle += [worker] if worker is not None else []
            return words(failure)
        self.busy[worker.pipe] = worker, number, task
        return None

    def finished(self) -> Iterator[tuple[int, Outcome[Task]]]:
        """Waits for results; a worker that died gives one too."""
        for pipe in wait(list(self.busy)):
            worker, number, task = self.busy.pop(pipe)
            try:
                stats, error = worker.pipe.recv()
                outcome = Outcome(task, stats, error)
            except Exception as failure:  # noqa: BLE001  the outcome of the task
                worker.end(0)
                died = isinstance(failure, EOFError | OSError)
                outcome = Outcome(task, None, DIED if died else words(failure))
            else:
                self.idle.append(worker)
            yield number, outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the workers; those that still work, since the block was interrupted, at once."""
        for working in self.busy.values():
            working[0].end(0)
        for worker in self.idle:
            worker.pipe.close()
        for worker in self.idle:
            worker.end(ENDS)


def _finished(work: Callable[[Task], Stats], task: Task) -> Stats:
    """The stats of a task that is worked on and marked as finished."""
    stats = work(task)
    write_json(stats_path(task.path), stats)
    return stats


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
    for left in tasks[0].path.parent.glob(".*.tmp"):  # by workers that died: the folder is this process's alone
        remove(left)
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
