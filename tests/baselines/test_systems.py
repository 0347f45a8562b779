# ruff: noqa: ARG001, ARG002, ARG005  systems take what the interface gives
"""The harness on small synthetic benchmarks: real files, real processes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline_lib import params
from pipeline_lib.baselines import system as interface
from pipeline_lib.baselines.measure import NAMES, chance, measure, oracle
from pipeline_lib.baselines.run import FITTED, run_system
from pipeline_lib.baselines.system import (
    FORMS,
    RECORD,
    SKIPPED,
    Benchmark,
    Domain,
    Embedder,
    Image,
    ScoreSystem,
    Training,
    Vectors,
    VectorSystem,
    system_modules,
)
from pipeline_lib.baselines.tables import Bootstrap, comparison, markdown, paired, per_class, with_li_parts
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import read_json
from tests.conftest import ROOT, scene

DRAWS = Bootstrap(100, 0)


@dataclass(frozen=True)
class MeanColour(VectorSystem):
    """Finds a photo by its mean colour; counts how often it was fitted."""

    spoil: str = ""

    def inapplicable(self, benchmark: Benchmark) -> str:
        return "not for this one" if benchmark.name == "refused" else ""

    def fit(self, training: Training, folder: Path) -> None:
        path = folder / "calls"
        path.write_text(path.read_text() + "x" if path.exists() else "x")

    def embedder(self, folder: Path, settings: params.Params) -> Embedder:
        def embed(images: Sequence[Image], domain: Domain) -> Vectors:
            if any(image.image_id == self.spoil for image in images):
                raise PipelineError(f"{self.spoil}: spoilt")
            colours = [np.broadcast_to(image.pixels.T.mean(axis=(-1, -2)), 3) for image in images]  # edge maps are grey
            return np.stack(colours).astype(np.float32)

        return embed


@dataclass(frozen=True)
class ByName(ScoreSystem):
    """Knows the answer."""

    def score(self, benchmark: Benchmark, folder: Path, scratch: Path) -> tuple[np.ndarray, float]:
        wanted = benchmark.queries["instance_id"].to_numpy(str)[:, None]
        return (wanted == benchmark.gallery["image_id"].to_numpy(str)[None, :]).astype(np.float32), 1.5


def test_a_system_is_fitted_once_and_embeds_once_until_an_image_changes(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    store, system = tmp_path / "store", MeanColour("mean", "none", forms=("none",), processes=1)
    benchmark = benchmark_of()
    out = run_system(system, benchmark, store)
    first = (out / "photos.parquet").stat().st_mtime_ns, read_json(out / RECORD)
    assert run_system(system, benchmark, store) == out
    assert ((out / "photos.parquet").stat().st_mtime_ns, read_json(out / RECORD)) == first
    changed = benchmark.gallery.assign(content="other")
    run_system(system, Benchmark(**{**benchmark.__dict__, "gallery": changed}), store)
    assert (out / "photos.parquet").stat().st_mtime_ns != first[0]
    assert (store / "mean" / "fit-t" / "calls").read_text() == "x"
    run_system(MeanColour("mean", "none", forms=("none",), processes=1, spoil="nothing"), benchmark, store)
    assert read_json(store / "mean" / "fit-t" / FITTED)["key"] != ""
    assert read_json(out / RECORD)["key"] != first[1]["key"]


def test_a_run_that_fails_keeps_its_finished_parts_and_goes_on(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    store, benchmark = tmp_path / "store", benchmark_of()
    with pytest.raises(PipelineError, match="spoilt"):
        run_system(MeanColour("mean", "none", forms=("none",), processes=1, spoil="sketch/03"), benchmark, store)
    assert list((store / "mean").glob(".sketchy-*/photos-shards/*.parquet"))
    assert not (store / "mean" / "sketchy").exists()


def test_rows_are_the_forms_and_find_what_was_drawn(benchmark_of: Callable[..., Benchmark], tmp_path: Path) -> None:
    benchmark = benchmark_of()
    rows = measure(run_system(MeanColour("mean", "none", processes=1), benchmark, tmp_path / "store"), benchmark)
    assert [row.row for row in rows] == ["mean", *(f"mean+{form}" for form in FORMS[1:])]
    assert rows[0].values[:, NAMES.index("instance_hit_at_5")].mean() > 0.9
    again = measure(tmp_path / "store" / "mean" / "sketchy", benchmark)
    assert all(np.array_equal(a.values, b.values, equal_nan=True) for a, b in zip(rows, again, strict=True))


def test_a_system_of_scores_is_measured_by_the_same_code(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = benchmark_of()
    (row,) = measure(run_system(ByName("oracle", "pairs"), benchmark, tmp_path / "store"), benchmark)
    assert (row.values[:, NAMES.index("instance_hit_at_1")] == 1).all()
    assert row.record["seconds"] == 1.5


def test_supervised_systems_are_measured_on_unseen_parts_only(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    for unseen, count in ((True, 1), (False, 0)):
        benchmark = benchmark_of(unseen=unseen)
        out = run_system(ByName("pairs", "pairs", paired=True), benchmark, tmp_path / "store")
        assert len(measure(out, benchmark)) == count


def test_what_is_not_applicable_says_why_and_has_no_row(benchmark_of: Callable[..., Benchmark], tmp_path: Path) -> None:
    benchmark = benchmark_of("refused")
    out = run_system(MeanColour("mean", "none"), benchmark, tmp_path / "store")
    assert read_json(out / SKIPPED)["reason"] == "not for this one"
    assert measure(out, benchmark) == []


def test_an_embedder_that_gives_nothing_usable_is_named(benchmark_of: Callable[..., Benchmark], tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Zeros(VectorSystem):
        def embedder(self, folder: Path, settings: params.Params) -> Embedder:
            return lambda images, domain: np.zeros((len(images), 3), np.float32)

    with pytest.raises(PipelineError, match="zeros: the vector of photo/00"):
        run_system(Zeros("zeros", "none", forms=("none",), processes=1), benchmark_of(), tmp_path / "store")


def test_tables_hold_every_row_its_intervals_and_the_difference_from_alexnet(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = benchmark_of()
    rows = [chance(benchmark, benchmark.parts[0])]
    for system in (MeanColour("alexnet_pool5", "imagenet", forms=("none",), processes=1), ByName("best", "pairs")):
        rows += measure(run_system(system, benchmark, tmp_path / "store"), benchmark)
    table = comparison(rows, DRAWS).set_index("system")
    assert table.loc["chance", "instance_hit_at_5"] == pytest.approx(5 / 12, abs=1e-6)
    assert table.loc["best", "instance_hit_at_1_low"] == 1
    assert table.loc["alexnet_pool5", "reported"] == 12.53
    differences = paired(rows, DRAWS).set_index("system")
    assert set(differences.index) == {"chance", "best"}
    expected = 1 - table["instance_hit_at_1"].loc["alexnet_pool5"]
    assert differences.loc["best", "instance_hit_at_1"] == pytest.approx(expected, abs=1e-6)
    assert set(per_class(rows, DRAWS)["class_name"]) == {"cat", "cow"}
    text = markdown(table.reset_index(), {("other", "li2014"): "no weights"})
    assert "| best | pairs | 100.0 [100.0, 100.0]" in text
    assert "other on li2014: no weights" in text


def test_li_2014_is_ranked_within_classes_and_split_into_its_four_subsets(
    benchmark_of: Callable[..., Benchmark],
) -> None:
    ratings = np.full((12, 12), np.nan)
    for start in (0, 6):
        ratings[start : start + 6, start : start + 6] = 2 * np.eye(6) + 1
    benchmark = benchmark_of("li2014", ratings=ratings)
    part = benchmark.parts[0]
    rows = list(with_li_parts([chance(benchmark, part), oracle(benchmark, part)]))
    assert [(row.dataset, len(row.queries)) for row in rows[:4]] == [
        ("li2014", 12), ("li2014_last3", 6), ("li2014_14", 12), ("li2014_14_last3", 6),
    ]  # fmt: skip
    table = comparison(rows, DRAWS)
    best = table[(table["system"] == "oracle") & (table["dataset"] == "li2014")].iloc[0]
    assert best["li_score_at_5"] == 3 + 4
    assert table["li_score_at_5"].iloc[0] == pytest.approx(5 * 8 / 6, abs=1e-6)
    assert table["instance_hit_at_1"].isna().all()


def test_a_file_takes_part_by_the_line_systems(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("SYSTEMS = ()\n")
    (tmp_path / "helper.py").write_text('"""No SYSTEMS here."""\n')
    assert system_modules(tmp_path) == ["mine"]
    assert {"alexnet", "hog", "li_dpm", "runs", "spatial_pyramid"} <= set(system_modules())


def test_the_seventh_system_of_the_documentation_runs(
    benchmark_of: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n# pipeline_lib/baselines/\w+\.py\n(.*?)```", text, re.DOTALL)
    assert found
    (tmp_path / "seventh_system.py").write_text(found[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    (system,) = importlib.import_module("seventh_system").SYSTEMS
    benchmark = benchmark_of()
    # Photos that have a shape, and their sketches the same, a little moved.
    for frame, moved in ((benchmark.gallery, 0), (benchmark.queries, 2)):
        for number, path in enumerate(frame["path"]):
            cv2.imwrite(str(tmp_path / "images" / path), np.roll(scene(number, (80, 100)), moved, axis=1))
    rows = measure(run_system(system, benchmark, tmp_path / "store"), benchmark)
    assert rows[0].values[:, NAMES.index("instance_hit_at_5")].mean() > 0.5
    assert interface.VectorSystem in type(system).__mro__
