"""Rows made from the vectors that another row has stored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.baselines.measure import NAMES, measure
from pipeline_lib.baselines.run import run_system
from pipeline_lib.baselines.system import (
    RECORD,
    Benchmark,
    Domain,
    Embedder,
    ProjectedSystem,
    Projector,
    Training,
    Vectors,
)
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import read_json
from pipeline_lib.params import Params
from tests.baselines.test_systems import MeanColour

MEAN = MeanColour("mean", "none", forms=("none",), processes=1)


@dataclass(frozen=True)
class Turned(ProjectedSystem):
    """Mean colours with their channels in another order, photos doubled: cosines stay what they were."""

    of: MeanColour = MEAN
    factor: float = 2.0

    @property
    def stored(self) -> MeanColour:
        return self.of

    def fit(self, training: Training, folder: Path) -> None:  # noqa: ARG002  as systems have it
        np.save(folder / "order.npy", np.array([2, 0, 1]))

    def projector(self, folder: Path) -> Projector:
        order = np.load(folder / "order.npy")

        def project(vectors: Vectors, domain: Domain) -> Vectors:
            return vectors[:, order] * np.float32(self.factor if domain == "photo" else 1)

        return project

    def embedder(self, folder: Path, settings: Params) -> Embedder:  # noqa: ARG002
        raise AssertionError("what is stored is not embedded again")


def turned(name: str, **changes: object) -> Turned:
    return replace(Turned(name, "pairs", forms=("none",)), **changes)  # type: ignore[arg-type]


def test_the_images_are_read_once_for_all_rows_that_project_one(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmbeddingTable.batches, "__defaults__", (5,))
    benchmark, store = benchmark_of(), tmp_path / "store"
    # The row itself need not have run before.
    first = run_system(turned("first"), benchmark, store)
    shutil.rmtree(tmp_path / "images")
    second = run_system(turned("second"), benchmark, store)
    homes = store / "mean" / "sketchy", first, second
    for name, factor in (("photos", 2), ("sketches", 1)):
        base, *others = (EmbeddingTable.open(home / f"{name}.parquet") for home in homes)
        for table in others:
            assert np.array_equal(table.read(), factor * base.read()[:, [2, 0, 1]])
            assert table.labels.image_ids.tolist() == base.labels.image_ids.tolist()
            assert table.labels.instance_ids.tolist() == base.labels.instance_ids.tolist()
    assert read_json(second / RECORD)["seconds"] >= read_json(store / "mean" / "sketchy" / RECORD)["seconds"]
    rows = [measure(home, benchmark)[0].values for home in homes]
    hits = [values[:, NAMES.index("instance_hit_at_5")].mean() for values in rows]
    assert hits[0] == hits[1] == hits[2] > 0.9


def test_what_is_finished_stays_until_the_stored_row_changes(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark, store = benchmark_of(), tmp_path / "store"
    out = run_system(turned("first"), benchmark, store)
    before = (out / "photos.parquet").stat().st_mtime_ns
    run_system(turned("first"), benchmark, store)
    assert (out / "photos.parquet").stat().st_mtime_ns == before
    run_system(turned("first", of=replace(MEAN, spoil="nothing")), benchmark, store)
    assert (out / "photos.parquet").stat().st_mtime_ns != before


def test_a_stored_row_that_changed_by_itself_makes_the_projected_one_anew(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark, store = benchmark_of(), tmp_path / "store"
    out = run_system(turned("first"), benchmark, store)
    key = read_json(out / RECORD)["key"]
    changed = replace(benchmark, gallery=benchmark.gallery.assign(content="other"))
    run_system(turned("first"), changed, store)
    assert read_json(out / RECORD)["key"] != key


def test_a_projector_that_gives_nothing_usable_is_named_and_the_stored_row_kept(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark, store = benchmark_of(), tmp_path / "store"
    with pytest.raises(PipelineError, match="zeros: the vector of photo/00"):
        run_system(turned("zeros", factor=0.0), benchmark, store)
    assert (store / "mean" / "sketchy" / RECORD).exists()
    assert not (store / "zeros" / "sketchy").exists()
    assert not list(store.rglob("*.tmp"))


def test_means_of_pretext_pairs_can_not_be_asked_for() -> None:
    with pytest.raises(ValueError, match=r"first: .*no form pretext_mean"):
        Turned("first", "pairs")
