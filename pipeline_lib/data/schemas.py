"""The Parquet tables that flow between stages: their columns, reading and writing.

Parquet has no 8-bit type, so uint8 tensors are `binary` columns (row-major bytes, shape in the schema's metadata), and
`numpy.frombuffer` views them without copying.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.errors import PipelineError
from pipeline_lib.files import replacing

if TYPE_CHECKING:  # own photos are searched without pandas
    import pandas as pd

SEAL: Final = bytes.fromhex("5343522d666f6f7465722d637263333e")
"""Before the footer of a file, and followed by the footer's CRC-32."""
TAIL: Final = 1 << 16
"""Bytes at a file's end in which a seal is looked for, where the footer is not longer."""
CATALOG = pa.schema(
    [
        ("image_id", pa.string()),  # unique
        ("dataset", pa.string()),  # openmoji, voc, photos, sketchy, folder ...
        ("role", pa.string()),  # pretext, gallery, query
        ("domain", pa.string()),  # photo, sketch
        ("path", pa.string()),  # POSIX, relative to catalog.root
        ("class_name", pa.string()),  # "" where unknown
        ("instance_id", pa.string()),  # the photo a sketch depicts; a photo's own image_id
        ("split", pa.string()),  # train, val for pretext; test otherwise
        ("width", pa.int32()),  # px, upright
        ("height", pa.int32()),
        ("fingerprint", pa.string()),  # 64-bit perceptual hash, 16 hex digits
        ("group_id", pa.string()),  # shared by images that must be in the same split
        ("content", pa.string()),  # SHA-256 of the file, so that later stages notice a changed image
    ]
)

EXCLUDED = pa.schema(
    [
        ("path", pa.string()),
        ("dataset", pa.string()),
        ("reason", pa.string()),  # unreadable, name, fingerprint, duplicate, missing_photo, almost_empty ...
        ("detail", pa.string()),  # the error, or the image that it duplicates
    ]
)

PAIRS = pa.schema([("image_id", pa.string()), ("photo", pa.binary()), ("edges", pa.binary())])


def patches_schema(size: int) -> pa.Schema:
    """Columns of a patch shard for patches of `size` px; the metadata holds the tensors' shapes."""
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("draw", pa.int16()),
            ("boxes", pa.list_(pa.int16(), 16)),  # 4 regions (row-major) x (x0, y0, x1, y1), px of the scaled image
            ("photo_patches", pa.binary()),
            ("edge_patches", pa.binary()),
        ],
        metadata={"photo_patches": f"uint8[4,{size},{size},3]", "edge_patches": f"uint8[4,{size},{size}]"},
    )


def embeddings_schema(dimension: int) -> pa.Schema:
    """Columns of an embedding table of `dimension` numbers per image."""
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("class_name", pa.string()),
            ("instance_id", pa.string()),
            ("vector", pa.list_(pa.float32(), dimension)),
        ]
    )


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """Writes a Parquet file, whole or not at all, so that `open_parquet` finds any bit of it that flips on a disk.

    Pages carry Parquet's own checksums. The footer, which says what they mean, has none in Parquet: it gets one before
    it, where other readers pass it over, since they find the footer from the end.
    """
    with replacing(path) as aside:
        with pq.ParquetWriter(aside, schema, write_page_checksum=True, **options) as writer:
            yield writer
        with aside.open("r+b") as stream:
            stream.seek(-8, os.SEEK_END)
            start = stream.seek(-8 - int.from_bytes(stream.read(4), "little"), os.SEEK_END)
            footer = stream.read()
            stream.seek(start)
            stream.write(SEAL + zlib.crc32(footer).to_bytes(4, "little") + footer)


def open_parquet(path: Path, *, memory_map: bool = False) -> pq.ParquetFile:
    """Opens a Parquet file; one that was written without checksums is opened as well.

    Raises:
        OSError: it can't be read.
        pa.ArrowException: it is cut or damaged; damaged pages raise it when they are read.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 8))
        longest = max(TAIL, int.from_bytes(stream.read(4), "little") + 64)
        stream.seek(max(0, size - longest))
        tail = stream.read()
    _, found, sealed = tail.rpartition(SEAL)
    if found and zlib.crc32(sealed[4:]) != int.from_bytes(sealed[:4], "little"):
        raise pa.ArrowInvalid("the footer does not have its checksum")
    return pq.ParquetFile(path, memory_map=memory_map, page_checksum_verification=True)


def read_parquet(
    path: Path, columns: Sequence[str] | None = None, *, memory_map: bool = False, use_threads: bool = True
) -> pa.Table:
    """Reads a Parquet file, or some of its columns in that order; errors as in `open_parquet`, and KeyError."""
    with open_parquet(path, memory_map=memory_map) as file:
        table = file.read(columns=columns and list(columns), use_threads=use_threads)
    return table if columns is None else table.select(list(columns))


def write_rows(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema, *, row_group: int = 1 << 16) -> None:
    """Writes rows as one Parquet file (lz4), whole or not at all."""
    write_table(path, pa.Table.from_pylist(list(rows), schema=schema), row_group=row_group)


def write_table(path: Path, table: pa.Table, *, row_group: int = 1 << 16) -> None:
    """Writes a table as one Parquet file (lz4), whole or not at all."""
    with parquet_writer(path, table.schema, compression="lz4") as writer:
        writer.write_table(table, row_group_size=row_group)


def read_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Reads a Parquet file.

    Raises:
        PipelineError: the file is missing, truncated, damaged or lacks a column of `schema`; says what to run.
    """
    try:
        table = read_parquet(path, memory_map=True)
    except (OSError, pa.ArrowException) as failure:
        raise PipelineError(f"{path}: can't be read ({failure}); delete it and run `dvc repro` again") from failure
    missing = set(schema.names if schema is not None else ()) - set(table.column_names)
    if missing:
        raise PipelineError(f"{path}: lacks the columns {sorted(missing)}; delete it and run `dvc repro` again")
    return table


def read_catalog(path: Path) -> "pd.DataFrame":
    """Reads `catalog.parquet`; one row per image, columns as in CATALOG."""
    frame: pd.DataFrame = read_table(path, CATALOG).to_pandas()
    return frame


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder in order.

    Raises:
        PipelineError: there is none.
    """
    paths = sorted(folder.glob("part-*.parquet"))
    if not paths:
        raise PipelineError(f"{folder}: holds no shards (part-*.parquet); run the stage that writes it again")
    return paths


@contextmanager
def opened_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """A shard that is open for reading; errors of reading in the block name it.

    Raises:
        PipelineError: it is truncated or damaged.
    """
    try:
        with open_parquet(path, memory_map=True) as file:
            yield file
    except (OSError, pa.ArrowException, KeyError, TypeError) as failure:
        raise PipelineError(f"{path}: is cut or damaged ({failure}); delete it and run `dvc repro`") from failure
