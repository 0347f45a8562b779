"""Who is admitted: those who can be answered in time, by how fast the work has gone lately."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

Value = TypeVar("Value")
WITHIN: Final = 1.8
"""Seconds within which everyone is answered who is admitted; with sending and reading that is two at most."""
EXPECTED: Final = 0.7 * WITHIN
"""Seconds that they may be expected to wait; the rest is for the work itself, and for what slows it down meanwhile."""
FIRST: Final = 0.05
"""Seconds that a job is taken to need before one was measured."""
RECENT: Final = 0.3
"""Weight of the newest measurement in the mean."""


class BusyError(Exception):
    """The queue is too long; the caller should try again in `seconds`."""

    def __init__(self, seconds: float = 1.0) -> None:
        super().__init__()
        self.seconds = max(1, math.ceil(seconds))


class Pace:
    """How long a newcomer to a queue will wait: the work for each lately, times those who are ahead."""

    def __init__(self, workers: int = 1) -> None:
        """Of a queue that so many threads work on."""
        self.workers = workers
        self.waiting = 0  # jobs that are not done
        self._each = FIRST
        self._measured = False
        self._begun: list[float] = []  # when the jobs that are worked on now were begun
        self._lock = threading.Lock()

    def expected(self, coming: int = 0) -> float:
        """Seconds until one more job would be begun; none where no job is ahead, whatever the last one took.

        Args:
            coming: jobs that are or will be in the queue before the new one.
        """
        with self._lock:
            # Where all threads have been busy for long, no measurement tells when one will be free.
            stuck = time.monotonic() - max(self._begun) if len(self._begun) >= self.workers else 0.0
            return max(stuck, self._each * max(self.waiting, coming) / self.workers)

    def follow(self, job: "Future[Value]") -> "Future[Value]":
        """Counts a job until it is done or was cancelled; returns it."""
        with self._lock:
            self.waiting += 1
        job.add_done_callback(self._left)
        return job

    def _left(self, _: object) -> None:
        with self._lock:
            self.waiting -= 1

    @contextmanager
    def working(self, jobs: int = 1) -> Iterator[None]:
        """Measures the work on so many jobs at once."""
        started = time.monotonic()
        with self._lock:
            self._begun.append(started)
        try:
            yield
        finally:
            with self._lock:
                self._begun.remove(started)
                weight = RECENT if self._measured else 1.0
                self._each += weight * ((time.monotonic() - started) / jobs - self._each)
                self._measured = True


class Line:
    """Few threads that do jobs in the order in which they come."""

    def __init__(self, name: str, workers: int) -> None:
        self.pace = Pace(workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)

    def submit(self, work: Callable[[], Value]) -> "Future[Value]":
        """Queues a job."""

        def measured() -> Value:
            with self.pace.working():
                return work()

        return self.pace.follow(self._threads.submit(measured))

    def close(self) -> None:
        """Ends the threads when they have done what they have begun."""
        self._threads.shutdown(cancel_futures=True)


class Admission:
    """Admits whoever is expected to be answered in time, and counts them; for one thread, that of the event loop."""

    def __init__(self, within: float = WITHIN, expected: float = EXPECTED) -> None:
        self.within, self.expected = within, expected
        self.waiting = 0
        self.answered = 0
        self.refused = 0

    @asynccontextmanager
    async def enter(self, first: Pace, last: Pace) -> AsyncGenerator[None]:
        """Holds a place while its holder goes through two queues.

        Args:
            first: where it will be at once.
            last: where all will be in the end who have a place.

        Raises:
            BusyError: it would take too long, or did in spite of what was expected; jobs that wait are cancelled then.
        """
        self.admit(first.expected() + last.expected(self.waiting))
        self.waiting += 1
        limit = asyncio.timeout(self.within)
        try:
            async with limit:
                yield
            self.answered += 1
        except TimeoutError as failure:
            if not limit.expired():
                raise
            self.refused += 1
            raise BusyError(self.within) from failure
        finally:
            self.waiting -= 1

    def admit(self, seconds: float) -> None:
        """Refuses whoever is expected to wait for too long.

        Raises:
            BusyError: says for how long.
        """
        if seconds > self.expected:
            self.refused += 1
            raise BusyError(seconds)
