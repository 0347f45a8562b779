"""Reading ahead: a thread makes the next items while the present one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

Item = TypeVar("Item")

AHEAD = 4
"""Items that wait ready."""


def read_ahead(make: Callable[[], Iterator[Item]], name: str) -> Generator[Item]:
    """The items of an iterator that a thread runs through.

    Args:
        make: gives the iterator; called in the thread.
        name: of the thread.

    Yields:
        The items in order. What the iterator raises is raised here. When the consumer lets go of the generator, the
        thread stops.
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
