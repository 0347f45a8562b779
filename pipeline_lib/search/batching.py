"""Batches concurrent queries for the network."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from pipeline_lib.search.pace import Pace

Query = TypeVar("Query")
Result = TypeVar("Result")


class Batcher(Generic[Query, Result]):
    """One thread that processes all waiting queries together, up to a batch.

    No query waits for a batch to fill: the first goes alone, and those that arrive meanwhile go together.
    """

    def __init__(self, work: Callable[[Sequence[Query]], Sequence[Result]], batch: int) -> None:
        """Starts the thread.

        Args:
            work: one result for each query, in order; runs in the batcher's thread alone.
            batch: queries at once at most.
        """
        self.pace = Pace()
        self._work = work
        self._batch = batch
        self._waiting: queue.SimpleQueue[tuple[Query, Future[Result]] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, query: Query) -> Future[Result]:
        """Queues a query; its future gets the result, or the exception that its batch ended with."""
        if self._closed:
            raise RuntimeError("the batcher is closed")
        future: Future[Result] = Future()
        self._waiting.put((query, self.pace.follow(future)))
        return future

    def close(self) -> None:
        """Answers what waits, then ends the thread."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            batch, ends = self._take()
            # Skip queries whose callers have gone.
            wanted = [(query, future) for query, future in batch if future.set_running_or_notify_cancel()]
            if wanted:
                self._answer(wanted)
            if ends:
                return

    def _take(self) -> tuple[list[tuple[Query, Future[Result]]], bool]:
        batch = []
        item = self._waiting.get()
        while item is not None:
            batch.append(item)
            if len(batch) == self._batch:
                return batch, False
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _answer(self, wanted: list[tuple[Query, Future[Result]]]) -> None:
        try:
            with self.pace.working(len(wanted)):
                results = self._work([query for query, _ in wanted])
            for (_, future), result in zip(wanted, results, strict=True):
                future.set_result(result)
        except Exception as failure:  # noqa: BLE001  passed on to the callers; the thread must live on
            for _, future in wanted:
                if not future.done():
                    future.set_exception(failure)
