"""Orders a gallery by score, ties by image_id, so that every figure is reproducible to the last digit."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline_lib.embedding.vectors import Strings

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]

# Scores held at a time: 4 Mi of them are 16 MB as float32 and 32 MB as sort keys.
BLOCK_SCORES = 1 << 22


@dataclass(frozen=True)
class Ranked:
    """Gallery rows of a block of B queries, best first."""

    rows: Rows  # int64[B, K], gallery rows; K is the size of the gallery for a full ranking
    scores: Scores  # float32[B, K], falling, except in diversified lists (`diversity`)


@dataclass(frozen=True)
class TieBreak:
    """The gallery's image_ids in order (by code point), to break ties with."""

    by_id: Rows  # int64[N], gallery rows sorted by image_id
    place: Rows  # int64[N], place of each gallery row in that order

    @classmethod
    def of(cls, image_ids: Strings | pa.Array) -> Self:
        """From the gallery's image_ids, str[N], unique."""
        # Arrow compares UTF-8, whose order is that of the code points.
        by_id = pc.sort_indices(pa.array(image_ids)).to_numpy().astype(np.int64)
        place = np.empty_like(by_id)
        place[by_id] = np.arange(len(by_id))
        return cls(by_id, place)


def rank(scores: Scores, ties: TieBreak, rows: Rows | None = None) -> Ranked:
    """Sorts each row of a block of scores, highest first, equal scores by image_id.

    Args:
        scores: float32[B, K], higher is better; infinities are allowed, NaN is not.
        ties: of the whole gallery.
        rows: int64[B, K], which gallery row each score belongs to; None where column j is gallery row j.

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("scores must not be NaN")
    place = ties.place if rows is None else ties.place[rows]
    # One 64-bit key per score, falling score above rising place, sorts several times faster than two keys.
    keys = np.sort((~_as_integers(scores)).astype(np.int64) << 32 | place, axis=1)
    return Ranked(ties.by_id[keys & 0xFFFFFFFF], _as_floats(~(keys >> 32).astype(np.int32)))


def _as_integers(scores: Scores) -> NDArray[np.int32]:
    # IEEE floats order like sign-magnitude integers; adding 0 makes -0 and 0 equal.
    bits = (scores + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _as_floats(integers: NDArray[np.int32]) -> Scores:
    return (integers ^ ((integers >> 31) & 0x7FFFFFFF)).view(np.float32)


def block_rows(gallery: int) -> int:
    """How many queries to rank at a time against `gallery` photos so that memory stays bounded."""
    return max(1, BLOCK_SCORES // max(1, gallery))


def rank_scores(scores: NDArray[np.floating], image_ids: Strings) -> Iterator[Ranked]:
    """Full rankings from a score matrix, for systems that give scores and no embeddings.

    Args:
        scores: [M, N], higher is better; may be a memory map. Compared as float32.
        image_ids: str[N] of the gallery, in the order of the columns.

    Raises:
        ValueError: the number of columns differs from the gallery's size, or a score is NaN.
    """
    if scores.ndim != 2 or scores.shape[1] != len(image_ids):
        raise ValueError(f"scores {scores.shape} do not fit a gallery of {len(image_ids)}")
    ties = TieBreak.of(image_ids)
    step = block_rows(len(image_ids))
    for start in range(0, len(scores), step):
        yield rank(np.ascontiguousarray(scores[start : start + step], np.float32), ties)
