"""FAISS for a process that must not load it: starts the worker and asks it over a local connection.

The worker listens on this machine alone and answers whoever knows the key that it gets through its standard input:
this process. That works the same on every system, and no file or socket of this process is inherited.
"""

import secrets
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import LIBRARY
from pipeline_lib.index.facts import BuildJob, IndexFacts

START: Final = """
import sys
sys.path.insert(0, sys.argv[1])
from pipeline_lib.index.worker import serve
serve()
"""
KEY_BYTES: Final = 32
START_SECONDS: Final = 120.0
"""Time limit for the worker to load FAISS and answer; a cold disk takes its time."""
STOP_SECONDS: Final = 5.0
SEARCH_SECONDS: Final = 10.0
"""Time limit for a search, of which one of a million photos takes a second at most; a worker that is over it hangs."""
LOOK_SECONDS: Final = 5.0
"""Time limit for a worker that has nothing to do to say so."""
SILENT_SECONDS: Final = 2.0
"""After so long without an answer a worker counts as one that can't search."""


class RemoteFaiss:
    """A worker process with FAISS. Calls are safe from any thread and are answered one after another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._opened: tuple[tuple[Any, ...], IndexFacts] | None = None
        self._asked = 0.0  # when a worker that serves was asked what it has not answered yet; 0 where it was not

    @property
    def pid(self) -> int | None:
        """Of the worker process; None while there is none."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the worker runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def answers(self) -> bool:
        """Whether the worker runs and is not late with an answer; asks nothing and does not wait."""
        asked = self._asked
        return self.alive and not (asked and time.monotonic() - asked > SILENT_SECONDS)

    def look(self) -> None:
        """Makes sure that the worker with the open index answers, and replaces it where it has died or hangs.

        While a search is in progress nothing is asked, since that notices by itself.

        Raises:
            PipelineError: it can't be started again, or the index has changed since it was opened.
        """
        if self._opened is None or not self._lock.acquire(blocking=False):
            return
        try:
            if not self.alive:
                self._restart()
                return
            try:
                self._ask(("look",), LOOK_SECONDS)
            except WorkerDiedError:
                self._restart()
        finally:
            self._lock.release()

    def begin(self) -> None:
        """Starts the worker beside what this process goes on with, so that the first request need not wait for it."""

        def start() -> None:
            try:
                with suppress(PipelineError):  # the first request tries again, and tells why it can't be done
                    if self._pipe is None:
                        self._start()
            finally:
                self._lock.release()

        self._lock.acquire()  # here, so that whoever asks it or closes it waits until it is started
        threading.Thread(target=start, name="faiss-starter", daemon=True).start()

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

    def search(
        self, queries: Vectors, k: int, diversity: float = 0.0, only: NDArray[np.bool_] | None = None
    ) -> list[tuple[Any, Any]]:
        """Rows (int64[K]) and scores (float32[K]) of the k best photos for each of float32[B, D] queries.

        Scores fall, except in lists that are diversified (MMR) by a weight of `diversity`. Of the gallery's rows `only`
        (bool[N]) tells those that may be found. A worker that has died or hangs is replaced once.

        Raises:
            PipelineError: it died again, or no index is open, or it died and the index has changed since it was opened.
        """
        request = ("search", queries, k, diversity, None if only is None else np.packbits(only))
        with self._lock:
            if self._opened is not None and not self.alive:
                self._restart()
            try:
                found: list[tuple[Any, Any]] = self._ask(request, SEARCH_SECONDS)
            except WorkerDiedError:
                self._restart()
                found = self._ask(request, SEARCH_SECONDS)
        return found

    def close(self) -> None:
        """Ends the worker; none is started in its place."""
        with self._lock:
            self._opened = None
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

    def _ask(self, request: tuple[Any, ...], seconds: float | None = None) -> Any:
        """The answer to a request; a worker that takes longer than `seconds` is ended."""
        pipe = self._pipe or self._start()
        self._asked = time.monotonic() if self._opened else 0.0  # whoever builds an index waits for as long as it takes
        try:
            pipe.send(request)
            if not pipe.poll(seconds):
                self._end()
                raise WorkerDiedError(f"the process that holds FAISS did not answer for {seconds:g} s")
            state, value = pipe.recv()
        except (EOFError, OSError) as failure:
            self._stop()
            raise WorkerDiedError(
                "the process that holds FAISS has ended unexpectedly (out of memory?); free some memory, or set "
                "index.kind to rabitq in params.yaml and run `dvc repro`"
            ) from failure
        finally:
            self._asked = 0.0
        if state == "failed":
            raise PipelineError(value)
        return value

    def _end(self) -> None:
        """Ends a worker that hangs, which would not end by itself."""
        if self._process is not None:
            self._process.kill()
        self._stop()

    def _start(self) -> Connection:
        command = [sys.executable, "-c", START, str(LIBRARY.parent)]
        self._process = _apart(command)
        # A worker that hangs is ended; whatever waits for it here then fails.
        hanging = threading.Timer(START_SECONDS, self._process.kill)
        hanging.daemon = True
        hanging.start()
        try:
            self._pipe = _connected(self._process)
        except (OSError, EOFError, ValueError, AuthenticationError) as failure:
            late = hanging.finished.is_set()
            why = f"it took more than {START_SECONDS:g} s" if late else _how_it_ended(self._process) or str(failure)
            self._stop()
            raise WorkerDiedError(f"the process that holds FAISS can't be started: {why}") from failure
        finally:
            hanging.cancel()
        return self._pipe

    def _stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None


def _apart(command: list[str]) -> subprocess.Popen[bytes]:
    """Starts a process that Ctrl-C in the terminal does not reach: this one ends it in order."""
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, creationflags=flags)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


def _connected(process: subprocess.Popen[bytes]) -> Connection:
    """Gives a new worker its key and connects to the port that it names."""
    key = secrets.token_bytes(KEY_BYTES)
    if process.stdin is None or process.stdout is None:
        raise ValueError("the worker needs a standard input and output")
    process.stdin.write(key)
    process.stdin.flush()  # and stays open: its end tells the worker that this process has ended
    return prompt(Client(("127.0.0.1", int(process.stdout.readline())), authkey=key))


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    """Of a worker that has just failed; "" if it goes on."""
    try:
        return f"it ended with status {process.wait(1)}; what it said stands above"
    except subprocess.TimeoutExpired:
        return ""


def prompt(pipe: Connection) -> Connection:
    """A connection that sends at once: by default the end of a long message waits for an answer to its beginning."""
    with socket.fromfd(pipe.fileno(), socket.AF_INET, socket.SOCK_STREAM) as same:
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return pipe


class WorkerDiedError(PipelineError):
    """The process that holds FAISS has ended."""
