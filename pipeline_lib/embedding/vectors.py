"""Embedding tables: labels and vectors, written in one place and read as float32 in batches of bounded memory."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pipeline_lib.data.schemas import embeddings_schema, open_parquet, opened_shard, parquet_writer
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file, read_sealed, replacing, write_sealed

Vectors = NDArray[np.float32]
Strings = NDArray[np.str_]
Item = TypeVar("Item")

LABELS = ("image_id", "class_name", "instance_id")
BATCH_ROWS = 1024
SYSTEM: Final = "system.json"
"""In a folder of embeddings: what made them."""


@dataclass(frozen=True)
class Labels:
    """Who the rows of an embedding table are."""

    image_ids: Strings  # str[N], unique
    class_names: Strings  # str[N], "" where no class is known
    instance_ids: Strings  # str[N], the photo that a sketch depicts ("" where none is known); a photo's own image_id

    def __post_init__(self) -> None:
        if not len(self.image_ids) == len(self.class_names) == len(self.instance_ids):
            raise ValueError("image_ids, class_names and instance_ids must be of one length")

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def clusters(self) -> Strings:
        """str[N], equal for sketches of one photo; a query that names no photo stands alone."""
        # No file name starts with this character, so that no query's own id meets another's photo.
        alone = np.char.add("\x01", self.image_ids)
        return np.where(self.instance_ids == "", alone, self.instance_ids)

    @classmethod
    def of(cls, image_ids: Iterable[str], class_names: Iterable[str], instance_ids: Iterable[str]) -> Self:
        """Labels from any three sequences of strings."""
        columns = (np.array(list(column), dtype=np.str_) for column in (image_ids, class_names, instance_ids))
        return cls(*columns)

    def take(self, rows: NDArray[np.intp]) -> "Labels":
        """The labels of `rows`, int[K], in that order."""
        return Labels(self.image_ids[rows], self.class_names[rows], self.instance_ids[rows])


@dataclass(frozen=True)
class EmbeddingTable:
    """An embedding table on disk: labels in memory, vectors read when asked for."""

    path: Path  # the Parquet file, columns as in `schemas.embeddings_schema`
    labels: Labels  # of all rows, in the order of the file
    dimension: int  # numbers per vector

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Reads the labels of an embedding table.

        Raises:
            PipelineError: the file is missing, cut, has other columns, or an image_id occurs twice; names the file.
        """
        try:
            with open_parquet(path) as file:
                schema = file.schema_arrow
                missing = {*LABELS, "vector"} - set(schema.names)
                if missing:
                    raise PipelineError(f"{path}: lacks the columns {sorted(missing)}; {_AGAIN}")
                kind = schema.field("vector").type
                if not (pa.types.is_fixed_size_list(kind) and kind.value_type in (pa.float32(), pa.float16())):
                    raise PipelineError(
                        f"{path}: column vector is {kind}, not float32 of a fixed size, nor float16; {_AGAIN}"
                    )
                table = file.read(columns=list(LABELS))
        except (OSError, pa.ArrowException) as failure:
            raise PipelineError(f"{path}: can't be read ({failure}); {_AGAIN}") from failure
        labels = Labels.of(*(table.column(name).to_pylist() for name in LABELS))
        ids, counts = np.unique(labels.image_ids, return_counts=True)
        if len(ids) != len(labels):
            raise PipelineError(f"{path}: image_id {_some(ids[counts > 1])} occurs more than once; {_AGAIN}")
        return cls(path, labels, kind.list_size)

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[Vectors]:
        """Yields the vectors in order, as float32[<=rows, dimension]; read-only views of a table of float32.

        Raises:
            PipelineError: a vector is missing, not finite or all zeros; names the file and the images.
        """
        start = 0
        try:
            with open_parquet(self.path) as file:
                for batch in file.iter_batches(batch_size=rows, columns=["vector"]):
                    column = batch.column(0)
                    ids = self.labels.image_ids[start : start + len(column)]
                    if column.null_count:
                        lost = np.asarray(column.is_null())
                        raise PipelineError(f"{self.path}: no vector for {_some(ids[lost])}; {_AGAIN}")
                    numbers = column.flatten().to_numpy(zero_copy_only=True)
                    vectors = numbers.reshape(-1, self.dimension).astype(np.float32, copy=False)
                    self._check(vectors, ids)
                    yield vectors
                    start += len(vectors)
        except (OSError, pa.ArrowException) as failure:
            raise PipelineError(f"{self.path}: can't be read ({failure}); {_AGAIN}") from failure

    def read(self) -> Vectors:
        """All vectors, float32[N, dimension], with one batch more than that in memory at most.

        Raises:
            PipelineError: as `batches`.
        """
        vectors = np.empty((len(self), self.dimension), np.float32)
        start = 0
        for batch in self.batches():
            vectors[start : start + len(batch)] = batch
            start += len(batch)
        return vectors

    def spread(self, most: int) -> Vectors:
        """At most `most` vectors, evenly spread over the rows."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(most, len(self)), dtype=np.intp))
        seen, parts = 0, []
        for batch in self.batches():
            parts.append(batch[rows[(rows >= seen) & (rows < seen + len(batch))] - seen])
            seen += len(batch)
        return np.concatenate(parts)

    def _check(self, vectors: Vectors, ids: Strings) -> None:
        squares = np.einsum("ij,ij->i", vectors, vectors)
        for bad, what in (~np.isfinite(squares), "not finite (NaN or infinity)"), (squares == 0, "all zeros"):
            if bad.any():
                raise PipelineError(
                    f"{self.path}: the vector is {what} for {_some(ids[bad])}; such images can't be ranked: look at "
                    "them and at the encoder's weights, then run the stage that embeds them again"
                )


def vector_table(
    image_ids: Iterable[str],
    class_names: Iterable[str],
    instance_ids: Iterable[str],
    vectors: Vectors | NDArray[np.float16],
) -> pa.Table:
    """Labels and vectors (float32[N, D]) as a table with the columns of `schemas.embeddings_schema`.

    Vectors of float16 stay so: half the bytes, three digits of each number.
    """
    labels = [pa.array(list(each), pa.string()) for each in (image_ids, class_names, instance_ids)]
    kind = np.float16 if vectors.dtype == np.float16 else np.float32
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors, kind).ravel()), vectors.shape[1])
    schema = embeddings_schema(vectors.shape[1])
    place = schema.get_field_index("vector")
    return pa.table([*labels, column], schema=schema.set(place, pa.field("vector", column.type)))


@contextmanager
def vector_writer(path: Path, width: int, compression: str = "lz4") -> Iterator[pq.ParquetWriter]:
    """Writes an embedding table of `width` numbers a vector, part by part (`write_table`), whole or not at all."""
    with parquet_writer(path, embeddings_schema(width), compression=compression, use_dictionary=False) as writer:
        yield writer


def copy_rows(table: Path, writer: pq.ParquetWriter) -> None:
    """Adds the rows of an embedding table to another, in the blocks in which they were written.

    Raises:
        PipelineError: the table is cut or damaged; names it.
    """
    with opened_shard(table) as file:
        for block in range(file.num_row_groups):
            writer.write_table(file.read_row_group(block))


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of at most `size` items (itertools has it from Python 3.12 on)."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def write_system(folder: Path, values: Mapping[str, Any]) -> None:
    """Writes `system.json` of a folder of embeddings that is finished, with the digests of its files."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in {".parquet", ".safetensors"})
    write_sealed(folder / SYSTEM, {**values, "files": {path.name: digest_of_file(path) for path in paths}})


def read_system(folder: Path) -> dict[str, Any]:
    """What `write_system` wrote.

    Raises:
        PipelineError: it can't be read, or a file of the folder is damaged or was not made with the others.
    """
    values: dict[str, Any] = read_sealed(folder / SYSTEM)
    for name, digest in values.get("files", {}).items():
        if digest_of_file(folder / name) != digest:
            raise PipelineError(f"{folder / name}: is damaged, or was not made with the files beside it; {_AGAIN}")
    return values


def open_retrieval(folder: Path) -> tuple[EmbeddingTable, EmbeddingTable]:
    """The photos that are searched and the sketches that search them, of a folder of embeddings.

    Raises:
        PipelineError: as `EmbeddingTable.open`.
    """
    return _both(folder, "photos", "sketches")


def open_pretext(folder: Path) -> tuple[EmbeddingTable, EmbeddingTable]:
    """The pretext photos that alignments are fitted on and their edge maps, of a folder of embeddings.

    Raises:
        PipelineError: as `EmbeddingTable.open`.
    """
    return _both(folder, "pretext_photos", "pretext_edges")


def _both(folder: Path, first: str, second: str) -> tuple[EmbeddingTable, EmbeddingTable]:
    return EmbeddingTable.open(folder / f"{first}.parquet"), EmbeddingTable.open(folder / f"{second}.parquet")


_AGAIN = "delete it and run `dvc repro` again"


def _some(ids: Strings) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return ", ".join(ids[:3].tolist()) + more


def write_arrays(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Writes arrays of any shape and type as safetensors, whole or not at all.

    The library writes an array's memory as it lies there, so one that is not in C order would be read back scrambled.
    """
    with replacing(path) as aside:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, str(aside))
