"""The files that an index of one's own photos is to hold, in Arrow's memory, and the shards that they make.

A shard holds the paths whose hash begins with its bits, and is cut in two when they are too many (extendible hashing,
Fagin et al. 1979). So the shards follow from the paths alone, and a new photo changes one, or makes two of it. A
million paths are columns of Arrow: Python's strings would take five times the memory, and a second for each look.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.embedding.vectors import batched

MOST_ROWS: Final = 2048
"""Photos of a shard, at most; a third less on average."""
HASH_BITS: Final = 32
BLOCK: Final = 1 << 13
"""Files that are Python's strings at a time."""
EARLIER: Final = "part-*.parquet"
"""Shards of earlier versions, which hold photos in the order in which they came."""
Mask = NDArray[np.bool_]
File = tuple[str, str]
"""A path, and what the system tells of its file (see `data.source.signature_of`)."""


def hashes_of(paths: Iterable[str]) -> NDArray[np.uint32]:
    """By which paths fall to shards: the first 32 bits of SHA-256."""
    digests = b"".join([hashlib.sha256(path.encode()).digest()[: HASH_BITS // 8] for path in paths])
    return np.frombuffer(digests, ">u4").astype(np.uint32)


def first_hash(bits: str) -> int:
    """The lowest hash that begins with some bits."""
    return int(bits.ljust(HASH_BITS, "0"), 2)


def shard_of(shards: Path, bits: str) -> Path:
    """The file of a shard in a folder of them."""
    return shards / f"shard{'-' * bool(bits)}{bits}.parquet"


def bits_of(shard: Path) -> str:
    """The bits with which the hashes of a shard's photos begin, by its file; those of an earlier version have none."""
    return "" if shard.match(EARLIER) else shard.stem.removeprefix("shard").removeprefix("-")


def shard_files(shards: Path) -> list[Path]:
    """The shards that there are."""
    return sorted([*shards.glob("shard*.parquet"), *shards.glob(EARLIER)])


class Shard(NamedTuple):
    """A shard, and the files that fall to it: rows `low` to `high` of `Files`."""

    bits: str
    low: int
    high: int


class Block(NamedTuple):
    """Some files, in any order."""

    paths: pa.LargeStringArray
    signatures: pa.LargeStringArray
    hashes: NDArray[np.uint32]

    @classmethod
    def of(cls, rows: Sequence[File]) -> "Block":
        """Of such files."""
        names = [path for path, _ in rows]
        return cls(_texts(names), _texts([signature for _, signature in rows]), hashes_of(names))


@dataclass(frozen=True)
class Files:
    """Files, and what the system tells of each; in the order of their hashes, so that those of a shard are together."""

    paths: pa.LargeStringArray  # [N], absolute
    signatures: pa.LargeStringArray  # [N]
    hashes: NDArray[np.uint32]  # [N], rising

    @classmethod
    def of(cls, rows: Iterable[File]) -> Self:
        """Of files in any order."""
        return cls.joined(map(Block.of, batched(rows, BLOCK)))

    @classmethod
    def joined(cls, blocks: Iterable[Block]) -> Self:
        """Of blocks in any order."""
        paths, signatures, hashes = map(list, zip(Block.of(()), *blocks, strict=True))
        return cls._sorted(paths, signatures, np.concatenate(hashes))

    @classmethod
    def _sorted(
        cls, paths: list[pa.LargeStringArray], signatures: list[pa.LargeStringArray], hashes: NDArray[np.uint32]
    ) -> Self:
        """Of parts, which are taken out of their lists: no column is there more than twice at a time."""
        order = np.argsort(hashes, kind="stable")
        return cls(_joined(paths, order), _joined(signatures, order), hashes[order])

    def __len__(self) -> int:
        return len(self.hashes)

    def shards(self) -> list[Shard]:
        """The shards that they make, those without any included, in the order of their bits."""
        found, waiting = [], [Shard("", 0, len(self))]
        while waiting:
            bits, low, high = shard = waiting.pop()
            if high - low <= MOST_ROWS or len(bits) == HASH_BITS:
                found.append(shard)
                continue
            middle = low + int(np.searchsorted(self.hashes[low:high], np.uint32(first_hash(bits + "1"))))
            waiting += [Shard(bits + "1", middle, high), Shard(bits + "0", low, middle)]
        return found

    def below(self, bits: str) -> tuple[int, int]:
        """The rows whose hashes begin with some bits: the first, and the one behind the last."""
        first, last = first_hash(bits), first_hash(bits) + (1 << (HASH_BITS - len(bits))) - 1
        low = np.searchsorted(self.hashes, np.uint32(first))
        return int(low), int(np.searchsorted(self.hashes, np.uint32(last), side="right"))

    def named(self, low: int, high: int, wanted: Mask | None = None) -> list[File]:
        """The files of rows `low` to `high`, or of those where `wanted`, bool[high - low], is true; sorted by path."""
        columns = [column.slice(low, high - low) for column in (self.paths, self.signatures)]
        if wanted is not None:
            columns = [column.filter(pa.array(wanted)) for column in columns]
        return sorted(zip(*(column.to_pylist() for column in columns), strict=True))

    def chosen(self, wanted: Mask) -> Self:
        """The files where `wanted`, bool[N], is true."""
        mask = pa.array(wanted)
        return type(self)(self.paths.filter(mask), self.signatures.filter(mask), self.hashes[wanted])

    def with_more(self, others: Iterable[File]) -> Self:
        """These and others, which are none of these."""
        more = self.of(others)
        hashes = np.concatenate([self.hashes, more.hashes])
        return self._sorted([self.paths, more.paths], [self.signatures, more.signatures], hashes)


def _texts(values: Sequence[str]) -> pa.LargeStringArray:
    return pa.array(values, pa.large_string())


def _joined(parts: list[pa.LargeStringArray], order: NDArray[np.intp]) -> pa.LargeStringArray:
    whole = pa.concat_arrays(parts)
    parts.clear()
    return whole.take(pa.array(order))
