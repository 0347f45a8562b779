"""The vectors of one's own photos as shards: Parquet files, each of the photos whose paths have alike hashes.

A shard holds the paths whose hash begins with its bits, and is cut in two when they are too many (extendible hashing,
Fagin et al. 1979). So the shards follow from the paths alone, and a new photo changes one, or makes two of it.

A row is a photo: its path, what the system tells of its file, the digest of its content, its vector in float16, and its
mark (see `stacks`). Photos are decoded once, for the vector and for the small picture that is kept of each.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline_lib.data.ahead import map_ahead
from pipeline_lib.data.folder import FolderSource
from pipeline_lib.data.images import BadImage, decode, taken_at
from pipeline_lib.data.schemas import parquet_writer
from pipeline_lib.embedding.vectors import Vectors, batched, vector_table
from pipeline_lib.search.own_record import OWN_PIXELS, read_shard
from pipeline_lib.search.stacks import MARK_BYTES, mark_of
from pipeline_lib.search.thumbnails import SIDE, Thumbnails

if TYPE_CHECKING:  # it would load what computes vectors
    from pipeline_lib.search.engine import Prepared, QueryEncoder

MOST_ROWS: Final = 2048
"""Photos of a shard, at most; a third less on average."""
SHARD_ROWS: Final = 512
"""Photos that are embedded between two writings of their shard: what a kill may cost."""
EARLIER: Final = "part-*.parquet"
"""Shards of earlier versions, which hold photos in the order in which they came."""
MOVED_AT_ONCE: Final = 256
"""Shards of an earlier version whose rows are moved together."""
HASH_BITS: Final = 32
READERS: Final = 4
"""Threads that decode photos while earlier ones are embedded."""
AHEAD: Final = 16
"""Photos that are read ahead."""
DIGITS: Final = 32
"""Hexadecimal digits of the SHA-256 that tells contents apart: 128 bits."""
SAYING: Final = 1000
"""Photos between two sentences on how far it has got."""
Layout = dict[str, list[str]]
"""The bits of each shard, and its photos."""


class Fresh(NamedTuple):
    """A photo that was read."""

    prepared: "Prepared"  # as the encoder takes it
    mark: bytes  # see `stacks`
    taken: int  # see `data.images.taken_at`


class Read(NamedTuple):
    """What reading a file gave: its content's digest, and a photo, a shard that has it, or why it can't be used."""

    content: str
    what: Fresh | Path | str


class Stored(NamedTuple):
    """A photo that has a vector."""

    signature: str
    content: str
    shard: Path


def layout(paths: Iterable[str]) -> Layout:
    """The shards that some photos make, those without any included."""
    named = list(paths)
    hashes = _hashes(named)
    order = np.argsort(hashes, kind="stable")
    return {bits: sorted(named[row] for row in order[low:high]) for bits, low, high in _cut(hashes[order])}


def _hashes(paths: Iterable[str]) -> NDArray[np.uint32]:
    digests = b"".join(hashlib.sha256(path.encode()).digest()[: HASH_BITS // 8] for path in paths)
    return np.frombuffer(digests, ">u4").astype(np.uint32)


def _cut(hashes: NDArray[np.uint32]) -> Iterator[tuple[str, int, int]]:
    """Of each shard its bits, and where its photos begin and end in sorted hashes."""
    waiting = [("", 0, len(hashes))]
    while waiting:
        bits, low, high = waiting.pop()
        if high - low <= MOST_ROWS or len(bits) == HASH_BITS:
            yield bits, low, high
            continue
        edge = int((bits + "1").ljust(HASH_BITS, "0"), 2)
        middle = low + int(np.searchsorted(hashes[low:high], np.uint32(edge)))
        waiting += [(bits + "1", middle, high), (bits + "0", low, middle)]


def shard_of(shards: Path, bits: str) -> Path:
    """The file of a shard."""
    return shards / f"shard{'-' * bool(bits)}{bits}.parquet"


def shard_files(shards: Path) -> list[Path]:
    """The shards that there are."""
    return sorted([*shards.glob("shard*.parquet"), *shards.glob(EARLIER)])


def stored(shards: Path, signatures: Mapping[str, str]) -> dict[str, Stored]:
    """The photos of a folder of shards, by their paths.

    Args:
        shards: the folder.
        signatures: of the files that there are; of two rows of one path, which an update may have left, these decide.

    Raises:
        PipelineError: a shard can't be read.
    """
    found: dict[str, Stored] = {}
    for path in shard_files(shards):
        for name, signature, content in _told(path):
            if name not in found or signatures.get(name) == signature:
                found[name] = Stored(signature, content, path)
    return found


def _told(shard: Path) -> Iterator[tuple[str, str, str]]:
    """Path, signature and content of each row."""
    columns = read_shard(shard, ("image_id", "signature", "content")).columns
    return zip(*(column.to_pylist() for column in columns), strict=True)


def _write_shard(path: Path, tables: Sequence[pa.Table]) -> None:
    """Rows in the order of their paths, and of two that agree in path and signature one."""
    rows = pa.concat_tables(tables).combine_chunks()
    names, signatures = (rows[column].to_pylist() for column in ("image_id", "signature"))
    first: dict[tuple[str, str], int] = {}
    for row, pair in enumerate(zip(names, signatures, strict=True)):
        first.setdefault(pair, row)
    rows = rows.take(pa.array([first[pair] for pair in sorted(first)], pa.int64()))
    # A dictionary of float numbers would be larger than the numbers.
    with parquet_writer(path, rows.schema, compression="lz4", use_dictionary=False) as writer:
        writer.write_table(rows)


def _halved(rows: pa.Table) -> pa.Table:
    """Rows of an earlier version, with vectors in float16."""
    place = rows.schema.get_field_index("vector")
    column = rows.column(place).combine_chunks()
    if column.type.value_type == pa.float16():
        return rows
    numbers = pa.array(column.flatten().to_numpy().astype(np.float16))
    halved = pa.FixedSizeListArray.from_arrays(numbers, column.type.list_size)
    return rows.set_column(place, pa.field("vector", halved.type), halved)


def arrange(shards: Path, plan: Layout) -> bool:
    """Moves the rows of shards that `plan` does not have to those that it has; tells whether there were any."""
    kept = {shard_of(shards, bits) for bits in plan}
    foreign = [path for path in shard_files(shards) if path not in kept]
    for paths in batched(foreign, MOVED_AT_ONCE):
        rows = pa.concat_tables([_halved(read_shard(path)) for path in paths])
        hashes = _hashes(rows["image_id"].to_pylist())
        order = np.argsort(hashes, kind="stable")
        edges = [int(bits.ljust(HASH_BITS, "0") or "0", 2) for bits in sorted(plan)]
        cuts = [*np.searchsorted(hashes[order], np.array(edges, np.uint32)).tolist(), len(order)]
        for bits, low, high in zip(sorted(plan), cuts[:-1], cuts[1:], strict=True):
            if low < high:
                _add(shard_of(shards, bits), [rows.take(pa.array(order[low:high]))])
        for path in paths:
            path.unlink()
    return bool(foreign)


def _add(shard: Path, tables: Sequence[pa.Table]) -> None:
    """Adds rows to a shard."""
    _write_shard(shard, [*([read_shard(shard)] if shard.exists() else []), *tables])


def drop_stale(shards: Path, signatures: Mapping[str, str]) -> dict[str, Stored]:
    """Drops the rows of photos that are gone or have changed, of which there is another row by now; returns the rest.

    Raises:
        PipelineError: a shard can't be read.
    """
    found: dict[str, Stored] = {}
    for path in shard_files(shards):
        rows = list(_told(path))
        keep = [signatures.get(name) == signature for name, signature, _ in rows]
        if not any(keep):
            path.unlink()
        elif not all(keep):
            _write_shard(path, [read_shard(path).filter(pa.array(keep))])
        left = (row for row, kept in zip(rows, keep, strict=True) if kept)
        found.update((name, Stored(signature, content, path)) for name, signature, content in left)
    return found


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
            shards: folder of shards, to which rows are added.
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
        self._contents = {row.content: row.shard for row in before.values()}
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

    def embed(self, todo: Layout) -> tuple[int, int]:
        """Makes rows of photos; returns how many were embedded, and how many had a vector already."""
        added, kept = 0, 0
        every = [path for paths in todo.values() for path in paths]
        progress = tqdm(total=len(every), desc="index photos", unit="photo", mininterval=1.0, disable=None)
        with ThreadPoolExecutor(READERS) as readers, progress:
            reads = self._read(every, readers, progress)
            for bits, paths in todo.items():
                for start in range(0, len(paths), SHARD_ROWS):
                    fresh, known = self._tables(islice(reads, min(SHARD_ROWS, len(paths) - start)))
                    if tables := [*fresh, *known]:
                        _add(shard_of(self.shards, bits), tables)
                    added += sum(table.num_rows for table in fresh)
                    kept += sum(table.num_rows for table in known)
        return added, kept

    def _read(
        self, todo: Sequence[str], readers: ThreadPoolExecutor, progress: "tqdm[NoReturn]"
    ) -> Iterator[tuple[str, Read]]:
        """The photos in order; a few are read ahead, so that the network need not wait."""
        started = time.monotonic()
        for place, found in enumerate(map_ahead(readers, self._one, todo, AHEAD), start=1):
            progress.update()
            if place % SAYING == 0 and place < len(todo):
                minutes = (time.monotonic() - started) / place * (len(todo) - place) / 60
                tqdm.write(f"{place:,} of {len(todo):,} photos are read; about {max(1, round(minutes))} min are left")
            yield found

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
        known: list[tuple[str, str, Path]] = []
        waiting: list[Prepared] = []
        vectors: list[Vectors] = []
        for path, read in reads:
            if isinstance(read.what, str):
                self.bad[path] = read.what
            elif isinstance(read.what, Path):
                known.append((path, read.content, read.what))
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
        with np.errstate(over="ignore"):  # what does not fit is infinite, and told below
            halves = vectors.astype(np.float16)
        lengths = np.linalg.norm(halves.astype(np.float32), axis=1)
        good = np.isfinite(lengths) & (lengths > 0)
        pairs = list(zip(rows, good.tolist(), strict=True))
        self.bad.update({row[0]: "its vector is zero or not finite" for row, fine in pairs if not fine})
        if not good.any():
            return []
        names, contents, marks, taken = zip(*(row for row, fine in pairs if fine), strict=True)
        table = vector_table(names, [""] * len(names), names, halves[good])
        columns = {
            "signature": pa.array([self.signatures[name] for name in names]),
            "content": pa.array(contents),
            "mark": pa.array(marks, pa.binary(MARK_BYTES)),
            "taken": pa.array(taken, pa.int64()),
        }
        for name, column in columns.items():
            table = table.append_column(name, column)
        return [table]

    def _again(self, known: list[tuple[str, str, Path]]) -> list[pa.Table]:
        """Rows of any shards, under the paths and signatures that their photos have now."""
        tables = []
        for shard in sorted({shard for _, _, shard in known}):
            wanted = [(path, content) for path, content, place in known if place == shard]
            rows = read_shard(shard)
            places = pc.index_in(pa.array([content for _, content in wanted]), rows["content"].combine_chunks())
            rows, paths = rows.take(places), [path for path, _ in wanted]
            new = {"image_id": paths, "instance_id": paths, "signature": [self.signatures[path] for path in paths]}
            for name, values in new.items():
                rows = rows.set_column(rows.column_names.index(name), rows.field(name), pa.array(values, pa.string()))
            tables.append(rows)
        return tables
