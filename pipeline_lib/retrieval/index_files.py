"""A FAISS index and the image_id of each of its rows, as the two files of a folder.

This module imports faiss, so a process that holds torch must not import it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import pyarrow as pa

from pipeline_lib.data.files import publish_folder
from pipeline_lib.data.schemas import read_table, write_table
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.index_names import INDEX_NAME, ROWS_NAME
from pipeline_lib.retrieval.vectors import Strings


class IndexFiles(NamedTuple):
    """What a folder holds."""

    vectors: faiss.Index
    image_ids: Strings  # str[N], row -> image_id
    alignment: str  # that the vectors went through; "" where it is not told


def write_index(folder: Path, files: IndexFiles) -> None:
    """Writes `photos.faiss` and `photos.parquet` (row -> image_id) to `folder`, both or neither.

    Raises:
        PipelineError: the index can't be written.
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        try:
            faiss.write_index(files.vectors, str(aside / INDEX_NAME))
        except RuntimeError as failure:
            raise PipelineError(f"{folder / INDEX_NAME}: can't be written ({failure}); is the disk full?") from failure
        rows = pa.table({"image_id": pa.array(files.image_ids.tolist(), pa.string())})
        write_table(aside / ROWS_NAME, rows.replace_schema_metadata({"alignment": files.alignment}))
        publish_folder(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_index(folder: Path, again: str) -> IndexFiles:
    """Reads what `write_index` wrote; whether the two files belong together is for the caller to judge.

    Args:
        folder: with both files.
        again: what to do where the index can't be read, for the message.

    Raises:
        PipelineError: a file is missing or cut.
    """
    path = folder / INDEX_NAME
    table = read_table(folder / ROWS_NAME, pa.schema([("image_id", pa.string())]))
    alignment = (table.schema.metadata or {}).get(b"alignment", b"").decode()
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as failure:
        raise PipelineError(f"{path}: can't be read ({failure}); {again}") from failure
    return IndexFiles(index, np.array(table.column("image_id").to_pylist(), dtype=np.str_), alignment)
