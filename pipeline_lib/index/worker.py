"""The worker process that holds FAISS, and what it does when asked: build an index, open one, search it.

torch and FAISS crash together on some systems, so each lives in a process of its own. This one is started by `remote`
and ends with its parent, whatever it is doing.
"""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.errors import PipelineError, in_words
from pipeline_lib.index.building import build
from pipeline_lib.index.facts import IndexFacts, index_key
from pipeline_lib.index.photo_index import PhotoIndex
from pipeline_lib.index.remote import KEY_BYTES, prompt


class Worker:
    """Answers ("build", job), ("open", folder, threads), ("search", vectors, k, diversity, only) and ("look",)."""

    def __init__(self) -> None:
        self._index: PhotoIndex | None = None

    def open(self, folder: Path, threads: int) -> IndexFacts:
        """Loads the index of a folder; later searches use `threads` threads."""
        faiss.omp_set_num_threads(threads)
        self._index = PhotoIndex.load(folder)
        # Taken after reading: whoever took the key before the index changed then sees another one.
        return replace(self._index.facts, key=index_key(folder))

    def search(self, queries: Vectors, k: int, diversity: float, only: Any = None) -> list[tuple[Any, Any]]:
        """Rows (int64[K]) and scores (float32[K]) for each query; `only` holds a bit for each row that may be found."""
        if self._index is None:
            raise PipelineError("no index is open")
        chosen = None if only is None else np.unpackbits(only, count=len(self._index)).astype(np.bool_)
        return [(ranked.rows[0], ranked.scores[0]) for ranked in self._index.search(queries, k, diversity, chosen)]

    def answer(self, request: tuple[Any, ...]) -> tuple[str, Any]:
        """The answer to one request; a failure is an answer too."""
        commands: dict[str, Callable[..., Any]] = {
            "build": build, "open": self.open, "search": self.search, "look": lambda: None,
        }  # fmt: skip
        try:
            return "done", commands[request[0]](*request[1:])
        except PipelineError as failure:
            return "failed", str(failure)
        except MemoryError:
            return "failed", "not enough memory for the index; set index.kind to rabitq in params.yaml, run `dvc repro`"
        except OSError as failure:
            return "failed", in_words(failure)
        except Exception as failure:  # noqa: BLE001  the asker is told, and the worker lives on
            return "failed", f"the process that holds FAISS has failed ({type(failure).__name__}: {failure})"


def serve() -> None:
    """Answers the process that started this one, until it closes the connection or ends.

    Standard input begins with the key of the connection, and its end is the end of the parent; standard output gets the
    port, and nothing else.
    """
    key = sys.stdin.buffer.read(KEY_BYTES)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Listener(("127.0.0.1", 0), authkey=key) as listener:
        print(listener.address[1], flush=True)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads what libraries may print later
        pipe = accept(listener)
    worker = Worker()
    with prompt(pipe), suppress(EOFError, OSError):
        while True:
            pipe.send(worker.answer(pipe.recv()))


def accept(listener: Listener) -> Connection:
    """The first connection that knows the key; others, from any process of this machine, are sent away."""
    while True:
        with suppress(AuthenticationError, EOFError, OSError, ValueError):
            return listener.accept()


def _end_with_parent() -> None:
    """Ends this process at once when its standard input ends."""
    # Not through `sys.stdin`, whose lock would be held while the interpreter shuts down.
    while os.read(0, 1):
        pass
    os._exit(0)
