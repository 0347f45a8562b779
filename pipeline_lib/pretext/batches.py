"""Batches of layouts from patch shards, in an order that depends on seed and epoch alone.

An epoch is one draw of every image. Row groups are visited in random order; a window of them is read at a time and its
rows are shuffled. So memory does not grow with the data set, and training can resume at any step without repeating the
steps before it. A thread reads ahead.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.data.ahead import read_ahead
from pipeline_lib.data.randomness import generator_for
from pipeline_lib.data.schemas import opened_shard, shard_paths
from pipeline_lib.data.share import ALL, Share
from pipeline_lib.errors import PipelineError
from pipeline_lib.pretext.layout import ORDERED_PAIRS, PAIR_DIRECTIONS, PAIR_WEIGHTS
from pipeline_lib.pretext.shards import RowGroup, wanted_groups

Domain = Literal["cross", "photo", "edges"]

WINDOW = 16
"""Row groups (of at most 64 layouts, 147 kB each at 96 px) that are read and shuffled together."""


@dataclass(frozen=True)
class Batch:
    """The layouts of B images."""

    image_ids: list[str]
    photos: NDArray[np.uint8] | None  # uint8[B, 4, size, size, 3]; None in domain `edges`
    edges: NDArray[np.uint8] | None  # uint8[B, 4, size, size]; None in domain `photo`


@dataclass(frozen=True)
class PairTable:
    """The pairs of one image's patches; patches are numbered photos first, then edges."""

    first: NDArray[np.int64]  # [K]
    second: NDArray[np.int64]  # [K]
    directions: NDArray[np.int64]  # [K], 0..7
    weights: NDArray[np.float32]  # [K], mean 1
    order: tuple[str, ...]  # [K], domains of the two, such as "photo_edges"


def pair_table(domain: Domain) -> PairTable:
    """All pairs of a domain: 24 for `cross` (12 in each order of domains), 12 for `photo` or `edges`."""
    i, j = np.array(ORDERED_PAIRS).T
    if domain != "cross":
        return PairTable(i, j, PAIR_DIRECTIONS, PAIR_WEIGHTS, (f"{domain}_{domain}",) * 12)
    return PairTable(
        np.concatenate([i, i + 4]),
        np.concatenate([j + 4, j]),
        np.tile(PAIR_DIRECTIONS, 2),
        np.tile(PAIR_WEIGHTS, 2),
        ("photo_edges",) * 12 + ("edges_photo",) * 12,
    )


class PatchShards:
    """The patches of some images in a folder of shards."""

    def __init__(self, folder: Path, image_ids: Collection[str], domain: Domain) -> None:
        """Reads the shards' footers and names, no patches.

        Raises:
            PipelineError: a shard is truncated or damaged, or none of the images is there.
        """
        photo, edge = "photo_patches", "edge_patches"
        self.columns = {"cross": [photo, edge], "photo": [photo], "edges": [edge]}[domain]
        wanted, shards = frozenset(image_ids), shard_paths(folder)
        with opened_shard(shards[0]) as file:
            shape: str = file.schema_arrow.metadata[b"edge_patches"].decode()  # "uint8[4,size,size]"
            self.size = int(shape.removesuffix("]").split(",")[1])
        self._groups = [group for path in shards for group in wanted_groups(path, wanted, draws=True)]
        if not self._groups:
            raise PipelineError(f"{folder}: holds no patches of the wanted images; run `dvc repro patches` again")
        self.draws = 1 + max(group.draw for group in self._groups)

    def count(self, draw: int = 0) -> int:
        """Number of images in a draw."""
        return sum(len(group.rows) for group in self._groups if group.draw == draw)

    def epoch(
        self,
        draw: int,
        batch: int,
        *,
        shuffle: tuple[object, ...] | None,
        start: int = 0,
        drop_last: bool = False,
        share: Share = ALL,
    ) -> Iterator[Batch]:
        """The batches of one draw, read ahead by a thread.

        Args:
            draw: 0..draws - 1.
            batch: images a batch.
            shuffle: parts of the order's seed (such as seed and epoch); None keeps the order of the shards.
            start: batches to skip, for a resumed epoch.
            drop_last: leave out the last batch where it is smaller.
            share: what is kept of each batch.

        Returns:
            Batches; their arrays are not reused.
        """
        return read_ahead(lambda: self._read(draw, batch, shuffle, start, share, drop_last=drop_last), "patch-reader")

    def _read(
        self, draw: int, batch: int, shuffle: tuple[object, ...] | None, start: int, share: Share, *, drop_last: bool
    ) -> Iterator[Batch]:
        rows = self._rows(draw, shuffle, start * batch)
        while chunk := list(islice(rows, batch)):
            if len(chunk) < batch and drop_last:
                return
            chunk = chunk[share.own(len(chunk))]
            names = [name for name, _ in chunk]
            patches = {column: np.stack([row[column] for _, row in chunk]) for column in self.columns}
            chunk.clear()  # it keeps row groups in memory
            yield Batch(names, patches.get("photo_patches"), patches.get("edge_patches"))

    def _rows(
        self, draw: int, shuffle: tuple[object, ...] | None, skipped: int
    ) -> Iterator[tuple[str, dict[str, NDArray[np.uint8]]]]:
        """Image_ids of a draw, but the first `skipped`, with the images' patches per column: views into a row group."""
        groups = [group for group in self._groups if group.draw == draw]
        rng = None if shuffle is None else generator_for(*shuffle)
        if rng is not None:
            groups = [groups[k] for k in rng.permutation(len(groups))]
        for first in range(0, len(groups), WINDOW):
            window = groups[first : first + WINDOW]
            order = np.array([(g, k) for g, group in enumerate(window) for k in range(len(group.rows))])
            if rng is not None:
                rng.shuffle(order)
            # Rows before the start of a resumed epoch are counted, not read.
            order, skipped = order[skipped:], max(0, skipped - len(order))
            decoded = [self._decode(group) for group in window] if len(order) else []
            for g, k in order:
                row = window[g].rows[k]
                yield window[g].image_ids[k], {name: values[row] for name, values in decoded[g].items()}

    def _decode(self, group: RowGroup) -> dict[str, NDArray[np.uint8]]:
        with opened_shard(group.path) as file:
            table = file.read_row_group(group.number, columns=self.columns)
        shapes = {"photo_patches": (4, self.size, self.size, 3), "edge_patches": (4, self.size, self.size)}
        return {name: _view(table[name], shapes[name]) for name in self.columns}


def _view(column: pa.ChunkedArray, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The rows of a `binary` column as one uint8 tensor, without copying where it has one chunk."""
    rows = column.combine_chunks()
    _, offsets, values = rows.buffers()
    first = int(np.frombuffer(offsets, np.int32)[rows.offset])
    return np.frombuffer(values, np.uint8)[first:][: len(rows) * int(np.prod(shape))].reshape(len(rows), *shape)
