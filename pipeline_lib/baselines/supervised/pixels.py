"""Training images, decoded and scaled once into one Parquet file of raw bytes, and read without copying."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_lib.baselines.system import Domain
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import replacing

ROWS = 64


def square(image: NDArray[np.uint8], size: int, domain: Domain) -> NDArray[np.uint8]:
    """A whole image as a square, whatever its shape: uint8[size, size, 3] of a photo, uint8[size, size] of a sketch."""
    if domain == "sketch" and image.ndim == 3:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    if domain == "photo" and image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    method = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)


@dataclass(frozen=True)
class Pixels:
    """Scaled images of one domain.

    Attributes:
        image_ids: str[N].
        images: uint8[N, size, size, 3] or uint8[N, size, size], a view of the file.
    """

    image_ids: list[str]
    images: NDArray[np.uint8]

    @classmethod
    def open(cls, path: Path) -> Pixels:
        """Maps a file that `write` wrote.

        Raises:
            PipelineError: it is cut or holds something else.
        """
        try:
            table = pq.read_table(path, memory_map=True).combine_chunks()
            shape = tuple(int(side) for side in table.schema.metadata[b"shape"].split(b","))
            column = table["pixels"].chunk(0)
            images = np.frombuffer(column.buffers()[2], np.uint8).reshape(-1, *shape)
        except (OSError, pa.ArrowException, KeyError, TypeError, IndexError, ValueError) as failure:
            raise PipelineError(f"{path}: is cut or damaged ({failure}); delete it and run again") from failure
        return cls(table["image_id"].to_pylist(), images)


def write(path: Path, images: Iterable[tuple[str, NDArray[np.uint8]]], size: int, domain: Domain) -> None:
    """Writes scaled images, a block at a time, uncompressed so that they need not be unpacked; whole or not at all.

    Args:
        path: the file.
        images: image_id and pixels, uint8[H, W, 3] RGB or uint8[H, W].
        size: px.
        domain: of all of them.
    """
    shape = (size, size, 3) if domain == "photo" else (size, size)
    # Offsets of 64 bits: the column of a large set exceeds 2 GB.
    columns = [("image_id", pa.string()), ("pixels", pa.large_binary())]
    schema = pa.schema(columns, metadata={"shape": ",".join(map(str, shape))})
    with replacing(path) as aside, pq.ParquetWriter(aside, schema, compression="none", use_dictionary=False) as writer:
        block: list[dict[str, object]] = []
        for image_id, pixels in images:
            block.append({"image_id": image_id, "pixels": square(pixels, size, domain).tobytes()})
            if len(block) == ROWS:
                writer.write_table(pa.Table.from_pylist(block, schema))
                block = []
        if block:
            writer.write_table(pa.Table.from_pylist(block, schema))
