"""What is told of an index and asked of the process that holds FAISS; loads neither torch nor faiss."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from pipeline_lib.data.schemas import read_table
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file

INDEX_NAME: Final = "photos.faiss"
ROWS_NAME: Final = "photos.parquet"
"""The two files of an index: the vectors, and the image_id of each row."""


DIGEST: Final = "sha256"
"""In the metadata of the second, that of the first."""
AGAIN: Final = "delete its folder and build the index again (`dvc repro index`; of your own photos, `make index`)"


@dataclass(frozen=True)
class IndexFacts:
    """What an index tells of itself."""

    count: int  # photos in it
    dimension: int  # numbers of a query vector
    alignment: str  # name of the alignment that its vectors went through
    settings: str  # its kind in words
    key: str = ""  # of its files (see `index_key`); "" before they are written
    made_by: str = ""  # digest of the network and alignment behind its vectors; "" where it does not tell


@dataclass(frozen=True)
class BuildJob:
    """What an index is built from."""

    tables: tuple[Path, ...]  # embedding tables of raw photo vectors; together they are the gallery
    alignment: Path | None  # file of the fitted alignment; None where vectors are only normalised
    alignment_kind: str  # its name in `retrieval.alignment`
    kind: str  # as `index.kind`
    reduced: int  # as `index.dimension`
    out: Path  # the folder that gets the index
    made_by: str = ""  # as `IndexFacts.made_by`


def written_rows(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The image_id of each row of an index, and what it tells of itself: `alignment` and `made_by`, as `IndexFacts`.

    Raises:
        PipelineError: a file is missing or damaged, or the two were not written together.
    """
    table = read_table(folder / ROWS_NAME, pa.schema([("image_id", pa.string())]))
    # Page checksums do not cover it: what a flipped bit makes of it equals nothing that is asked for.
    stored = table.schema.metadata or {}
    told = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in stored.items()}
    if digest_of_file(folder / INDEX_NAME) != told.get(DIGEST):
        raise PipelineError(f"{folder / INDEX_NAME}: is damaged, or was not written with the file beside it; {AGAIN}")
    return table.column("image_id").to_pylist(), told


def is_whole(folder: Path) -> bool:
    """Whether an index is there and undamaged."""
    try:
        written_rows(folder)
    except PipelineError:
        return False
    return True


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
