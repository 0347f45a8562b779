"""What is told of an index and asked of the process that holds FAISS; loads neither torch nor faiss."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline_lib.errors import PipelineError

INDEX_NAME: Final = "photos.faiss"
ROWS_NAME: Final = "photos.parquet"
"""The two files of an index: the vectors, and the image_id of each row."""


@dataclass(frozen=True)
class IndexFacts:
    """What an index tells of itself."""

    count: int  # photos in it
    dimension: int  # numbers of a query vector
    alignment: str  # name of the alignment that its vectors went through
    settings: str  # its kind in words
    key: str = ""  # of its files (see `index_key`); "" before they are written


@dataclass(frozen=True)
class BuildJob:
    """What an index is built from."""

    tables: tuple[Path, ...]  # embedding tables of raw photo vectors; together they are the gallery
    alignment: Path | None  # file of the fitted alignment; None where vectors are only normalised
    alignment_kind: str  # its name in `retrieval.alignment`
    kind: str  # as `index.kind`
    reduced: int  # as `index.dimension`
    out: Path  # the folder that gets the index


def index_key(folder: Path) -> str:
    """Sizes and times of an index's files: another key means that its rows may stand for other photos.

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
