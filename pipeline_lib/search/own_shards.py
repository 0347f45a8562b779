"""The vectors of one's own photos as shards: Parquet files of up to 512 rows each, written whole.

A row is a photo: its path, what the system tells of its file, the digest of its content, its vector, and its mark (see
`stacks`). Photos are decoded once, for the vector and for the small picture that is kept of each.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from pipeline_lib.data.folder import FolderSource
from pipeline_lib.data.images import BadImage, decode, taken_at
from pipeline_lib.data.schemas import write_table
from pipeline_lib.embedding.vectors import Vectors, vector_table
from pipeline_lib.search.own_record import OWN_PIXELS, read_shard
from pipeline_lib.search.stacks import MARK_BYTES, mark_of
from pipeline_lib.search.thumbnails import SIDE, Thumbnails

if TYPE_CHECKING:  # it would load what computes vectors
    from pipeline_lib.search.engine import Prepared, QueryEncoder

SHARD_ROWS: Final = 512
READERS: Final = 4
"""Threads that decode photos while earlier ones are embedded."""
AHEAD: Final = 16
"""Photos that are read ahead."""
DIGITS: Final = 32
"""Hexadecimal digits of the SHA-256 that tells contents apart: 128 bits."""
SAYING: Final = 1000
"""Photos between two sentences on how far it has got."""


class Known(NamedTuple):
    """A row of a shard, whose photo's content some file has again."""

    shard: Path
    row: int


class Fresh(NamedTuple):
    """A photo that was read."""

    prepared: "Prepared"  # as the encoder takes it
    mark: bytes  # see `stacks`
    taken: int  # see `data.images.taken_at`


class Read(NamedTuple):
    """What reading a file gave: its content's digest, and a photo, a row that has it, or why it can't be used."""

    content: str
    what: Fresh | Known | str


class Stored(NamedTuple):
    """A photo that has a vector."""

    signature: str
    content: str
    place: Known


def stored(shards: Path) -> dict[str, Stored]:
    """The photos of a folder of shards, by their paths; the last of rows of one path, which an update may have left.

    Raises:
        PipelineError: a shard can't be read.
    """
    found = {}
    for path in sorted(shards.glob("part-*.parquet")):
        names = ("image_id", "signature", "content")
        rows = read_shard(path, names)
        columns = (rows[name].to_pylist() for name in names)
        for number, (name, signature, content) in enumerate(zip(*columns, strict=True)):
            found[name] = Stored(signature, content, Known(path, number))
    return found


def drop_stale(shards: Path, signatures: Mapping[str, str]) -> None:
    """Drops the rows of photos that are gone or have changed; those that have changed have another row by now."""
    for path in sorted(shards.glob("part-*.parquet")):
        rows = read_shard(path, ("image_id", "signature"))
        pairs = zip(rows["image_id"].to_pylist(), rows["signature"].to_pylist(), strict=True)
        keep = [signatures.get(name) == signature for name, signature in pairs]
        if not any(keep):
            path.unlink()
        elif not all(keep):
            write_table(path, read_shard(path).filter(pa.array(keep)))


class Work:
    """Reads photos, embeds those whose content is new, and writes shards."""

    def __init__(
        self,
        shards: Path,
        thumbnails: Thumbnails,
        signatures: Mapping[str, str],
        before: Mapping[str, Stored],
        opened: "Callable[[], QueryEncoder]",
        side: int,
        bad: dict[str, str],
    ) -> None:
        """Nothing is read yet.

        Args:
            shards: folder of shards, which new ones join.
            thumbnails: where small pictures are kept.
            signatures: path -> signature of the photos that there are.
            before: what the shards hold.
            opened: opens the encoder.
            side: of the square that the network is shown, px.
            bad: path -> why a file can't be used; those that are found to be so join it.
        """
        self.shards = shards
        self.thumbnails = thumbnails
        self.signatures = signatures
        self.bad = bad
        self._source = FolderSource(Path(), OWN_PIXELS, "")  # paths are absolute
        self._contents = {row.content: row.place for row in before.values()}
        self._opened = opened
        self._side = side
        self._encoder: QueryEncoder | None = None
        self._lock = threading.Lock()

    def encoder(self) -> "QueryEncoder":
        """The encoder, opened by the first thread that asks."""
        with self._lock:
            if self._encoder is None:
                self._encoder = self._opened()
            return self._encoder

    def embed(self, todo: Sequence[str]) -> tuple[int, int]:
        """Makes rows of photos; returns how many were embedded, and how many had a vector already."""
        used = [int(path.stem.removeprefix("part-")) for path in self.shards.glob("part-*.parquet")]
        number, added, kept = max(used, default=-1) + 1, 0, 0
        progress = tqdm(total=len(todo), desc="index photos", unit="photo", mininterval=1.0, disable=None)
        with ThreadPoolExecutor(READERS) as readers, progress:
            reads = self._read(todo, readers, progress)
            for _ in range(0, len(todo), SHARD_ROWS):
                fresh, known = self._tables(islice(reads, SHARD_ROWS))
                if tables := [*fresh, *known]:
                    write_table(self.shards / f"part-{number:05d}.parquet", pa.concat_tables(tables))
                number += 1
                added += sum(table.num_rows for table in fresh)
                kept += sum(table.num_rows for table in known)
        return added, kept

    def _read(
        self, todo: Sequence[str], readers: ThreadPoolExecutor, progress: "tqdm[NoReturn]"
    ) -> Iterator[tuple[str, Read]]:
        """The photos in order; a few are read ahead, so that the network need not wait."""
        waiting = deque(readers.submit(self._one, path) for path in todo[:AHEAD])
        started = time.monotonic()
        for place, path in enumerate(todo, start=1):
            read = waiting.popleft().result()
            if place - 1 + AHEAD < len(todo):
                waiting.append(readers.submit(self._one, todo[place - 1 + AHEAD]))
            progress.update()
            if place % SAYING == 0 and place < len(todo):
                minutes = (time.monotonic() - started) / place * (len(todo) - place) / 60
                tqdm.write(f"{place:,} of {len(todo):,} photos are read; about {max(1, round(minutes))} min are left")
            yield path, read

    def _one(self, path: str) -> Read:
        content = ""
        try:
            data = self._source.read(path)
            content = hashlib.sha256(data).hexdigest()[:DIGITS]
            if content in self._contents:
                return Read(content, self._contents[content])
            image = decode(data, max_pixels=OWN_PIXELS, short_side=max(self._side, SIDE))
        except BadImage as failure:
            return Read(content, str(failure))
        except MemoryError:
            return Read(content, "too large for this machine's memory")
        self.thumbnails.keep(content, image)
        # Opened here and not before: files that can't be read are tried at every update, mostly in vain.
        return Read(content, Fresh(self.encoder().prepare(image, "photo"), mark_of(image), taken_at(data)))

    def _tables(self, reads: Iterable[tuple[str, Read]]) -> tuple[list[pa.Table], list[pa.Table]]:
        """Rows of photos that are embedded now, and of those whose content has a vector."""
        rows: list[tuple[str, str, bytes, int]] = []
        known: list[tuple[str, Known]] = []
        waiting: list[Prepared] = []
        vectors: list[Vectors] = []
        for path, read in reads:
            if isinstance(read.what, str):
                self.bad[path] = read.what
            elif isinstance(read.what, Known):
                known.append((path, read.what))
            else:
                rows.append((path, read.content, read.what.mark, read.what.taken))
                waiting.append(read.what.prepared)
                if len(waiting) == self.encoder().embedder.batch:
                    vectors.append(self.encoder().raw(waiting))
                    waiting = []
        if waiting:
            vectors.append(self.encoder().raw(waiting))
        return self._fresh(rows, np.concatenate(vectors)) if rows else [], self._again(known)

    def _fresh(self, rows: list[tuple[str, str, bytes, int]], vectors: Vectors) -> list[pa.Table]:
        """Rows of new photos, without those whose vectors can't be ranked."""
        lengths = np.einsum("ij,ij->i", vectors, vectors)
        good = np.isfinite(lengths) & (lengths > 0)
        pairs = list(zip(rows, good.tolist(), strict=True))
        self.bad.update({row[0]: "its vector is zero or not finite" for row, fine in pairs if not fine})
        if not good.any():
            return []
        names, contents, marks, taken = zip(*(row for row, fine in pairs if fine), strict=True)
        table = vector_table(names, [""] * len(names), names, vectors[good])
        columns = {
            "signature": pa.array([self.signatures[name] for name in names]),
            "content": pa.array(contents),
            "mark": pa.array(marks, pa.binary(MARK_BYTES)),
            "taken": pa.array(taken, pa.int64()),
        }
        for name, column in columns.items():
            table = table.append_column(name, column)
        return [table]

    def _again(self, known: list[tuple[str, Known]]) -> list[pa.Table]:
        """Rows of other shards, under the paths and signatures that their photos have now."""
        tables = []
        for shard in sorted({place.shard for _, place in known}):
            paths = [path for path, place in known if place.shard == shard]
            rows = read_shard(shard).take([place.row for _, place in known if place.shard == shard])
            new = {"image_id": paths, "instance_id": paths, "signature": [self.signatures[path] for path in paths]}
            for name, values in new.items():
                rows = rows.set_column(rows.column_names.index(name), rows.field(name), pa.array(values, pa.string()))
            tables.append(rows)
        return tables
