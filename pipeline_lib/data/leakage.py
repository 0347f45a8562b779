"""Which photos must stay out of training, and which must stay together when it is split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline_lib.data.fingerprint import as_bits, near_pairs


@dataclass(frozen=True)
class Photos:
    """What photos are recognised by; all of one length.

    Attributes:
        names: the original images' names, "" where unknown.
        fingerprints: 16 hex digits each, "" where the photo can't be read.
    """

    names: Sequence[str]
    fingerprints: Sequence[str]


@dataclass(frozen=True)
class Leak:
    """A training photo that is also a photo kept apart.

    Attributes:
        index: of the training photo.
        reason: "name" or "fingerprint".
        match: index of the photo kept apart.
        distance: differing bits of the fingerprints; -1 if it was recognised by its name or by what it repeats.
    """

    index: int
    reason: str
    match: int
    distance: int


def find_leaks(training: Photos, apart: Photos, bits: int, groups: NDArray[np.int64]) -> list[Leak]:
    """Training photos whose name or fingerprint occurs among the photos kept apart.

    What repeats such a photo leaks with it, however much the photo kept apart was altered.

    Args:
        training: the photos to train on.
        apart: the gallery and the photos of other benchmarks.
        bits: fingerprints that differ in at most this many of 64 bits are one photo's.
        groups: int64[N], `repeat_groups` of the training photos.

    Returns:
        At most one leak per training photo, by index: its name first, else the nearest fingerprint.
    """
    by_name = {name: n for n, name in reversed(list(enumerate(apart.names))) if name}
    leaks = {n: Leak(n, "name", by_name[name], -1) for n, name in enumerate(training.names) if name in by_name}
    rows, ours = _readable(training)
    columns, theirs = _readable(apart)
    pairs = near_pairs(ours, theirs, bits)
    for row, column, distance in pairs[np.argsort(pairs[:, 2], kind="stable")].tolist():
        index = int(rows[row])
        leaks.setdefault(index, Leak(index, "fingerprint", int(columns[column]), distance))
    tainted = {int(groups[index]): leaks[index].match for index in sorted(leaks, reverse=True)}
    for index, group in enumerate(groups.tolist()):
        if group in tainted:
            leaks.setdefault(index, Leak(index, "fingerprint", tainted[group], -1))
    return [leaks[index] for index in sorted(leaks)]


def repeat_groups(photos: Photos, bits: int, given: Sequence[str] | None = None) -> NDArray[np.int64]:
    """Groups of photos that repeat one another, directly or through others.

    Args:
        photos: any photos; equal names are one photo.
        bits: fingerprints that differ in at most this many of 64 bits are one photo's.
        given: groups that are known already, "" for none; photos of one stay together.

    Returns:
        int64[N]: the index of the first photo of each photo's group.
    """
    count = len(photos.names)
    rows, prints = _readable(photos)
    # Equal fingerprints are joined first, so that a thousand blank images are not half a million pairs.
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
    """int64[K, 2]: every index with a key, and the first index that has the same."""
    first: dict[str, int] = {}
    return np.array([(n, first.setdefault(key, n)) for n, key in enumerate(keys) if key], np.int64).reshape(-1, 2)


def _readable(photos: Photos) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Indices (int64[K]) and fingerprints (uint64[K]) of the photos that have one."""
    rows = [n for n, text in enumerate(photos.fingerprints) if text]
    return np.array(rows, np.int64), as_bits([photos.fingerprints[n] for n in rows])
