"""Threads that work ahead of whoever consumes what they make: reading and computing at once."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # items that are ready in advance


def read_ahead(make: Callable[[], Iterator[Item]], name: str) -> Generator[Item]:
    """The items, in order, of the iterator that `make` gives in a thread of this name, ahead of its consumer.

    What the iterator raises is raised here. The thread stops when the generator is closed.
    """
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(item: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in make():
                if not put(item):
                    return
            put(None)
        except BaseException as failure:  # noqa: BLE001  handed to the consumer, which raises it
            put(failure)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def map_ahead(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Items, in order, each with what `work` makes of it in a pool, which is handed at most `ahead` of them at a time.

    What `work` raises is raised here.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) == ahead:
            done, future = waiting.popleft()
            yield done, future.result()
    for done, future in waiting:
        yield done, future.result()
