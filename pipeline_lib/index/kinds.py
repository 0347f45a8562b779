"""Kinds of FAISS index: a line of `KINDS` each, or any string that `faiss.index_factory` takes.

All take aligned, L2-normalised vectors and rank by inner product, which for these is the cosine similarity. Where an
index is not exact, vectors are first reduced to their principal components: those of the second moments, not of the
covariance, since an uncentred projection keeps inner products best (Eckart and Young 1936).

`auto` follows metrics/scale.csv: exact search is fast enough for some ten thousand photos. Beyond, a vector in an
inverted list takes a byte a number, and for more than memory should hold, half of that: RaBitQ (Gao and Long 2024)
codes what is left of a vector beside the centre of its list, in numbers that a random rotation has made alike, and
looks at the later bits of near ones alone. HNSW is faster than IVF, takes four times the memory and finds fewer.

This module imports faiss, so a process that holds torch must not import it.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
from faiss.contrib.ondisk import merge_ondisk
from numpy.typing import NDArray

from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.errors import PipelineError

EXACT_UP_TO: Final = 20_000
"""Photos up to which `auto` is exact: 20,000 vectors of 4,096 numbers take 330 MB."""
IVF_UP_TO: Final = 30_000_000
"""Photos up to which `auto` keeps a byte a number; beyond, `CODE_BITS` bits."""
IN_MEMORY_UP_TO: Final = 3_000_000
"""Photos up to which inverted lists are kept in memory; beyond, in a file that is mapped."""
CAN_MAP: Final = hasattr(faiss, "OnDiskInvertedLists")
"""Whether inverted lists can stay in a file; not on Windows, where FAISS maps none."""
BLOCK: Final = 1_000_000
"""Photos that are put into lists in memory at a time, and merged in the file."""

SAMPLE: Final = 20_000
"""Vectors that principal components are fitted on, at most."""
SAMPLE_NUMBERS: Final = 1 << 27
"""Numbers of all vectors that anything is fitted on, at most: 0.5 GB."""
TRAINING_PER_LIST: Final = 40
"""Vectors for each inverted list that its centre is fitted on; FAISS warns below 39."""
NEIGHBOURS: Final = 32
"""HNSW: links of a vector."""
CODE_BITS: Final = 4
"""RaBitQ: bits of a number."""
COMPARED: Final = 160_000
"""Vectors in the lists that a query looks through: they take 7 ms on two threads, however large the gallery is."""
EF_SEARCH: Final = 128
EF_CONSTRUCTION: Final = 80
ITERATIONS: Final = 10
"""k-means iterations for the lists' centres; more change little."""
SEED: Final = 1234
POWERS: Final = 6
MORE_DIRECTIONS: Final = 10
"""Iterations for principal components, and how many directions are followed beside those that are kept."""


def _ivf(count: int, _width: int) -> str:
    return f"IVF{lists_for(count)},SQ8"


def _rabitq(count: int, _width: int) -> str:
    return f"IVF{lists_for(count)},RaBitQ{CODE_BITS}"


KINDS: Final[dict[str, Callable[[int, int], str]]] = {
    "exact": lambda _count, _width: "Flat",
    "ivf": _ivf,
    "hnsw": lambda _count, _width: f"HNSW{NEIGHBOURS},Flat",
    "rabitq": _rabitq,
}
"""`index.kind`: the FAISS factory string for a number of vectors and of numbers in each."""
ROTATED: Final = "RaBitQ"
"""In the factory string of kinds that need numbers of equal weight."""


def choose_kind(count: int) -> str:
    """The kind that `auto` takes for a gallery of `count` photos."""
    if count <= EXACT_UP_TO:
        return "exact"
    return "ivf" if count <= IVF_UP_TO else "rabitq"


def lists_for(count: int) -> int:
    """Inverted lists for `count` vectors: four times the square root, but no more than FAISS has vectors to fit."""
    return max(1, min(round(4 * math.sqrt(count)), count // TRAINING_PER_LIST))


def probes_for(count: int, lists: int) -> int:
    """How many of its lists a query of `count` vectors looks through."""
    return min(lists, math.ceil(COMPARED * lists / max(1, count)))


def principal_components(sample: Vectors, dimension: int) -> NDArray[np.float32]:
    """The directions that keep most of the vectors' length, by randomised subspace iteration (Halko et al. 2011).

    It never holds a matrix of D times D numbers, which for 40,000 numbers takes 7 GB.

    Args:
        sample: float32[N, D].
        dimension: how many, at most D.

    Returns:
        float32[dimension, D], orthonormal rows, the strongest first.
    """
    width = min(sample.shape[1], dimension + max(MORE_DIRECTIONS, dimension // 8))
    found = np.random.default_rng(SEED).standard_normal((sample.shape[1], width), np.float32)
    for _ in range(POWERS):
        found, _ = np.linalg.qr(sample.T @ (sample @ found))
    inside = (sample @ found).astype(np.float64)
    _, turns = np.linalg.eigh(inside.T @ inside)
    return np.ascontiguousarray((found @ turns[:, ::-1][:, :dimension]).T, np.float32)


def rotation(width: int) -> NDArray[np.float32]:
    """A random rotation, float32[width, width], always the same."""
    turned, _ = np.linalg.qr(np.random.default_rng(SEED).standard_normal((width, width)))
    return turned.astype(np.float32)


def build_index(
    batches: Callable[[], Iterable[Vectors]],
    count: int,
    dimension: int,
    kind: str,
    reduced: int,
    lists: Path | None = None,
) -> faiss.Index:
    """Builds an index, a batch at a time.

    Args:
        batches: gives the vectors in order, float32[<=rows, dimension] each, aligned; called up to twice.
        count: how many there are.
        dimension: numbers a vector.
        kind: of `KINDS`, "auto", or a FAISS factory string.
        reduced: principal components that are kept where the index is not exact and the string does not transform
            vectors itself; 0 keeps all numbers.
        lists: a file for inverted lists that memory should not hold; without it, memory holds them.

    Returns:
        An index by inner product. Without vectors it is exact, since other kinds have nothing to be trained on.

    Raises:
        PipelineError: FAISS does not know the kind, or it can't be built from these vectors; names `index.kind`.
    """
    try:
        index: faiss.Index = _trained(batches, count, dimension, kind, reduced)
        if lists is not None and count > IN_MEMORY_UP_TO and CAN_MAP and faiss.try_extract_index_ivf(index):
            _fill_file(index, batches(), lists)
        else:
            for batch in batches():
                index.add(np.ascontiguousarray(batch, np.float32))
    except (RuntimeError, MemoryError) as failure:
        memory = isinstance(failure, MemoryError)
        why = "not enough memory" if memory else str(failure).rpartition(": ")[2]
        raise PipelineError(
            f"index.kind: {kind} can't be built from {count} vectors of {dimension} numbers ({why}); set it to "
            f"{'rabitq' if memory else 'auto, ' + ', '.join(KINDS) + ' or another FAISS factory string'}"
        ) from failure
    return index


def _trained(
    batches: Callable[[], Iterable[Vectors]], count: int, dimension: int, kind: str, reduced: int
) -> Any:  # as `_empty`
    """An index without vectors, behind what reduces and rotates them."""
    width = min(reduced or dimension, dimension)
    index: Any = _empty(kind, count, width)
    if isinstance(index, faiss.IndexFlat | faiss.IndexPreTransform) and width < dimension:
        index, width = _empty(kind, count, dimension), dimension
    rotated = ROTATED in type(inner_of(index)).__name__ and not isinstance(index, faiss.IndexPreTransform)
    if width == dimension and not rotated and index.is_trained:
        return index
    lists = max(lists_for(count), getattr(faiss.try_extract_index_ivf(index), "nlist", 0))
    most = max(lists, SAMPLE_NUMBERS // dimension)
    sample = _sample(batches(), count, min(max(SAMPLE, TRAINING_PER_LIST * lists), most))
    change = None
    if width < dimension:
        change = principal_components(sample[:: math.ceil(len(sample) / SAMPLE)], width)
    if rotated:
        change = rotation(width) if change is None else rotation(width) @ change
    index.train(sample if change is None else sample @ change.T)
    if change is None:
        return index
    transform = faiss.LinearTransform(dimension, width, False)  # noqa: FBT003  FAISS takes no names
    faiss.copy_array_to_vector(change.ravel(), transform.A)
    transform.is_trained = True
    return faiss.IndexPreTransform(transform, index)


def _fill_file(index: Any, batches: Iterable[Vectors], lists: Path) -> None:
    """Adds vectors to inverted lists in a file: blocks are written beside it and merged, in bounded memory."""
    blocks: list[Path] = []
    inner, held, first = faiss.extract_index_ivf(index), 0, 0

    def write() -> None:
        blocks.append(lists.with_name(f"block-{len(blocks)}"))
        faiss.write_index(index, str(blocks[-1]))
        index.ntotal = 0
        inner.reset()

    for batch in batches:
        ids = np.arange(first, first + len(batch), dtype=np.int64)
        index.add_with_ids(np.ascontiguousarray(batch, np.float32), ids)
        first, held = first + len(batch), held + len(batch)
        if held >= BLOCK:
            write()
            held = 0
    if held:
        write()
    merge_ondisk(index, [str(block) for block in blocks], str(lists))
    for block in blocks:
        block.unlink()


def _empty(kind: str, count: int, width: int) -> Any:  # each kind has settings of its own
    """An index of a kind, untrained, with seeds and how much of it a query visits."""
    name = "exact" if not count else choose_kind(count) if kind == "auto" else kind
    factory = KINDS[name](count, width) if name in KINDS else name
    index: Any = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    inner = inner_of(index)
    if hasattr(inner, "hnsw"):
        inner.hnsw.efConstruction, inner.hnsw.efSearch = EF_CONSTRUCTION, EF_SEARCH
    if hasattr(inner, "nprobe"):
        inner.cp.seed, inner.cp.niter, inner.nprobe = SEED, ITERATIONS, probes_for(count, inner.nlist)
        # Fewer a list still find good centres; FAISS would only warn.
        inner.cp.min_points_per_centroid = 1
        if hasattr(inner, "pq"):
            inner.pq.cp.seed = SEED
    return index


def inner_of(index: faiss.Index) -> Any:
    """The inverted lists within an index, or what stands behind its transforms, or the index itself."""
    core: Any = faiss.try_extract_index_ivf(index)
    if core is None:
        core = index.index if isinstance(index, faiss.IndexPreTransform) else index
    return faiss.downcast_index(core)


def _sample(batches: Iterable[Vectors], count: int, size: int) -> Vectors:
    """About `size` of `count` vectors, spread evenly at random."""
    random = np.random.default_rng(SEED)
    share = min(1.0, size / count)
    return np.concatenate([batch if share == 1.0 else batch[random.random(len(batch)) < share] for batch in batches])


NAMES: Final = {
    "IndexFlat": "exact", "IndexFlatIP": "exact", "IndexIVFFlat": "IVF", "IndexIVFPQ": "product quantisation",
    "IndexIVFScalarQuantizer": "IVF", "IndexIVFRaBitQ": "IVF, RaBitQ", "IndexHNSWFlat": "HNSW",
}  # fmt: skip


def settings_of(index: faiss.Index) -> str:
    """What distinguishes the index, in words: "IVF, 512 bytes, 64 of 1265 lists, 512 numbers"."""
    inner = inner_of(index)
    name = type(inner).__name__
    words = [NAMES.get(name, name.removeprefix("Index"))]
    if hasattr(inner, "hnsw"):
        words += [f"{inner.hnsw.nb_neighbors(1)} links", f"{inner.hnsw.efSearch} visited"]
    if hasattr(inner, "nprobe"):
        words.append(f"{inner.code_size} bytes")
        words.append(f"{inner.nprobe} of {inner.nlist} lists")
    return ", ".join([*words, f"{inner.d} numbers" + (f" of {index.d}" if inner.d != index.d else "")])
