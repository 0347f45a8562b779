"""Which photos lie below the folders of an index, and which of those that do not may come back."""

import functools
import itertools
import os
import queue
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.data.ahead import map_ahead
from pipeline_lib.data.cores import usable_cores
from pipeline_lib.data.folder import Listing, find_images, is_excluded
from pipeline_lib.data.formats import Format, obstacle
from pipeline_lib.data.remote import forget, is_address, names_in, place_of, told
from pipeline_lib.data.source import MISSING, signature_of
from pipeline_lib.data.workers import Worker
from pipeline_lib.embedding.vectors import batched
from pipeline_lib.errors import PipelineError
from pipeline_lib.search.own_files import BLOCK, Block, Files
from pipeline_lib.search.own_record import Record

ALONE: Final = 8
"""Blocks of files that this process looks at alone: 65,536 files take it a third of a second."""
LOOKERS: Final = 2
"""Processes that look at further ones: to list them takes half as long."""
LOOKED_AHEAD: Final = 16
"""Blocks of files that they may be behind, also while they start."""


@dataclass(frozen=True)
class Found:
    """The photos below some folders."""

    files: Files
    unsupported: dict[str, Format]
    skipped: dict[str, str]
    away: list[str]  # folders without any photo, or not there


def is_below(root: str, other: str) -> bool:
    """Whether a path is another, or lies below it."""
    return Path(root).is_relative_to(other)


def _opened(root: str) -> Path | None:
    """A folder, or what stands for one behind an address; None where it is not there, or out of reach."""
    try:
        with told():
            place = place_of(root)
            forget(place)
            return place if place.is_dir() else None
    except OSError:
        return None


def find(roots: Sequence[str], exclude: Sequence[str], home: Path, *, links: bool = False) -> Found:
    """The photos below some folders.

    Args:
        roots: absolute, or addresses.
        exclude: as in `data.folder.find_images`.
        home: of the index, whose small pictures are no photos if it lies among them.
        links: whether links that lead out of the folders are followed.

    Raises:
        PipelineError: none of them holds a photo that can be read, or a store can't be asked any more.
    """
    seen = {(found.st_dev, found.st_ino) for found in [home.stat()]} if home.exists() else set()
    unsupported: dict[str, Format] = {}
    skipped: dict[str, str] = {}
    away: dict[str, str] = {}

    def blocks() -> Iterator[Block]:
        for name in roots:
            root, listing, count = _opened(name), Listing(), 0
            if root is not None:
                top = root.as_posix().rstrip("/")
                paths = (f"{top}/{inside}" for inside in find_images(root, listing, exclude, seen, links=links))
                some = batched(paths, BLOCK)
                for block in map(_told_by_store, some) if is_address(top) else _told_by_system(some):
                    count += len(block.paths)
                    yield block
                unsupported.update((f"{top}/{inside}", kind) for inside, kind in listing.unsupported.items())
                skipped.update((f"{top}/{inside}", why) for inside, why in listing.skipped.items())
            if not count:
                away[name] = "is not there any more, or out of reach" if root is None else _why_none(listing)

    files = Files.joined(blocks())
    if not len(files):
        root, why = next(iter(away.items()))
        raise PipelineError(f"{root}: {why}; the index is left as it is")
    return Found(files, unsupported, skipped, list(away))


def _told_by_system(paths: Iterator[Sequence[str]]) -> Iterator[Block]:
    """Files and their signatures; where there are many, `LOOKERS` processes look at them while they are listed."""
    yield from map(_looked, itertools.islice(paths, ALONE) if usable_cores() >= LOOKERS else paths)
    first = next(paths, None)
    if first is None:
        return
    with ExitStack() as ended, ThreadPoolExecutor(LOOKERS, "looker") as threads:
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(LOOKERS):
            worker = Worker()
            ended.callback(worker.end, 0)
            idle.put(worker)

        def looked(some: Sequence[str]) -> Block:
            worker = idle.get()
            try:
                block: Block | None = worker.ask(_looked, some)[0]
            except (EOFError, OSError):  # it was killed, for want of memory or by someone
                block = None
            idle.put(worker)
            return block or _looked(some)

        for _, block in map_ahead(threads, looked, itertools.chain([first], paths), LOOKED_AHEAD):
            yield block


def _looked(paths: Sequence[str]) -> Block:
    return Block.of([(path, signature_of(path)) for path in paths])


def _told_by_store(paths: Sequence[str]) -> Block:
    return Block.of([(path, _signature_there(path)) for path in paths])


def _signature_there(path: str) -> str:
    """See `signature_of`. A file that a store has just listed and tells nothing of is not gone: the store is."""
    found = signature_of(place_of(path))
    if found == MISSING:
        raise PipelineError(f"{path}: its store can't be asked any more; the index is left as it is. Try again later")
    return found


def _why_none(listing: Listing) -> str:
    """Why a folder gives no photos."""
    others = f" that can be read ({'; '.join(unread(listing.unsupported))})" if listing.unsupported else ""
    return f"holds no photos{others}"


def unread(unsupported: Mapping[str, Format]) -> list[str]:
    """Of each format that can't be read how many files there are, their extensions, one of them, and the way out."""
    lines = []
    for kind, count in Counter(unsupported.values()).items():
        paths = [path for path, of in unsupported.items() if of == kind]
        endings = ", ".join(sorted({Path(path).suffix.lower() or "no extension" for path in paths}))
        lines.append(f"{count:,} {kind.name} ({endings}), such as {paths[0]}: {obstacle(kind)}")
    return lines


def offline_of(gone: pa.Table, record: Record, away: Collection[str]) -> pa.Table:
    """Rows of photos that are not found which may come back, with the folder that is not there."""
    folders = pa.array(_folders_away(gone["image_id"].to_pylist(), record, away), pa.large_string())
    return gone.append_column("folder", folders).filter(pc.not_equal(folders, ""))


def _folders_away(gone: Iterable[str], record: Record, away: Collection[str]) -> Iterator[str]:
    """Of each photo that is not found the folder that is not there, if it may come back with it; otherwise "".

    A photo that has left a folder with other files was deleted or moved. Where the folder itself is missing, can't be
    listed or holds nothing at all, it may be a drive that is not plugged in, or lie on one.

    Args:
        gone: paths of indexed photos.
        record: of the index; what it excludes is not offline.
        away: folders of the record that hold no photo, or are not there.
    """
    empty = functools.cache(_is_empty)
    for path in gone:
        root = next((root for root in record.roots if is_below(path, root)), None)
        if root is None or is_excluded(Path(path).relative_to(root).as_posix(), record.exclude):
            yield ""
        elif root in away:
            yield root
        else:
            folder = path.rpartition("/")[0] or "/"
            yield folder if empty(folder) else ""


def _is_empty(folder: str) -> bool:
    """Whether a folder is missing, can't be listed, or holds nothing."""
    try:
        if is_address(folder):
            return not names_in(place_of(folder))
        with os.scandir(folder) as listing:
            return next(listing, None) is None
    except OSError:
        return True
