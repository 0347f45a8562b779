"""Embedding tables to test with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline_lib.embedding.alignment import KINDS
from pipeline_lib.embedding.vectors import vector_table


def write_embeddings(
    path: Path,
    ids: Sequence[str],
    vectors: NDArray[np.floating],
    *,
    classes: Sequence[str] | None = None,
    instances: Sequence[str] | None = None,
    row_group: int = 3,
) -> Path:
    """Writes an embedding table as the embed stage does; by default without classes, every image its own instance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = vector_table(ids, classes or [""] * len(ids), instances or ids, np.asarray(vectors, np.float32))
    pq.write_table(table, path, row_group_size=row_group)
    return path


def write_system(
    folder: Path,
    name: str,
    *,
    photos: int,
    sketches: int,
    noise: float = 0.5,
    classes: int = 3,
    seconds: float = 1.0,
    shuffled: bool = False,
) -> Path:
    """Writes a folder of embeddings (6 numbers each): every sketch is its photo and noise; the same seed for all."""
    rng = np.random.default_rng(0)
    content = rng.standard_normal((photos, 6))
    meant = rng.integers(0, photos, sketches)
    ids = [f"photo/{number:03d}" for number in range(photos)]
    names = [f"class{number % classes}" if classes else "" for number in range(photos)]
    drawn = content[meant] + noise * rng.standard_normal((sketches, 6))
    order = rng.permutation(sketches) if shuffled else np.arange(sketches)
    write_embeddings(folder / "photos.parquet", ids, content, classes=names, instances=ids)
    write_embeddings(
        folder / "sketches.parquet",
        [f"sketch/{number:03d}" for number in order],
        drawn[order],
        classes=[names[number] for number in meant[order]],
        instances=[ids[number] for number in meant[order]],
    )
    pretext = [f"pretext/{number}" for number in range(9)]
    for table, shift in (("pretext_photos", 0.1), ("pretext_edges", -0.2)):
        write_embeddings(folder / f"{table}.parquet", pretext, rng.standard_normal((9, 6)) + shift)
    record = {"system": name, "supervision": "none", "seconds": seconds, "threads": 1, "alignments": list(KINDS)}
    (folder / "system.json").write_text(json.dumps(record), encoding="utf-8")
    return folder
