"""A thread that makes items ahead of whoever consumes them: reading and computing at once."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")

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
