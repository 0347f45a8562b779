"""Which FAISS index a gallery of one's own photos is kept in, by its size: exact, IVF, HNSW or product quantisation.

All take aligned, L2-normalised vectors and rank by inner product, which for these is the cosine similarity. Except for
`exact`, vectors are first reduced to their principal components. The components are those of the second moments, not of
the covariance: an uncentred projection is what keeps inner products best (Eckart and Young 1936).

The choice by size follows metrics/index_kinds.csv: exact search is fast enough for some ten thousand photos. Beyond,
HNSW finds a little more than IVF and finds it faster, but both take few milliseconds beside the encoder's ten, and an
index is built anew at every update of its photos, where IVF takes a seventh of the time. Product quantisation finds
hardly more than half of the exact neighbours, and is for galleries whose vectors do not fit in memory.

This module imports faiss, so a process that holds torch must not import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from pipeline_lib.retrieval.vectors import Vectors

IndexKind = Literal["exact", "ivf", "hnsw", "pq"]
INDEX_KINDS: Final[tuple[IndexKind, ...]] = ("exact", "ivf", "hnsw", "pq")

EXACT_UP_TO: Final = 20_000
"""Photos up to which every one is compared with all its numbers: 20,000 of 4,096 take 330 MB."""
IVF_UP_TO: Final = 2_000_000
"""Photos up to which whole vectors are kept, in inverted lists; beyond, codes of `CODE_BYTES` bytes."""

SAMPLE: Final = 20_000
"""Vectors that principal components are fitted on."""
TRAINING_PER_LIST: Final = 40
"""Vectors for each inverted list that its centre is fitted on; FAISS warns below 39."""
NEIGHBOURS: Final = 32
"""HNSW: links of a vector."""
CODE_BYTES: Final = 128
SMALLEST_CODED: Final = 4
"""Fewer vectors than this can't make a code book, and are kept whole."""
PROBED: Final = 64
"""Inverted lists that a query looks through."""
EF_SEARCH: Final = 128
EF_CONSTRUCTION: Final = 80
ROUNDS: Final = 10
"""Of k-means, for the lists' centres; more hardly move them."""
SEED: Final = 1234


def choose_kind(count: int) -> IndexKind:
    """The kind for a gallery of `count` photos."""
    if count <= EXACT_UP_TO:
        return "exact"
    return "ivf" if count <= IVF_UP_TO else "pq"


def lists_for(count: int) -> int:
    """Inverted lists for `count` vectors: four times the square root, but no more than FAISS has vectors to fit."""
    return max(1, min(round(4 * math.sqrt(count)), count // TRAINING_PER_LIST))


def principal_components(sample: Vectors, dimension: int) -> NDArray[np.float32]:
    """The directions that keep most of the vectors' length.

    Args:
        sample: float32[N, D].
        dimension: how many, at most D.

    Returns:
        float32[dimension, D], orthonormal rows, the strongest first.
    """
    width = sample.shape[1]
    moments = sample.T @ sample
    _, directions = eigh(moments, subset_by_index=(width - dimension, width - 1))
    return np.ascontiguousarray(directions[:, ::-1].T, np.float32)


def build_index(
    batches: Callable[[], Iterable[Vectors]], count: int, dimension: int, kind: IndexKind, reduced: int
) -> faiss.Index:
    """Builds an index, a batch at a time.

    Args:
        batches: gives the vectors in order, float32[<=rows, dimension] each, aligned; called up to twice.
        count: how many there are, at least 1.
        dimension: numbers a vector.
        kind: of the index.
        reduced: principal components that are kept, for kinds other than `exact`; 0 keeps all numbers.

    Returns:
        An index by inner product; `search_settings` have been applied to it.
    """
    if kind == "exact":
        index: faiss.Index = faiss.IndexFlatIP(dimension)
    else:
        width = min(reduced or dimension, dimension)
        core = _core(kind, width, count)
        sample = _sample(batches(), count, max(SAMPLE, TRAINING_PER_LIST * lists_for(count)))
        if width < dimension:
            components = principal_components(sample[:SAMPLE], width)
            transform = faiss.LinearTransform(dimension, width, False)  # noqa: FBT003  FAISS takes no names
            faiss.copy_array_to_vector(components.ravel(), transform.A)
            transform.is_trained = True
            core.train(sample @ components.T)
            index = faiss.IndexPreTransform(transform, core)
        else:
            core.train(sample)
            index = core
    for batch in batches():
        index.add(np.ascontiguousarray(batch, np.float32))
    return index


def _core(kind: IndexKind, width: int, count: int) -> Any:  # each kind has settings of its own
    inner = faiss.METRIC_INNER_PRODUCT
    index: Any
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, NEIGHBOURS, inner)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.hnsw.efSearch = EF_SEARCH
        return index
    lists = lists_for(count)
    coarse: Any = faiss.IndexFlatIP(width)
    if kind == "pq" and count >= SMALLEST_CODED:
        parts = max(part for part in range(1, CODE_BYTES + 1) if width % part == 0)
        # A code book of 256 entries needs as many vectors; small galleries get smaller ones.
        bits = max(1, min(8, int(np.log2(max(2, count // 39)))))
        index = faiss.IndexIVFPQ(coarse, width, lists, parts, bits, inner)
        index.pq.cp.seed = SEED
    else:
        index = faiss.IndexIVFFlat(coarse, width, lists, inner)
    index.own_fields = True
    coarse.this.disown()
    index.cp.seed, index.cp.niter = SEED, ROUNDS
    index.nprobe = min(PROBED, lists)
    return index


def _sample(batches: Iterable[Vectors], count: int, size: int) -> Vectors:
    """About `size` of `count` vectors, spread evenly at random."""
    random = np.random.default_rng(SEED)
    share = min(1.0, size / count)
    parts = [batch if share == 1.0 else batch[random.random(len(batch)) < share] for batch in batches]
    sample = np.concatenate(parts)
    # Shuffled, since the principal components are fitted on its first rows.
    return random.permutation(sample)


def settings_of(index: faiss.Index) -> str:
    """What distinguishes the index, in words: "IVF, 1265 lists, 64 looked through, 512 numbers"."""
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    width = f"{inner.d} numbers" + (f" of {index.d}" if inner.d != index.d else "")
    if isinstance(inner, faiss.IndexHNSWFlat):
        return f"HNSW, {NEIGHBOURS} links, {inner.hnsw.efSearch} visited, {width}"
    if isinstance(inner, faiss.IndexIVFPQ):
        return f"product quantisation, {inner.pq.code_size} bytes, {inner.nprobe} of {inner.nlist} lists, {width}"
    if isinstance(inner, faiss.IndexIVFFlat):
        return f"IVF, {inner.nprobe} of {inner.nlist} lists, {width}"
    return f"exact, {width}"
