"""Scores of sketches against photos from their vectors: cosine after an alignment, or a similarity of histograms."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline_lib.embedding.alignment import Alignment, of_kind
from pipeline_lib.embedding.vectors import EmbeddingTable, Vectors
from pipeline_lib.registry import ALIGNMENTS, TRANSDUCTIVE

Scores = NDArray[np.float32]
Values = NDArray[np.float64]
Rows = NDArray[np.intp]
Blocks = Iterator[Scores]

HISTOGRAM = ("intersection", "chi2", "hellinger")
FORMS = (*ALIGNMENTS, *HISTOGRAM)
QUERIES = 256


class Bins(NamedTuple):
    """Histograms of N photos, a row per bin: sparse float32[D, N]; and the sum of each, float64[N]."""

    rows: csr_array
    sums: Values


def bins_of(photos: Vectors) -> Bins:
    """Histograms of photos by bin, so that only the bins of a sketch are read.

    Args:
        photos: float32[N, D], not negative; most bins are empty.
    """
    return Bins(csr_array(csr_array(photos).T), photos.sum(axis=1, dtype=np.float64))


def intersection(query: Vectors, photos: Bins) -> Scores:
    """Histogram intersection (Swain and Ballard 1991): the sum of minima.

    Args:
        query: float32[D], not negative.
        photos: `bins_of` N photos.

    Returns:
        float32[N], higher is more alike.
    """
    # Bins that are empty in either add nothing.
    return _over_shared(query, photos, np.minimum).astype(np.float32)


def chi2(query: Vectors, photos: Bins) -> Scores:
    """The chi-square distance, negated: -sum (a - b)^2 / (a + b), where 0 / 0 counts 0. Arguments as `intersection`."""
    # (a - b)^2 / (a + b) = (a + b) - 4 a b / (a + b), whose last part is 0 wherever one of the two is.
    product = _over_shared(query, photos, lambda own, others: own * others / (own + others))
    return np.asarray(4 * product - query.sum(dtype=np.float64) - photos.sums, np.float32)


def _over_shared(query: Vectors, photos: Bins, term: Callable[[Vectors, Vectors], Vectors]) -> Values:
    """The sum of a term over the bins that query and photo share: float64[N]."""
    seen = np.flatnonzero(query)
    there = photos.rows[seen]
    own = np.repeat(query[seen], np.diff(there.indptr))
    return np.asarray(np.bincount(there.indices, term(own, there.data), minlength=len(photos.sums)), np.float64)


def score_blocks(photos: EmbeddingTable, sketches: EmbeddingTable, form: str, part: tuple[Rows, Rows]) -> Blocks:
    """Scores of a part of the queries against a part of the gallery, a block of queries at a time.

    Args:
        photos: the gallery.
        sketches: the queries.
        form: one of FORMS.
        part: rows of `photos` and rows of `sketches` that take part, int[N] and int[M], rising.

    Returns:
        Blocks of float32[<=256, N], in the order of the rows.

    Raises:
        ValueError: the form is unknown.
    """
    if form not in FORMS:
        raise ValueError(f"form {form} is unknown; known are {FORMS}")
    gallery, queries = (_Part.of(table, rows) for table, rows in zip((photos, sketches), part, strict=True))
    if form in HISTOGRAM:
        return _histogram(queries.vectors, gallery.vectors, form)
    if form in TRANSDUCTIVE:
        # On the photos and sketches that are measured here, not on the whole tables.
        alignment = Alignment(photos.dimension).fitted(ALIGNMENTS[form], gallery, queries)
    else:
        alignment = of_kind(form, photos, sketches)
    return _cosine(queries.vectors, gallery.vectors, alignment)


@dataclass(frozen=True)
class _Part(EmbeddingTable):
    """Some rows of an embedding table, in memory."""

    vectors: Vectors

    @classmethod
    def of(cls, table: EmbeddingTable, rows: Rows) -> Self:
        return cls(table.path, table.labels.take(rows), table.dimension, table.read()[rows])

    def batches(self, rows: int = 0) -> Iterator[Vectors]:  # noqa: ARG002  one batch is small enough
        yield self.vectors


def _cosine(queries: Vectors, gallery: Vectors, alignment: Alignment) -> Blocks:
    columns = alignment.apply(gallery, "photo").T
    for start in range(0, len(queries), QUERIES):
        yield alignment.apply(queries[start : start + QUERIES], "sketch") @ columns


def _histogram(queries: Vectors, gallery: Vectors, form: str) -> Blocks:
    if form == "hellinger":
        # The Bhattacharyya coefficient: the inner product of square roots.
        roots = np.sqrt(gallery).T
        for start in range(0, len(queries), QUERIES):
            yield np.sqrt(queries[start : start + QUERIES]) @ roots
        return
    compare = intersection if form == "intersection" else chi2
    bins = bins_of(gallery)
    for start in range(0, len(queries), QUERIES):
        yield np.stack([compare(query, bins) for query in queries[start : start + QUERIES]])
