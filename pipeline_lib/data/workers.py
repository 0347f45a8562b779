"""Processes that do what they are given, one thing after another."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any


class Worker:
    """A process and this side of the pipe to it: a pipe of its own, so that one that dies holds up no other."""

    def __init__(self) -> None:
        # Spawned, since the threads of OpenCV and Arrow do not survive a fork.
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        # A daemon, so that Python does not wait for one that was interrupted before it was used.
        self.process: BaseProcess = spawn.Process(target=_serve, args=(theirs,), daemon=True)
        with _without_interrupts(), theirs:  # once theirs is closed here, the pipe ends when the worker does
            self.process.start()

    def ask(self, work: Callable[[Any], Any], item: Any) -> tuple[Any, str | None]:
        """Waits for what `work` makes of an item, or why that failed; both can be pickled.

        Raises:
            EOFError, OSError: the process has died.
        """
        self.pipe.send((work, item))
        answer: tuple[Any, str | None] = self.pipe.recv()
        return answer

    def end(self, seconds: float) -> None:
        """Lets it end by itself for as long as that, then kills it."""
        self.pipe.close()
        if self.process.pid is not None:
            self.process.join(seconds)
            self.process.kill()
            self.process.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started in the block never see a Ctrl-C: this one tells of it, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Python starts this helper with the first process, and lets interrupts in again when it runs.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection) -> None:
    """A worker: does what comes by the pipe until that is closed."""
    end_with_parent()
    while True:
        try:
            work, item = pipe.recv()
        except (EOFError, OSError):
            return
        except Exception as failure:  # noqa: BLE001  it can't be imported here; what comes of it
            pipe.send((None, words(failure)))
            continue
        pipe.send(done(work, item))


def done(work: Callable[[Any], Any], item: Any) -> tuple[Any, str | None]:
    """What `work` makes of an item, or why that failed."""
    try:
        return work(item), None
    except Exception as failure:  # noqa: BLE001  what comes of it
        return None, words(failure)


def end_with_parent() -> None:
    """Ends this process when its parent is killed in the midst of a task, beside which the next run would work."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def words(failure: Exception) -> str:
    """A failure as it can be sent."""
    return f"{type(failure).__name__}: {failure}"
