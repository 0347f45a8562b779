"""The other end of the worker's pipe: FAISS for a process that must not load it."""

import multiprocessing
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import LIBRARY
from pipeline_lib.index.facts import BuildJob, IndexFacts

START = """
import sys
sys.path.insert(0, sys.argv[1])
from pipeline_lib.index.worker import serve
serve(int(sys.argv[2]))
"""


class RemoteFaiss:
    """A worker process with FAISS. Calls are safe from any thread and are answered one after another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._opened: tuple[tuple[Any, ...], IndexFacts] | None = None

    @property
    def pid(self) -> int | None:
        """Of the worker process; None while there is none."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the worker runs."""
        return self._process is not None and self._process.poll() is None

    def build(self, job: BuildJob) -> IndexFacts:
        """Builds and writes an index.

        Raises:
            PipelineError: the vectors can't be used, or the worker died.
        """
        with self._lock:
            facts: IndexFacts = self._ask(("build", job))
        return facts

    def open(self, folder: Path, threads: int) -> IndexFacts:
        """Loads an index to search.

        Raises:
            PipelineError: it can't be read; names the file.
        """
        request = ("open", folder, threads)
        with self._lock:
            facts: IndexFacts = self._ask(request)
            self._opened = (request, facts)
        return facts

    def search(self, queries: Vectors, k: int, diversity: float = 0.0) -> list[tuple[Any, Any]]:
        """Rows (int64[K]) and scores (float32[K]) of the k best photos for each of float32[B, D] queries.

        Scores fall, except in lists that are diversified (MMR) by a weight of `diversity`. A worker that has died is
        restarted once.

        Raises:
            PipelineError: it died again, or no index is open, or it died and the index has changed since it was opened.
        """
        request = ("search", queries, k, diversity)
        with self._lock:
            if self._opened is not None and not self.alive:
                self._restart()
            try:
                found: list[tuple[Any, Any]] = self._ask(request)
            except WorkerDiedError:
                self._restart()
                found = self._ask(request)
        return found

    def close(self) -> None:
        """Ends the worker."""
        with self._lock:
            self._stop()

    def _restart(self) -> None:
        self._stop()
        if self._opened is None:
            return
        request, before = self._opened
        same = False
        try:
            same = self._ask(request) == before
        finally:
            # Otherwise a worker with another index open, or none, would answer the next search.
            if not same:
                self._stop()
        if not same:
            raise PipelineError(f"{request[1]}: has changed since the server started; start it again")

    def _ask(self, request: tuple[Any, ...]) -> Any:
        pipe = self._pipe or self._start()
        try:
            pipe.send(request)
            state, value = pipe.recv()
        except (EOFError, OSError) as failure:
            self._stop()
            raise WorkerDiedError(
                "the process that holds FAISS has ended unexpectedly (out of memory?); free some memory, or set "
                "index.kind to pq in params.yaml and run `dvc repro`"
            ) from failure
        if state == "failed":
            raise PipelineError(value)
        return value

    def _start(self) -> Connection:
        pipe, other = multiprocessing.Pipe()
        command = [sys.executable, "-c", START, str(LIBRARY.parent), str(other.fileno())]
        # Its own session: Ctrl-C in the terminal reaches this process, which then ends the worker in order.
        self._process = subprocess.Popen(command, pass_fds=[other.fileno()], start_new_session=True)
        other.close()
        self._pipe = pipe
        return pipe

    def _stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None


class WorkerDiedError(PipelineError):
    """The process that holds FAISS has ended."""
