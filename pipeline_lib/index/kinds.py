"""Kinds of FAISS index: a line of `KINDS` each, or any string that `faiss.index_factory` takes.

All take aligned, L2-normalised vectors and rank by inner product, which for these is the cosine similarity. Where an
index is not exact, vectors are first reduced to their principal components: those of the second moments, not of the
covariance, since an uncentred projection keeps inner products best (Eckart and Young 1936).

`auto` follows metrics/index_kinds.csv: exact search is fast enough for some ten thousand photos. Beyond, HNSW finds a
little more than IVF, and faster, but both take few milliseconds beside the encoder's ten, and an index is rebuilt at
every update of its photos, where IVF takes a seventh of the time. Product quantisation finds little more than half of
the exact neighbours; it is for galleries whose vectors do not fit in memory.

This module imports faiss, so a process that holds torch must not import it.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.errors import PipelineError

EXACT_UP_TO: Final = 20_000
"""Photos up to which `auto` is exact: 20,000 vectors of 4,096 numbers take 330 MB."""
IVF_UP_TO: Final = 2_000_000
"""Photos up to which `auto` keeps whole vectors, in inverted lists; beyond, codes of `CODE_BYTES` bytes."""

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
ITERATIONS: Final = 10
"""k-means iterations for the lists' centres; more change little."""
SEED: Final = 1234


def _ivf(count: int, _width: int) -> str:
    return f"IVF{lists_for(count)},Flat"


def _pq(count: int, width: int) -> str:
    if count < SMALLEST_CODED:
        return _ivf(count, width)
    parts = max(part for part in range(1, CODE_BYTES + 1) if width % part == 0)
    # A code book of 256 entries needs as many vectors; small galleries get smaller ones.
    bits = max(1, min(8, int(np.log2(max(2, count // 39)))))
    return f"IVF{lists_for(count)},PQ{parts}x{bits}"


KINDS: Final[dict[str, Callable[[int, int], str]]] = {
    "exact": lambda _count, _width: "Flat",
    "ivf": _ivf,
    "hnsw": lambda _count, _width: f"HNSW{NEIGHBOURS},Flat",
    "pq": _pq,
}
"""`index.kind`: the FAISS factory string for a number of vectors and of numbers in each."""


def choose_kind(count: int) -> str:
    """The kind that `auto` takes for a gallery of `count` photos."""
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
    try:
        from scipy.linalg import eigh  # noqa: PLC0415  several times as fast, but searching alone goes without it
    except ImportError:
        _, directions = np.linalg.eigh(moments)
    else:
        _, directions = eigh(moments, subset_by_index=(width - dimension, width - 1))
    return np.ascontiguousarray(directions[:, ::-1].T[:dimension], np.float32)


def build_index(
    batches: Callable[[], Iterable[Vectors]], count: int, dimension: int, kind: str, reduced: int
) -> faiss.Index:
    """Builds an index, a batch at a time.

    Args:
        batches: gives the vectors in order, float32[<=rows, dimension] each, aligned; called up to twice.
        count: how many there are.
        dimension: numbers a vector.
        kind: of `KINDS`, "auto", or a FAISS factory string.
        reduced: principal components that are kept where the index is not exact and the string does not transform
            vectors itself; 0 keeps all numbers.

    Returns:
        An index by inner product. Without vectors it is exact, since other kinds have nothing to be trained on.

    Raises:
        PipelineError: FAISS does not know the kind, or it can't be built from these vectors; names `index.kind`.
    """
    try:
        return _build(batches, count, dimension, kind, reduced)
    except (RuntimeError, MemoryError) as failure:
        memory = isinstance(failure, MemoryError)
        why = "not enough memory" if memory else str(failure).rpartition(": ")[2]
        raise PipelineError(
            f"index.kind: {kind} can't be built from {count} vectors of {dimension} numbers ({why}); set it to "
            f"{'pq' if memory else 'auto, ' + ', '.join(KINDS) + ' or another FAISS factory string'}"
        ) from failure


def _build(
    batches: Callable[[], Iterable[Vectors]], count: int, dimension: int, kind: str, reduced: int
) -> faiss.Index:
    width = min(reduced or dimension, dimension)
    index: Any = _empty(kind, count, width)
    if isinstance(index, faiss.IndexFlat | faiss.IndexPreTransform) and width < dimension:
        index, width = _empty(kind, count, dimension), dimension
    if width < dimension or not index.is_trained:
        lists = max(lists_for(count), getattr(faiss.try_extract_index_ivf(index), "nlist", 0))
        sample = _sample(batches(), count, max(SAMPLE, TRAINING_PER_LIST * lists))
        components = principal_components(sample[:SAMPLE], width) if width < dimension else None
        index.train(sample if components is None else sample @ components.T)
        if components is not None:
            transform = faiss.LinearTransform(dimension, width, False)  # noqa: FBT003  FAISS takes no names
            faiss.copy_array_to_vector(components.ravel(), transform.A)
            transform.is_trained = True
            index = faiss.IndexPreTransform(transform, index)
    for batch in batches():
        index.add(np.ascontiguousarray(batch, np.float32))
    built: faiss.Index = index
    return built


def _empty(kind: str, count: int, width: int) -> Any:  # each kind has settings of its own
    """An index of a kind, untrained, with seeds and how much of it a query visits."""
    name = "exact" if not count else choose_kind(count) if kind == "auto" else kind
    factory = KINDS[name](count, width) if name in KINDS else name
    index: Any = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    inner = _inner(index)
    if hasattr(inner, "hnsw"):
        inner.hnsw.efConstruction, inner.hnsw.efSearch = EF_CONSTRUCTION, EF_SEARCH
    if hasattr(inner, "nprobe"):
        inner.cp.seed, inner.cp.niter, inner.nprobe = SEED, ITERATIONS, min(PROBED, inner.nlist)
        if hasattr(inner, "pq"):
            inner.pq.cp.seed = SEED
    return index


def _inner(index: faiss.Index) -> Any:
    """The inverted lists within an index, or what stands behind its transforms, or the index itself."""
    core: Any = faiss.try_extract_index_ivf(index)
    if core is None:
        core = index.index if isinstance(index, faiss.IndexPreTransform) else index
    return faiss.downcast_index(core)


def _sample(batches: Iterable[Vectors], count: int, size: int) -> Vectors:
    """About `size` of `count` vectors, spread evenly at random."""
    random = np.random.default_rng(SEED)
    share = min(1.0, size / count)
    parts = [batch if share == 1.0 else batch[random.random(len(batch)) < share] for batch in batches]
    sample = np.concatenate(parts)
    # Shuffled, since the principal components are fitted on its first rows.
    return random.permutation(sample)


NAMES: Final = {
    "IndexFlat": "exact", "IndexFlatIP": "exact", "IndexIVFFlat": "IVF", "IndexIVFPQ": "product quantisation",
    "IndexHNSWFlat": "HNSW",
}  # fmt: skip


def settings_of(index: faiss.Index) -> str:
    """What distinguishes the index, in words: "IVF, 64 of 1265 lists, 512 numbers"."""
    inner = _inner(index)
    name = type(inner).__name__
    words = [NAMES.get(name, name.removeprefix("Index"))]
    if hasattr(inner, "hnsw"):
        words += [f"{inner.hnsw.nb_neighbors(1)} links", f"{inner.hnsw.efSearch} visited"]
    if hasattr(inner, "pq"):
        words.append(f"{inner.code_size} bytes")
    if hasattr(inner, "nprobe"):
        words.append(f"{inner.nprobe} of {inner.nlist} lists")
    return ", ".join([*words, f"{inner.d} numbers" + (f" of {index.d}" if inner.d != index.d else "")])
