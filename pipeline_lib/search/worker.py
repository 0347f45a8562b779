"""The worker process that holds FAISS, and what it does when asked: build an index, open one, search it.

torch and FAISS crash together on some systems, so each lives in a process of its own. This one is started by `remote`
and ends with its parent, when the pipe between them closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from pipeline_lib.errors import PipelineError, in_words
from pipeline_lib.retrieval.alignment import Alignment
from pipeline_lib.retrieval.index_kinds import build_index, choose_kind
from pipeline_lib.retrieval.vectors import EmbeddingTable, Vectors
from pipeline_lib.search.faiss_index import NamedIndex
from pipeline_lib.search.messages import BuildJob, IndexFacts, index_key


def build(job: BuildJob) -> IndexFacts:
    """Builds and writes an index.

    Raises:
        PipelineError: a table can't be read or holds vectors that can't be used.
    """
    tables = [EmbeddingTable.open(path) for path in job.tables]
    fitted = Alignment.load(job.alignment) if job.alignment else Alignment.none(tables[0].dimension)
    alignment = fitted.as_kind(job.alignment_kind)

    def batches() -> Iterator[Vectors]:
        for table in tables:
            for batch in table.batches():
                yield alignment.apply(batch, "photo")

    image_ids = np.concatenate([table.labels.image_ids for table in tables])
    kind = choose_kind(len(image_ids)) if job.kind == "auto" else job.kind
    index = build_index(batches, len(image_ids), alignment.aligned_dimension, kind, job.reduced)
    named = NamedIndex(index, image_ids, job.alignment_kind)
    named.save(job.out)
    return replace(named.facts, key=index_key(job.out))


class Worker:
    """Answers requests over a pipe: ("build", job), ("open", folder, threads), ("search", vectors, k, diversity)."""

    def __init__(self) -> None:
        self._index: NamedIndex | None = None

    def open(self, folder: Path, threads: int) -> IndexFacts:
        """Loads the index of a folder; later searches use `threads` threads."""
        faiss.omp_set_num_threads(threads)
        self._index = NamedIndex.load(folder)
        # Asked for after the files were read: one who asked before the index changed sees another key.
        return replace(self._index.facts, key=index_key(folder))

    def search(self, queries: Vectors, k: int, diversity: float) -> list[tuple[Any, Any]]:
        """Rows (int64[K]) and scores (float32[K]) for each query."""
        if self._index is None:
            raise PipelineError("no index is open")
        return [(ranked.rows[0], ranked.scores[0]) for ranked in self._index.search(queries, k, diversity)]

    def answer(self, request: tuple[Any, ...]) -> tuple[str, Any]:
        """The answer to one request; a failure is an answer too."""
        commands: dict[str, Callable[..., Any]] = {"build": build, "open": self.open, "search": self.search}
        try:
            return "done", commands[request[0]](*request[1:])
        except PipelineError as failure:
            return "failed", str(failure)
        except MemoryError:
            return "failed", "not enough memory for the index; set search.kind to pq in params.yaml and build it again"
        except OSError as failure:
            return "failed", in_words(failure)
        except Exception as failure:  # noqa: BLE001  who has asked is told, and the worker lives on
            return "failed", f"the process that holds FAISS has failed ({type(failure).__name__}: {failure})"


def serve(descriptor: int) -> None:
    """Answers until the other end of the pipe is closed."""
    worker = Worker()
    with Connection(descriptor) as pipe:
        while True:
            try:
                request = pipe.recv()
            except (EOFError, OSError):
                return
            try:
                pipe.send(worker.answer(request))
            except BrokenPipeError:
                return
