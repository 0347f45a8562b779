"""Photos that show the same: copies of one file, and bursts. Results show the best of each stack, the rest behind it.

A photo's mark says where its brightness rises or falls from one cell of a coarse grid to the next (compare the
difference hash, Krawetz 2013). Unlike that hash it tells flat from falling, so that things on a plain background are
compared by themselves and not by the background they share. How much two marks differ is the part of their rises and
falls that one alone has (Jaccard distance, 0..1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

CELLS: Final = 12
"""A side of the grid."""
STEP: Final = 4
"""Levels of 255 that make a rise or a fall."""
MARK_BYTES: Final = 4 * CELLS * (CELLS - 1) // 8
FEWEST: Final = 24
"""Rises and falls that two photos must have together; with fewer both are nearly of one colour, which tells nothing."""
# Of 5,345 photos of objects, scenes and animals (14 million pairs): copies at half the size, at JPEG quality 60 or
# 15 % brighter differ by at most 0.16 (99 of 100), copies cut by 4 % by 0.30; of different photos nine pairs differ by
# less than 0.25, the same pictures twice over, and one pair in a million by less than 0.33.
COPY: Final = 0.25
"""Photos that differ by at most this are copies of one, whenever they were taken."""
# Photos moved by 4 % of their width, turned by 1.5 degrees and enlarged by 3 % differ by 0.45, 95 of 100 by at most
# 0.55; so do 3 in 100,000 pairs of different photos, hardly ever two that were taken within seconds.
BURST: Final = 0.55
"""Photos taken within `SECONDS` that differ by at most this are a burst."""
SECONDS: Final = 10
DAY: Final = 24 * 60 * 60
"""Seconds."""


def mark_of(image: NDArray[np.uint8]) -> bytes:
    """The mark of uint8[H, W, 3] RGB: `MARK_BYTES` bytes, a bit for each rise and each fall, across and down."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.int16)
    steps = np.concatenate([np.diff(cells, axis=1).ravel(), np.diff(cells, axis=0).ravel()])
    return np.packbits(np.concatenate([steps > STEP, steps < -STEP])).tobytes()


@dataclass(frozen=True)
class Marks:
    """The marks of a gallery's photos, row by row, and when each was taken."""

    bits: NDArray[np.uint8]  # uint8[N, MARK_BYTES]
    taken: NDArray[np.int64]  # int64[N], seconds by the camera's clock; 0 where that is not known

    def alike(self, row: int, others: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether each of the rows `others`, int[K], shows the same as `row`: bool[K]."""
        both = np.bitwise_count(self.bits[others] & self.bits[row]).sum(axis=1, dtype=np.int64)
        either = np.bitwise_count(self.bits[others] | self.bits[row]).sum(axis=1, dtype=np.int64)
        differing = 1 - both / np.maximum(either, 1)
        apart = np.abs(self.taken[others] - self.taken[row])
        near = (self.taken[others] > 0) & (self.taken[row] > 0) & (apart <= SECONDS)
        found: NDArray[np.bool_] = (either >= FEWEST) & (differing <= np.where(near, BURST, COPY))
        return found

    def between(self, first: date | None, last: date | None) -> NDArray[np.bool_]:
        """Which photos were taken from one day to another, both included: bool[N]; none is no limit."""
        start = np.datetime64(first or date.min, "s").astype(np.int64)
        end = np.datetime64(last or date.max, "s").astype(np.int64) + DAY
        found = (self.taken >= start) & (self.taken < end)
        unlimited = first is None and last is None
        return found if unlimited else found & (self.taken > 0)

    def stacked(self, rows: Sequence[int]) -> list[list[int]]:
        """Stacks of a list of results, best first: positions in `rows`, those of each stack led by its best.

        A photo lies behind the first better one that it is like, so that all of a stack are like the one on top.
        """
        left = np.arange(len(rows))
        numbers = np.asarray(rows, np.intp)
        stacks = []
        while len(left):
            same = self.alike(int(numbers[left[0]]), numbers[left])
            same[0] = True
            stacks.append(left[same].tolist())
            left = left[~same]
        return stacks
