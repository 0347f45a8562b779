"""What a ranking is worth, query by query: hit@k under three protocols, reciprocal rank, average precision.

Protocols:

- *instance*: the one photo that was sketched, in the whole gallery.
- *in_class*: the same photo, with the gallery restricted to the sketch's class.
- *class*: any photo of the sketch's class, in the whole gallery.

A query counts where it carries the label that the protocol asks for. If it does and the gallery holds no right answer
(the partner is not there, is of another class, or no photo has the class), it is a miss: 0. If it does not (no
instance_id, no class_name), the value is undefined: NaN, and the query is left out of that mean.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from pipeline_lib.embedding.vectors import Labels
from pipeline_lib.index.ranking import Ranked, Rows

Values = NDArray[np.float64]

KS = (1, 5, 10)
PROTOCOLS = ("instance", "in_class", "class")
COLUMNS = (*(f"{protocol}_hit_at_{k}" for protocol in PROTOCOLS for k in KS), "instance_mrr", "map")

_UNLABELLED = -1
_ABSENT = -2


@dataclass(frozen=True)
class Truth:
    """What the right answers are, as gallery rows and class numbers."""

    # int64[M], gallery row of the photo a query depicts; -1 where none is named, -2 where the gallery lacks it.
    target: Rows
    query_class: Rows  # int64[M], number of the class; -1 where none is named, -2 where no photo of the gallery has it
    gallery_class: Rows  # int64[N], number of the class; -1 where none is named

    @classmethod
    def of(cls, queries: Labels, gallery: Labels) -> Self:
        """From the labels of both sides: a query's instance_id is the image_id of its photo."""
        rows = {image_id: row for row, image_id in enumerate(gallery.image_ids.tolist())}
        numbers = {name: number for number, name in enumerate(np.unique(gallery.class_names).tolist())}
        rows[""] = numbers[""] = _UNLABELLED
        return cls(
            np.array([rows.get(name, _ABSENT) for name in queries.instance_ids.tolist()], np.int64),
            np.array([numbers.get(name, _ABSENT) for name in queries.class_names.tolist()], np.int64),
            np.array([numbers[name] for name in gallery.class_names.tolist()], np.int64),
        )

    def __len__(self) -> int:
        return len(self.target)

    @property
    def relevant(self) -> Rows:
        """int64[M], how many photos of the gallery are of the query's class."""
        sizes = np.bincount(self.gallery_class[self.gallery_class >= 0], minlength=1)
        return np.where(self.query_class >= 0, sizes[np.maximum(self.query_class, 0)], 0)

    @property
    def target_in_class(self) -> NDArray[np.bool_]:
        """bool[M], whether the photo that was meant is in the gallery and of the query's class."""
        found: NDArray[np.bool_] = (self.target >= 0) & (self.query_class >= 0)
        if not len(self.gallery_class):
            return found
        found &= self.gallery_class[np.maximum(self.target, 0)] == self.query_class
        return found

    def undefined(self) -> NDArray[np.bool_]:
        """bool[M, len(COLUMNS)], true where a query lacks the label that a column needs."""
        instance, named = self.target == _UNLABELLED, self.query_class == _UNLABELLED
        by_protocol = {"instance": instance, "in_class": instance | named, "class": named, "map": named}
        return np.stack([by_protocol[_protocol(column)] for column in COLUMNS], axis=1)


def _protocol(column: str) -> str:
    return column.partition("_hit_at_")[0].removesuffix("_mrr")


@dataclass(frozen=True)
class Ranks:
    """Where the right answers stand for M queries."""

    instance: Values  # float64[M], place of the photo that was meant, from 1; infinity where it is not in the gallery
    in_class: Values  # float64[M], its place among the photos of the query's class
    first_of_class: Values  # float64[M], place of the first photo of the query's class
    average_precision: Values  # float64[M] in 0..1, over all photos of the query's class (0 where there is none)

    def values(self, truth: Truth) -> Values:
        """float64[M, len(COLUMNS)] in 0..1, NaN where undefined."""
        ranks = {"instance": self.instance, "in_class": self.in_class, "class": self.first_of_class}
        hits = [(ranks[protocol] <= k).astype(np.float64) for protocol in PROTOCOLS for k in KS]
        values = np.stack([*hits, 1 / self.instance, self.average_precision], axis=1)
        values[truth.undefined()] = np.nan
        return values


def find_ranks(blocks: Iterable[Ranked], truth: Truth) -> Ranks:
    """Reads the places of the right answers off full rankings.

    Args:
        blocks: full rankings of all queries, in order.
        truth: of the same queries and gallery.

    Raises:
        ValueError: the blocks hold more or fewer queries than `truth`, or do not rank the whole gallery.
    """
    parts: list[Values] = []
    start = 0
    for block in blocks:
        stop = start + len(block.rows)
        if block.rows.shape[1] != len(truth.gallery_class):
            raise ValueError(f"rankings of {block.rows.shape[1]} photos, but a gallery of {len(truth.gallery_class)}")
        parts.append(_block_ranks(block.rows, truth.target[start:stop], truth.query_class[start:stop], truth))
        start = stop
    if start != len(truth):
        raise ValueError(f"rankings for {start} queries, but {len(truth)} queries")
    return Ranks(*(np.concatenate(parts, axis=1) if parts else np.empty((4, 0))))


def _block_ranks(rows: Rows, target: Rows, query_class: Rows, truth: Truth) -> Values:
    size, gallery = rows.shape
    if not gallery:
        return np.repeat([[np.inf], [np.inf], [np.inf], [0.0]], size, axis=1)
    found = rows == target[:, None]
    place = np.where(found.any(axis=1), np.argmax(found, axis=1), gallery)

    # The photos of the right class, query after query and best first: their places tell all of the rest.
    query, column = np.nonzero(truth.gallery_class[rows] == np.where(query_class >= 0, query_class, _ABSENT)[:, None])
    count = np.bincount(query, minlength=size)
    first = np.cumsum(count) - count
    nth = np.arange(len(query)) - first[query] + 1
    precision = np.bincount(query, weights=nth / (column + 1), minlength=size)

    leading = np.full(size, np.inf)
    leading[query[nth == 1]] = column[nth == 1] + 1
    in_class = np.full(size, np.inf)
    is_target = column == place[query]
    in_class[query[is_target]] = nth[is_target]
    return np.stack(
        [np.where(place < gallery, place + 1.0, np.inf), in_class, leading, precision / np.maximum(count, 1)]
    )


def expected_by_chance(truth: Truth) -> Values:
    """What a random order of the gallery gives each query on average, exactly.

    With N photos, n of them of the query's class: instance min(k, N)/N; in_class min(k, n)/n; class
    1 - C(N-n, k)/C(N, k); reciprocal rank H(N)/N with H the harmonic numbers; average precision
    (H(N) + (n-1)/(N-1) (N - H(N)))/N, the mean of nth/place over places, as a photo at place i that is relevant has
    (i-1)(n-1)/(N-1) relevant ones before it.

    Returns:
        float64[M, len(COLUMNS)] in 0..1, NaN where undefined, 0 where the gallery holds no right answer.
    """
    total, n = len(truth.gallery_class), truth.relevant
    harmonic = float(np.sum(1 / np.arange(1, total + 1)))
    columns = [np.where(truth.target >= 0, min(k, total) / max(1, total), 0.0) for k in KS]
    columns += [np.where(truth.target_in_class, np.minimum(k, n) / np.maximum(n, 1), 0.0) for k in KS]
    columns += [_at_least_one(total, n, min(k, total)) for k in KS]
    columns.append(np.where(truth.target >= 0, harmonic / max(1, total), 0.0))
    precision = (harmonic + (n - 1) / max(1, total - 1) * (total - harmonic)) / max(1, total)
    columns.append(np.where(n > 0, precision, 0.0))
    values = np.stack(columns, axis=1)
    values[truth.undefined()] = np.nan
    return values


def _at_least_one(total: int, n: Rows, k: int) -> Values:
    rest = total - n
    possible = np.maximum(rest, k)
    none = np.exp(gammaln(possible + 1) - gammaln(possible - k + 1) - gammaln(total + 1) + gammaln(total - k + 1))
    return np.where(n == 0, 0.0, 1 - np.where(rest >= k, none, 0.0))
