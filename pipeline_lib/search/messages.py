"""What goes through the pipe between search and the process that holds FAISS; needs neither torch nor faiss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline_lib.retrieval.alignment import Kind as AlignmentKind

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
    """

    count: int
    dimension: int
    alignment: str
    settings: str


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
