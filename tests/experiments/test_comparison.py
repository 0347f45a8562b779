"""The command that compares systems, on a few drawn photos: real files, real processes, its own tables."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.io
from PIL import Image

from experiments import comparison
from pipeline_lib import params
from pipeline_lib.baselines.hog import export_hog
from pipeline_lib.data import sketchy
from pipeline_lib.data.images import encode_jpeg, encode_png
from pipeline_lib.data.schemas import CATALOG, PAIRS, write_rows
from pipeline_lib.data.source import FileSource
from pipeline_lib.embedding.alignment import FILE_NAME, fit_pretext
from pipeline_lib.files import digest_of_file, write_json
from pipeline_lib.pretext.edges import edge_map
from pipeline_lib.run import Run
from tests.conftest import ROOT, catalog_frame, scene

TX = "tx_000000000000"
CLASSES = ("cow", "dog")
EACH = 6
SECTIONS: dict[str, Any] = {
    "catalog": {"dataset": "voc_sketchy"}, "edges": {"blur": 1.0, "line_width": 1},
    "baselines": {"hog_size": 64, "image_size": 64},
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Images, a finished run on them, and where the command writes."""

    home: Path
    settings: params.Params

    @property
    def run(self) -> Run:
        return Run(self.home / "run", self.settings, self.home)

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def options(self) -> list[str]:
        places = {"run": "run", "store": "store", "metrics": "metrics"}
        return [text for name, place in places.items() for text in (f"--{name}", str(self.home / place))]

    def command(self, *more: str) -> tuple[int, str]:
        """Runs it; its exit status and what it said."""
        ran = subprocess.run(
            [sys.executable, "-m", "experiments.comparison", *self.options, *more],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return ran.returncode, ran.stdout + ran.stderr

    def table(self, name: str = "comparison") -> pd.DataFrame:
        return pd.read_csv(self.home / "metrics" / f"{name}.csv")

    def row(self, system: str, dataset: str) -> dict[str, Any]:
        """The one row of a system on a data set."""
        table = self.table()
        (found,) = table[(table["system"] == system) & (table["dataset"] == dataset)].to_dict("records")
        return {str(name): value for name, value in found.items()}

    def files(self, folder: str) -> dict[str, tuple[int, str]]:
        """When each file of a folder was written, and what it holds."""
        found = sorted(path for path in (self.home / folder).rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, digest_of_file(path)) for path in found}


def draw(machine: Machine) -> None:
    """Two classes of six photos, each drawn once, in Sketchy's layout and in that of Li 2014."""
    images = machine.home / "images"
    table = np.empty((len(CLASSES), 2), object)
    for row, class_name in enumerate(CLASSES):
        for number in range(EACH):
            photo = scene(100 * row + number, (120, 140))
            lines = np.roll(edge_map(photo, machine.settings.edges), (2, 3), axis=(0, 1))
            for pixels, place in (
                (photo, f"sketchy/256x256/photo/{TX}/{class_name}/n{number}.png"),
                (lines, f"sketchy/256x256/sketch/{TX}/{class_name}/n{number}-1.png"),
                (photo, f"li2014/images/{class_name}/cropped/2008_{number:06d}.png"),
                (lines, f"li2014/images/{class_name}/sketch/{number}.png"),
            ):
                (images / place).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(images / place)
        # Each sketch's own photo is rated 8, every other one 0.
        table[row] = np.repeat(2 * np.eye(EACH, dtype=np.uint8), 4, axis=1), np.array([class_name])
    (images / "li2014" / "ratings").mkdir()
    scipy.io.savemat(str(images / "li2014" / "ratings" / "Ratings.mat"), {"rating": table})


def finish_run(machine: Machine) -> None:
    """What of a run the systems of this test read; the baselines stage comes later."""
    run, images = machine.run, machine.home / "images"
    source = FileSource(images, 1_000_000)
    found = sketchy.entries(images, params.Rendering(photo=TX, sketch=TX))
    rows = [
        {
            **{name: getattr(entry, name) for name in ("image_id", "dataset", "role", "domain", "path", "class_name")},
            "instance_id": entry.instance_id or entry.image_id,
            "split": "test",
            "content": source.content(entry.path),
        }
        for entry in found
    ]
    pretext = [{"image_id": f"voc/{number}", "path": f"{number}"} for number in range(12)]
    write_rows(run.catalog, catalog_frame([*rows, *pretext]).to_dict("records"), CATALOG)  # type: ignore[arg-type]  # columns are strings
    edges = machine.settings.edges
    pairs = [
        {
            "image_id": row["image_id"],
            "photo": encode_jpeg(scene(500 + number, (120, 140)), 95),
            "edges": encode_png(edge_map(scene(500 + number, (120, 140)), edges)),
        }
        for number, row in enumerate(pretext)
    ]
    write_rows(run.pairs / "part-00000.parquet", pairs, PAIRS)
    run.model.mkdir()
    run.weights.write_bytes(b"weights")
    run.write_record(data="")


def finish_baselines(machine: Machine) -> None:
    """What the baselines stage writes of HOG."""
    run = machine.run
    catalog = pd.read_parquet(run.catalog)
    folder = run.folder / "baselines" / "hog"
    source = FileSource(machine.home / "images", 1_000_000)
    seconds = export_hog(folder, catalog, source, run.pairs, machine.settings)  # type: ignore[arg-type]  # it lists nothing here
    fit_pretext(folder).save(folder / FILE_NAME)
    write_json(folder / "system.json", {"seconds": round(seconds, 2)})


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, defaults: dict[str, Any]) -> Machine:
    home = tmp_path_factory.mktemp("compared")
    values = {**defaults, **{name: {**defaults[name], **part} for name, part in SECTIONS.items()}}
    values["catalog"]["root"] = str(home / "images")
    made = Machine(home, params.parse({**values, "name": "voc-sketchy"}))
    draw(made)
    finish_run(made)
    return made


def test_the_command_names_what_fails_keeps_the_rest_and_goes_on(machine: Machine) -> None:
    files = ("--file", "hog", "--file", "spatial_pyramid")
    status, said = machine.command("--benchmark", "sketchy", *files)
    assert status == 1
    assert "Traceback" not in said
    assert "error: not every system ran" in said
    assert f"hog: {machine.home / 'run/baselines/hog' / FILE_NAME}: is missing; run `dvc repro baselines`" in said
    assert "hog" not in set(machine.table()["system"])
    best = machine.row("spatial_pyramid_edges", "sketchy")
    assert best["instance_hit_at_1"] > 2 * machine.row("chance", "sketchy")["instance_hit_at_1"]
    assert (best["queries"], best["gallery"], best["supervision"], best["dim"]) == (12, 12, "none", 8400)
    assert best["seconds"] > 0
    pyramids = machine.files("store/spatial_pyramid_edges")

    finish_baselines(machine)
    status, said = machine.command("--benchmark", "sketchy", "--benchmark", "li2014", "--file", "hog")
    assert status == 0, said
    again = machine.table()
    everywhere = {"sketchy", "sketchy_test", "sketchy_test_unseen"}
    li = {"li2014", "li2014_last3", "li2014_14", "li2014_14_last3"}
    assert set(again.loc[again["system"] == "hog", "dataset"]) == everywhere | li
    assert set(again.loc[again["system"] == "spatial_pyramid_edges+chi2", "dataset"]) == everywhere
    assert {*again["system"]} >= {"chance", "oracle", "hog+pretext_mean", "spatial_pyramid+hellinger"}
    scores = again[again["dataset"] == "li2014"].set_index("system")["li_score_at_5"]
    assert scores["oracle"] == 8
    assert scores["chance"] == pytest.approx(8 * 5 / EACH, abs=1e-6)
    assert scores["chance"] < scores["hog"] <= 8
    # What was finished is not made again, only what was asked for is added.
    assert machine.files("store/spatial_pyramid_edges") == pyramids


def test_a_second_call_makes_nothing_again_and_writes_the_same_tables(machine: Machine) -> None:
    asked = ("--benchmark", "sketchy", "--benchmark", "li2014", "--file", "hog")
    if not machine.store.exists():
        finish_baselines(machine)
        assert machine.command(*asked)[0] == 0
    stored, tables = machine.files("store"), machine.files("metrics")
    status, said = machine.command(*asked)
    assert status == 0, said
    assert machine.files("store") == stored
    assert {path: content for path, (_, content) in machine.files("metrics").items()} == {
        path: content for path, (_, content) in tables.items()
    }
    assert {Path(path).name for path in tables} == {"comparison.csv", "comparison.md", "paired.csv", "per_class.csv"}
    page = (machine.home / "metrics" / "comparison.md").read_text(encoding="utf-8")
    assert "## li2014_last3: 6 sketches, 12 photos" in page
    row = machine.row("hog", "sketchy")
    value, low, high = (100 * row[f"instance_hit_at_5{end}"] for end in ("", "_low", "_high"))
    (line,) = [line for line in page.split("## ")[1].splitlines() if line.startswith("| hog | none |")]
    assert f"{value:.1f} [{low:.1f}, {high:.1f}]" in line


def test_rows_that_have_no_results_in_the_store_stay_to_the_letter(machine: Machine) -> None:
    if not (machine.store / "hog" / "li2014").exists():
        finish_baselines(machine)
        assert machine.command("--benchmark", "sketchy", "--benchmark", "li2014", "--file", "hog")[0] == 0
    page = machine.home / "metrics" / "comparison.md"
    page.write_text(page.read_text() + "\n## Not run\n\n- a_system on sketchy, openmoji: no weights\n")
    before = (machine.home / "metrics" / "comparison.csv").read_text().splitlines()
    spoilt = [line.replace("hog,none,li2014,", "hog,gone,li2014,") for line in before]
    added = before[1].replace("chance", "a_name") if "chance" in before[1] else ""
    (machine.home / "metrics" / "comparison.csv").write_text("\n".join([*spoilt, added]) + "\n")
    # Another machine has none of the other results.
    (machine.store / "hog" / "sketchy").rename(machine.home / "aside")
    status, said = machine.command("--benchmark", "li2014", "--file", "hog")
    assert status == 0, said
    after = (machine.home / "metrics" / "comparison.csv").read_text().splitlines()
    assert sorted(after) == sorted([*before, added])
    assert [line for line in after if line != added] == before
    assert "- a_system on sketchy, openmoji: no weights" in page.read_text()
    assert "| a_name | none |" in page.read_text()
    (machine.home / "aside").rename(machine.store / "hog" / "sketchy")


def test_systems_learn_from_the_primary_run_and_without_it_from_another_on_the_same_data(machine: Machine) -> None:
    other = machine.home / "other"
    shutil.copytree(machine.run.folder, other, dirs_exist_ok=True)
    settings = machine.settings.model_copy(update={"name": "default-sketchy"})
    Run(other, settings, machine.home).write_record(data="")
    asked = argparse.Namespace(root=None, threads=None, benchmark=["sketchy"])
    for runs, primary in (([other, machine.run.folder], "voc-sketchy"), ([other], "default-sketchy")):
        asked.run = runs
        (benchmark,) = comparison.open_benchmarks(asked)
        assert benchmark.training.run.name == primary
        assert set(benchmark.training.runs) == {Run.open(folder).name for folder in runs}


def test_a_benchmark_without_a_run_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["comparison", *machine.options, "--benchmark", "openmoji"])
    with pytest.raises(SystemExit, match=r"no run on openmoji was given; make one with `make run RECIPE=source`"):
        comparison.main()


@pytest.mark.parametrize(("option", "known"), [("--file", "spatial_pyramid"), ("--benchmark", "li2014_img")])
def test_an_unknown_file_or_benchmark_is_answered_with_the_known_ones(
    option: str, known: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["comparison", option, "sift_flow"])
    with pytest.raises(SystemExit, match="2"):
        comparison.main()
    said = capsys.readouterr().err
    assert f"{option}: invalid choice: 'sift_flow'" in said
    assert known in said


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--run", r"nowhere: there is no finished run"),
        ("--root", r"catalog\.root: .*nowhere is not a folder"),
    ],
)
def test_a_run_or_images_that_are_not_there_are_named(
    machine: Machine, option: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = [option, str(machine.home / "nowhere")]
    options = machine.options[2:] if option == "--run" else machine.options
    monkeypatch.setattr(sys, "argv", ["comparison", *options, "--benchmark", "sketchy", *gone])
    with pytest.raises(SystemExit, match=f"error: .*{words}"):
        comparison.main()
