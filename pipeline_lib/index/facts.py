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
LISTS_NAME: Final = "photos.lists"
"""A third, of an index that is too large to be built in memory: its inverted lists."""
FRESH_NAME: Final = "fresh.faiss"
"""A fourth, of an index that was changed: the vectors of photos that have come since it was built."""
ROWS: Final = pa.schema([("image_id", pa.string())])
"""Columns of the second that every index has."""

DIGESTS: Final = {INDEX_NAME: "sha256", LISTS_NAME: "sha256 of lists", FRESH_NAME: "sha256 of fresh"}
"""In the metadata of the second, those of the others that there are."""
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
    # as `IndexFacts.made_by`; an index there that bears the same is changed where that can be done. "" builds always
    made_by: str = ""


def written_rows(folder: Path) -> pa.Table:
    """The image_id of each row of an index, in its metadata what `told` tells; some have further columns.

    Raises:
        PipelineError: a file is missing or damaged, or they were not written together.
    """
    table = read_table(folder / ROWS_NAME, ROWS)
    facts = told(table)
    for name, key in DIGESTS.items():
        if (name == INDEX_NAME or key in facts) and digest_of_file(folder / name) != facts.get(key):
            raise PipelineError(f"{folder / name}: is damaged, or was not written with the file beside it; {AGAIN}")
    if "id" in table.column_names and DIGESTS[FRESH_NAME] not in facts:
        raise PipelineError(f"{folder}: was changed by an earlier version of this program; {AGAIN}")
    return table


def told(rows: pa.Table) -> dict[str, str]:
    """What an index's rows tell of it: `alignment` and `made_by` as `IndexFacts`, digests, how it was built."""
    # A byte that a disk has spoilt reads as a character that equals nothing that is asked for.
    stored = rows.schema.metadata or {}
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in stored.items()}


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
