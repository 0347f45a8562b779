"""The vectors of one's own photos as shards: Parquet files, each of the photos whose paths have alike hashes.

Which photos fall to a shard: see `own_files`. A row is a photo: its path, what the system tells of its file, the digest
of its content, its vector in float16, and its mark (see `stacks`). Photos are decoded once, for the vector and for the
small picture that is kept of each.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from pipeline_lib.data.source import signature_of
from pipeline_lib.embedding.vectors import Vectors, batched, vector_table
from pipeline_lib.search.own_files import (
    File,
    Files,
    Mask,
    Shard,
    bits_of,
    first_hash,
    hashes_of,
    shard_files,
    shard_of,
)
from pipeline_lib.search.own_record import KEPT, OWN_PIXELS, read_shard
from pipeline_lib.search.stacks import MARK_BYTES, mark_of
from pipeline_lib.search.thumbnails import SIDE, Thumbnails

if TYPE_CHECKING:  # it would load what computes vectors
    from pipeline_lib.search.engine import Prepared, QueryEncoder

SHARD_ROWS: Final = 512
"""Photos that are embedded between two writings of their shard: what a kill may cost."""
MOVED_AT_ONCE: Final = 256
"""Shards of an earlier version whose rows are moved together."""
READERS: Final = 4
"""Threads that decode photos while earlier ones are embedded."""
AHEAD: Final = 16
"""Photos that are read ahead."""
DIGITS: Final = 32
"""Hexadecimal digits of the SHA-256 that tells contents apart: 128 bits."""
SAYING: Final = 1000
"""Photos between two sentences on how far it has got."""
TOLD: Final = ("image_id", "signature", "content")
"""Columns that tell which photos a shard holds."""
AS_TOLD: Final = pa.schema([KEPT.field(name) for name in TOLD])


class Fresh(NamedTuple):
    """A photo that was read."""

    prepared: "Prepared"  # as the encoder takes it
    mark: bytes  # see `stacks`
    taken: int  # see `data.images.taken_at`


class Read(NamedTuple):
    """What reading a file gave: its content's digest, and a photo, a shard that has it, or why it can't be used."""

    content: str
    what: Fresh | Path | str


class Told(NamedTuple):
    """What a shard tells of its photos."""

    file: str  # `signature_of` the shard, by which it is known whether it has changed since
    digest: str  # of their paths and contents
    contents: NDArray[np.bytes_]  # of each the digest of its file
    stale: bool  # whether some are none of the files that there are


class Contents:
    """Which shard holds a photo of which content."""

    def __init__(self, told: Mapping[Path, Told]) -> None:
        """Of some shards."""
        self._shards = list(told)
        keys = [each.contents for each in told.values()]
        owners = np.repeat(np.arange(len(keys)), [len(each) for each in keys])
        self._keys = np.concatenate([np.empty(0, f"S{DIGITS}"), *keys])
        order = np.argsort(self._keys, kind="stable")
        self._keys, self._owners = self._keys[order], owners[order]

    def shard(self, content: str) -> Path | None:
        """The shard of a photo that has this content."""
        key = content.encode()
        place = int(np.searchsorted(self._keys, np.bytes_(key)))
        return self._shards[self._owners[place]] if place < len(self._keys) and self._keys[place] == key else None


@dataclass(frozen=True)
class Looked:
    """What the shards of a folder hold of some files."""

    told: dict[Path, Told]
    had: Mask  # bool[files], of which there is a row
    known: Mask  # bool[files], of which there is a row with the signature that they have now
    gone: pa.Table  # columns `TOLD`, of photos that are none of them: one row of each path


def look(shards: Path, files: Files) -> Looked:
    """Looks at all shards.

    Args:
        shards: the folder.
        files: those that there are. Of two rows of one path, which an update may have left, their signatures decide.

    Raises:
        PipelineError: a shard can't be read.
    """
    told: dict[Path, Told] = {}
    had, known = np.zeros(len(files), np.bool_), np.zeros(len(files), np.bool_)
    gone = [AS_TOLD.empty_table()]
    for path in shard_files(shards):
        now, rows = signature_of(path), told_rows(path)
        places, there, same = _matched(path, rows, files)
        had[places[there]] = True
        known[places[same]] = True
        gone.append(rows.filter(pa.array(~there)))
        told[path] = _told(now, rows, stale=not same.all())
    lost = pa.concat_tables(gone).combine_chunks()
    first = pc.index_in(lost["image_id"], lost["image_id"].combine_chunks()).to_numpy()
    return Looked(told, had, known, lost.filter(pa.array(first == np.arange(len(first)))))


def told_rows(shard: Path) -> pa.Table:
    """Columns `TOLD` of a shard; errors as in `read_shard`."""
    return read_shard(shard, TOLD).cast(AS_TOLD).combine_chunks()


def _matched(shard: Path, rows: pa.Table, files: Files) -> tuple[NDArray[np.int64], Mask, Mask]:
    """Of each row of a shard the file of its path, whether there is one, and whether it has the row's signature."""
    low, high = files.below(bits_of(shard))
    paths, signatures = (rows[name].combine_chunks() for name in TOLD[:2])
    found = pc.index_in(paths, files.paths.slice(low, high - low))
    there = np.asarray(found.is_valid())
    places = np.asarray(found.fill_null(0)).astype(np.int64) + low
    same = np.zeros(len(rows), np.bool_)
    same[there] = pc.equal(signatures.filter(pa.array(there)), files.signatures.take(pa.array(places[there])))
    return places, there, same


def _told(file: str, rows: pa.Table, *, stale: bool) -> Told:
    paths, contents = (rows[name].to_pylist() for name in ("image_id", "content"))
    digest = hashlib.sha256("\0".join([*paths, *contents]).encode()).hexdigest()
    return Told(file, digest, np.array(contents, f"S{DIGITS}"), stale)


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


def arrange(shards: Path, plan: Sequence[Shard]) -> bool:
    """Moves the rows of shards that `plan` does not have to those that it has; tells whether there were any."""
    kept = {shard_of(shards, shard.bits) for shard in plan}
    foreign = [path for path in shard_files(shards) if path not in kept]
    for paths in batched(foreign, MOVED_AT_ONCE):
        rows = pa.concat_tables([_halved(read_shard(path)) for path in paths])
        hashes = hashes_of(rows["image_id"].to_pylist())
        order = np.argsort(hashes, kind="stable")
        edges = [first_hash(shard.bits) for shard in plan]
        cuts = [*np.searchsorted(hashes[order], np.array(edges, np.uint32)).tolist(), len(order)]
        for shard, low, high in zip(plan, cuts[:-1], cuts[1:], strict=True):
            if low < high:
                _add(shard_of(shards, shard.bits), [rows.take(pa.array(order[low:high]))])
        for path in paths:
            path.unlink()
    return bool(foreign)


def _add(shard: Path, tables: Sequence[pa.Table]) -> None:
    """Adds rows to a shard."""
    _write_shard(shard, [*([read_shard(shard)] if shard.exists() else []), *tables])


def settle(shards: Path, files: Files, before: Looked) -> tuple[dict[Path, Told], Mask]:
    """Drops the rows of photos that are gone or have changed, of which there is another row by now.

    Args:
        shards: the folder.
        files: those that there are.
        before: what the shards held of them; those that have not changed since and held nothing stale are not read.

    Returns:
        What each shard tells now, and bool[files], of which there is a row.

    Raises:
        PipelineError: a shard can't be read.
    """
    told: dict[Path, Told] = {}
    known = before.known.copy()
    for path in shard_files(shards):
        earlier = before.told.get(path)
        if earlier is not None and not earlier.stale and earlier.file == signature_of(path):
            told[path] = earlier
            continue
        rows = told_rows(path)
        places, _, same = _matched(path, rows, files)
        if not same.any():
            path.unlink()
            continue
        if not same.all():
            keep = pa.array(same)
            _write_shard(path, [read_shard(path).filter(keep)])
            rows = rows.filter(keep)
        known[places[same]] = True
        told[path] = _told(signature_of(path), rows, stale=False)
    return told, known


class Work:
    """Reads photos, embeds those whose content is new, and writes shards."""

    def __init__(
        self,
        shards: Path,
        thumbnails: Thumbnails,
        before: Mapping[Path, Told],
        opened: "Callable[[], QueryEncoder]",
        side: int,
        bad: dict[str, str],
    ) -> None:
        """Nothing is read yet.

        Args:
            shards: folder of shards, to which rows are added.
            thumbnails: where small pictures are kept.
            before: what the shards hold.
            opened: opens the encoder.
            side: of the square that the network is shown, px.
            bad: path -> why a file can't be used; those that are found to be so join it.
        """
        self.shards = shards
        self.thumbnails = thumbnails
        self.bad = bad
        self._source = FolderSource(Path(), OWN_PIXELS, "")  # paths are absolute, or addresses
        self._before = before
        self._opened = opened
        self._side = side
        self._encoder: QueryEncoder | None = None
        self._contents: Contents | None = None
        self._lock = threading.Lock()

    def contents(self) -> Contents:
        """Which content has a vector; told by the first thread that asks, since mostly there is nothing new."""
        with self._lock:
            if self._contents is None:
                self._contents = Contents(self._before)
            return self._contents

    def encoder(self) -> "QueryEncoder":
        """The encoder, opened by the first thread that asks."""
        with self._lock:
            if self._encoder is None:
                self._encoder = self._opened()
            return self._encoder

    def embed(self, todo: Mapping[str, Sequence[File]]) -> tuple[int, int]:
        """Makes rows of the photos of each shard; returns how many were embedded, and how many had a vector already."""
        added, kept = 0, 0
        every = [file for files in todo.values() for file in files]
        progress = tqdm(total=len(every), desc="index photos", unit="photo", mininterval=1.0, disable=None)
        with ThreadPoolExecutor(READERS) as readers, progress:
            reads = self._read(every, readers, progress)
            for bits, files in todo.items():
                for start in range(0, len(files), SHARD_ROWS):
                    fresh, known = self._tables(islice(reads, min(SHARD_ROWS, len(files) - start)))
                    if tables := [*fresh, *known]:
                        _add(shard_of(self.shards, bits), tables)
                    added += sum(table.num_rows for table in fresh)
                    kept += sum(table.num_rows for table in known)
        return added, kept

    def _read(
        self, todo: Sequence[File], readers: ThreadPoolExecutor, progress: "tqdm[NoReturn]"
    ) -> Iterator[tuple[File, Read]]:
        """The photos in order; a few are read ahead, so that the network need not wait."""
        started = time.monotonic()
        for place, found in enumerate(map_ahead(readers, self._one, todo, AHEAD), start=1):
            progress.update()
            if place % SAYING == 0 and place < len(todo):
                minutes = (time.monotonic() - started) / place * (len(todo) - place) / 60
                tqdm.write(f"{place:,} of {len(todo):,} photos are read; about {max(1, round(minutes))} min are left")
            yield found

    def _one(self, file: File) -> Read:
        content = ""
        try:
            data = self._source.read(file[0])
            content = hashlib.sha256(data).hexdigest()[:DIGITS]
            if shard := self.contents().shard(content):
                return Read(content, shard)
            image = decode(data, max_pixels=OWN_PIXELS, short_side=max(self._side, SIDE))
        except BadImage as failure:
            return Read(content, str(failure))
        except MemoryError:
            return Read(content, "too large for this machine's memory")
        self.thumbnails.keep(content, image)
        # Opened here and not before: files that can't be read are tried at every update, mostly in vain.
        return Read(content, Fresh(self.encoder().prepare(image, "photo"), mark_of(image), taken_at(data)))

    def _tables(self, reads: Iterable[tuple[File, Read]]) -> tuple[list[pa.Table], list[pa.Table]]:
        """Rows of photos that are embedded now, and of those whose content has a vector."""
        rows: list[tuple[str, str, str, bytes, int]] = []
        known: list[tuple[str, str, str, Path]] = []
        waiting: list[Prepared] = []
        vectors: list[Vectors] = []
        for (path, signature), read in reads:
            if isinstance(read.what, str):
                self.bad[path] = read.what
            elif isinstance(read.what, Path):
                known.append((path, signature, read.content, read.what))
            else:
                rows.append((path, signature, read.content, read.what.mark, read.what.taken))
                waiting.append(read.what.prepared)
                if len(waiting) == self.encoder().embedder.batch:
                    vectors.append(self.encoder().raw(waiting))
                    waiting = []
        if waiting:
            vectors.append(self.encoder().raw(waiting))
        return self._fresh(rows, np.concatenate(vectors)) if rows else [], self._again(known)

    def _fresh(self, rows: list[tuple[str, str, str, bytes, int]], vectors: Vectors) -> list[pa.Table]:
        """Rows of new photos, without those whose vectors can't be ranked."""
        with np.errstate(over="ignore"):  # what does not fit is infinite, and told below
            halves = vectors.astype(np.float16)
        lengths = np.linalg.norm(halves.astype(np.float32), axis=1)
        good = np.isfinite(lengths) & (lengths > 0)
        pairs = list(zip(rows, good.tolist(), strict=True))
        self.bad.update({row[0]: "its vector is zero or not finite" for row, fine in pairs if not fine})
        if not good.any():
            return []
        names, signatures, contents, marks, taken = zip(*(row for row, fine in pairs if fine), strict=True)
        table = vector_table(names, [""] * len(names), names, halves[good])
        columns = {
            "signature": pa.array(signatures),
            "content": pa.array(contents),
            "mark": pa.array(marks, pa.binary(MARK_BYTES)),
            "taken": pa.array(taken, pa.int64()),
        }
        for name, column in columns.items():
            table = table.append_column(name, column)
        return [table]

    def _again(self, known: list[tuple[str, str, str, Path]]) -> list[pa.Table]:
        """Rows of any shards, under the paths and signatures that their photos have now."""
        tables = []
        for shard in sorted({shard for *_, shard in known}):
            paths, signatures, contents, _ = zip(*(row for row in known if row[3] == shard), strict=True)
            rows = read_shard(shard)
            rows = rows.take(pc.index_in(pa.array(contents), rows["content"].combine_chunks()))
            new = {"image_id": paths, "instance_id": paths, "signature": signatures}
            for name, values in new.items():
                rows = rows.set_column(rows.column_names.index(name), rows.field(name), pa.array(values, pa.string()))
            tables.append(rows)
        return tables
