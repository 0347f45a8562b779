"""A bit that flips on a disk is found, or it was one that carries nothing: over every kind of artefact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline_lib import params
from pipeline_lib.data.schemas import (
    CATALOG,
    EXCLUDED,
    open_parquet,
    opened_shard,
    read_catalog,
    read_table,
    write_rows,
)
from pipeline_lib.embedding.vectors import read_system, vector_table, vector_writer, write_system
from pipeline_lib.errors import PipelineError
from pipeline_lib.run import Run
from pipeline_lib.search.own_record import Record, read_folder, write_record

FLIPS = 60


def flips(path: Path, seed: int) -> Iterator[str]:
    """Flips one bit after the other; half of them in the last part, where the footer of a Parquet file is."""
    whole, rng = path.read_bytes(), np.random.default_rng(seed)
    for number in range(FLIPS):
        place = int(rng.integers(len(whole) if number % 2 else min(len(whole), 1500)))
        data, bit = bytearray(whole), int(rng.integers(8))
        data[-1 - place] ^= 1 << bit
        path.write_bytes(data)
        yield f"bit {bit} of byte {len(whole) - 1 - place}"
    path.write_bytes(whole)


def check(path: Path, read: Callable[[], Any], seed: int = 0) -> int:
    """Asserts that what is read of `path` is what was written, or an error that names it; returns how many were."""
    expected, found = read(), 0
    for where in flips(path, seed):
        try:
            got = read()
        except PipelineError as failure:
            found += 1
            assert path.name in str(failure)  # noqa: PT017  most flips end here
        else:
            # The name of the digest itself may have flipped, which adds a key that nobody reads.
            assert got == expected or got.items() >= expected.items(), where
    return found


def rows_of_shard(path: Path) -> list[dict[str, Any]]:
    with opened_shard(path) as file:
        return [row for batch in file.iter_batches(8) for row in batch.to_pylist()]


def test_of_a_catalog(tmp_path: Path) -> None:
    names = [field.name for field in CATALOG if field.type == "string"]
    rows = [{name: f"{name} {number % 7}" for name in names} | {"width": number, "height": 9} for number in range(50)]
    write_rows(tmp_path / "catalog.parquet", rows, CATALOG)
    read = lambda: read_catalog(tmp_path / "catalog.parquet").to_dict("records")  # noqa: E731
    assert check(tmp_path / "catalog.parquet", read) > FLIPS / 2


@pytest.mark.parametrize("seed", range(3))
def test_of_pairs(pairs_folder: Path, seed: int) -> None:
    (path, *_) = sorted(pairs_folder.iterdir())
    assert check(path, lambda: rows_of_shard(path), seed) > FLIPS / 2


@pytest.mark.parametrize("seed", range(3))
def test_of_patches(patches_folder: Path, seed: int) -> None:
    (path, *_) = sorted(patches_folder.iterdir())
    assert check(path, lambda: rows_of_shard(path), seed) > FLIPS / 2


def test_of_tables_that_are_small_and_so_all_header_and_footer(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_rows(path, [{"path": "a", "dataset": "b", "reason": "c", "detail": "d"}], EXCLUDED)
    for seed in range(4):
        check(path, lambda: (read_table(path).to_pylist(), read_table(path).schema.metadata), seed)


def test_other_readers_and_files_without_checksums_are_at_home(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rows = [{"path": f"{number}", "dataset": "b", "reason": "c", "detail": "d"} for number in range(9)]
    write_rows(path, rows, EXCLUDED)
    assert pq.read_table(path).to_pylist() == rows
    pq.write_table(pq.read_table(path), tmp_path / "plain.parquet")
    with open_parquet(tmp_path / "plain.parquet") as file:
        assert file.read().to_pylist() == rows


def test_of_the_files_of_a_folder_of_embeddings(tmp_path: Path) -> None:
    ids = [f"i{number}" for number in range(9)]
    with vector_writer(tmp_path / "photos.parquet", 3) as writer:
        writer.write_table(vector_table(ids, ids, ids, np.random.default_rng(0).standard_normal((9, 3), np.float32)))
    (tmp_path / "alignment.safetensors").write_bytes(bytes(range(256)))
    write_system(tmp_path, {"system": "s", "seconds": 1.25, "threads": None})
    for path in sorted(tmp_path.iterdir()):
        assert check(path, lambda: read_system(tmp_path)) > FLIPS / 2


def test_of_the_record_of_a_run_and_what_it_names(make_params: Callable[..., params.Params], tmp_path: Path) -> None:
    run = Run(tmp_path, make_params({"name": "small", "train.weight_decay": 1e-5}), tmp_path)
    for name in ("model/encoder.safetensors", "embeddings/alignment.safetensors"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(bytes(range(256)))
    run.write_record(data="digest", likeness={"mean": 0.1})
    for name in ("run.json", "model/encoder.safetensors", "embeddings/alignment.safetensors"):
        assert check(tmp_path / name, lambda: Run.open(tmp_path, tmp_path).record) > FLIPS / 2


def test_of_the_record_of_own_photos(tmp_path: Path) -> None:
    write_record(tmp_path, Record(("/photos",), "model", ("*.gif",), "alignment", "state"))
    assert check(tmp_path / "record.json", lambda: read_folder(tmp_path)) > FLIPS / 2
