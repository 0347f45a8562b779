"""Photos recognised by name or perceptual fingerprint: which leak into training, and which are duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BLOCK = 1 << 17  # pairs compared at a time: bounds the memory to 1 MB, however many images there are


def fingerprint(image: NDArray[np.uint8]) -> str:
    """The 64-bit perceptual hash of an image (ImageHash's `phash`), which scaling and re-encoding hardly change.

    The signs of the 8 x 8 lowest frequencies of the 32 x 32 grey image (of uint8[H, W, 3], RGB), relative to their
    median, as 16 hex digits.
    """
    return str(imagehash.phash(Image.fromarray(image)))


def near_pairs(a: NDArray[np.uint64], b: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """All pairs of fingerprints, uint64[N] and uint64[M], that differ in at most `bits` (0 to 64) bits.

    Returns:
        int64[K, 3], rows (index in a, index in b, distance) sorted by the indices.
    """
    found = [np.empty((0, 3), np.int64)]
    wide = max(1, min(len(b), BLOCK))
    tall = max(1, BLOCK // wide)
    for top in range(0, len(a), tall):
        rows = a[top : top + tall, None]
        for left in range(0, len(b), wide):
            distance = np.bitwise_count(rows ^ b[None, left : left + wide])
            i, j = np.nonzero(distance <= bits)
            if len(i):
                found.append(np.stack([i + top, j + left, distance[i, j]], axis=1).astype(np.int64))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


@dataclass(frozen=True)
class Photos:
    """What photos are recognised by; both of one length."""

    names: Sequence[str]  # the original images' names, "" where unknown
    fingerprints: Sequence[str]  # 16 hex digits each, "" where the photo can't be read


@dataclass(frozen=True)
class Leak:
    """A training photo that is also a reserved photo."""

    index: int  # of the training photo
    reason: str  # "name" or "fingerprint"
    match: int  # index of the reserved photo


def find_leaks(training: Photos, apart: Photos, bits: int, groups: NDArray[np.int64]) -> list[Leak]:
    """Training photos that are also among the reserved ones, by name or by fingerprint.

    Duplicates of a leaked photo leak with it, even where they differ too much from the reserved one.

    Args:
        training: the photos to train on.
        apart: the reserved photos: the gallery and the photos of other benchmarks.
        bits: fingerprints that differ in at most this many of 64 bits belong to the same photo.
        groups: int64[N], `repeat_groups` of the training photos.

    Returns:
        At most one leak per training photo, sorted by index: by name, else by the nearest fingerprint.
    """
    by_name = {name: n for n, name in reversed(list(enumerate(apart.names))) if name}
    leaks = {n: Leak(n, "name", by_name[name]) for n, name in enumerate(training.names) if name in by_name}
    rows, ours = _readable(training)
    columns, theirs = _readable(apart)
    pairs = near_pairs(ours, theirs, bits)
    for row, column, _ in pairs[np.argsort(pairs[:, 2], kind="stable")].tolist():
        index = int(rows[row])
        leaks.setdefault(index, Leak(index, "fingerprint", int(columns[column])))
    tainted = {int(groups[index]): leaks[index].match for index in sorted(leaks, reverse=True)}
    for index, group in enumerate(groups.tolist()):
        if group in tainted:
            leaks.setdefault(index, Leak(index, "fingerprint", tainted[group]))
    return [leaks[index] for index in sorted(leaks)]


def repeat_groups(photos: Photos, bits: int, given: Sequence[str] | None = None) -> NDArray[np.int64]:
    """Groups of photos that duplicate one another, directly or through others.

    Args:
        photos: any photos; those of equal names are duplicates.
        bits: fingerprints that differ in at most this many of 64 bits belong to the same photo.
        given: groups that are already known, "" for none; their photos stay together.

    Returns:
        int64[N]: the index of the first photo of each photo's group.
    """
    count = len(photos.names)
    rows, prints = _readable(photos)
    # Join equal fingerprints first, so that a thousand blank images do not make half a million pairs.
    distinct, which = np.unique(prints, return_inverse=True)
    first = np.full(len(distinct), count, np.int64)
    np.minimum.at(first, which, rows)
    near = near_pairs(distinct, distinct, bits)[:, :2]
    links = [np.stack([rows, first[which]], axis=1), first[near], _equal(photos.names), _equal(given or ())]
    ends = np.concatenate(links)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, leader = np.unique(label, return_index=True)
    return np.asarray(leader[label], np.int64)


def _equal(keys: Sequence[str]) -> NDArray[np.int64]:
    """int64[K, 2]: every index with a key, and the first index with the same key."""
    first: dict[str, int] = {}
    return np.array([(n, first.setdefault(key, n)) for n, key in enumerate(keys) if key], np.int64).reshape(-1, 2)


def _readable(photos: Photos) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Indices (int64[K]) and fingerprints (uint64[K]) of the photos that have one."""
    rows = [n for n, text in enumerate(photos.fingerprints) if text]
    return np.array(rows, np.int64), np.array([int(photos.fingerprints[n], 16) for n in rows], np.uint64)
