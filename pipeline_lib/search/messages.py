"""What goes through the pipe between search and the process that holds FAISS; needs neither torch nor faiss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.alignment import Kind as AlignmentKind
from pipeline_lib.retrieval.index_names import INDEX_NAME, ROWS_NAME

Kind = Literal["auto", "exact", "ivf", "hnsw", "pq"]
"""As `search.kind` in params.yaml."""


@dataclass(frozen=True)
class IndexFacts:
    """What an index tells of itself.

    Attributes:
        count: photos in it.
        dimension: numbers of a query vector.
        alignment: the kind of alignment that its vectors went through.
        settings: its kind in words.
        key: of its files (see `index_key`); "" before they are written.
    """

    count: int
    dimension: int
    alignment: str
    settings: str
    key: str = ""


def index_key(folder: Path) -> str:
    """Changes whenever the index of a folder is written anew: sizes and times of its files.

    Who has read a gallery knows by it whether the index means the same photos by its rows.

    Raises:
        PipelineError: a file is missing.
    """
    try:
        files = [(folder / name).stat() for name in (INDEX_NAME, ROWS_NAME)]
    except OSError as failure:
        raise PipelineError(
            f"{failure.filename}: can't be read ({failure.strerror}); build the index again"
        ) from failure
    return " ".join(f"{file.st_size}-{file.st_mtime_ns}" for file in files)


@dataclass(frozen=True)
class BuildJob:
    """What an index is built from.

    Attributes:
        tables: embedding tables of raw photo vectors; together they are the gallery.
        alignment: file of the domain means; None where vectors are only normalised.
        alignment_kind: its name, told to those who search.
        kind: of the index.
        reduced: numbers that vectors are reduced to where the kind is not exact; 0 for all.
        out: the folder that gets the index.
    """

    tables: tuple[Path, ...]
    alignment: Path | None
    alignment_kind: AlignmentKind
    kind: Kind
    reduced: int
    out: Path
