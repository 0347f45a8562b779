from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline_lib.files import write_json
from tests.support import write_system

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the program, with what the train stage leaves of a run."""
    for name in ("stages", "pipeline_lib"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["evaluate"]["bootstrap"] = 100
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    write_json(tmp_path / "data/model/meta.json", {"data_sha256": "0" * 64, "threads": 1})
    (tmp_path / "data/model/encoder.safetensors").write_bytes(b"weights")
    write_json(tmp_path / "data/model/pretext.json", {"accuracy": 0.84249})
    (tmp_path / "data/model/training.csv").write_text("epoch\n1\n", encoding="utf-8")
    write_json(tmp_path / "data/catalog.json", {})
    return tmp_path


def run(tree: Path, stage: str, *, succeeds: bool = True) -> str:
    """Runs a stage from elsewhere; returns what it said on both streams."""
    command = [sys.executable, str(tree / "stages" / f"{stage}.py")]
    done = subprocess.run(command, cwd=tree.parent, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == succeeds, done.stderr
    return done.stdout + done.stderr


def change(tree: Path, section: str, key: str, value: object) -> None:
    values = yaml.safe_load((tree / "params.yaml").read_text(encoding="utf-8"))
    values[section][key] = value
    (tree / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def test_index_and_evaluate_measure_ours_and_every_baseline(tree: Path) -> None:
    # Recipes share embeddings through DVC's cache, so the name comes from the params.
    write_system(tree / "data/embeddings", "{run}", photos=60, sketches=80, noise=0.8)
    write_system(tree / "data/baselines/untrained", "{run}-untrained", photos=60, sketches=80, noise=8)
    write_system(tree / "data/baselines/hog", "hog", photos=60, sketches=80, noise=2, shuffled=True)
    assert "60 photos of 6 numbers (exact, 6 numbers), alignment pretext_whitened" in run(tree, "index")
    assert "80 queries" in run(tree, "evaluate")

    comparison = pd.read_csv(tree / "metrics/comparison.csv")
    kinds = ("", "+none", "+pretext_mean", "+pretext_csls", "+transductive_mean")
    others = ("", "+pretext_mean", "+pretext_whitened", "+pretext_csls", "+transductive_mean")
    assert comparison["system"].tolist() == [
        *(f"default{kind}" for kind in kinds),
        *(f"{name}{kind}" for name in ("hog", "default-untrained") for kind in others),
        "chance",
    ]
    figures = json.loads((tree / "metrics/retrieval.json").read_text(encoding="utf-8"))
    assert (figures["system"], figures["dataset"], figures["alignment"]) == (
        "default",
        "openmoji",
        "pretext_whitened",
    )
    shown = json.loads((tree / "metrics/headline.json").read_text(encoding="utf-8"))
    assert (shown["pretext"], shown["queries"], shown["photos"]) == (84.2, 80, 60)
    assert shown["instance_at_5"] == round(100 * figures["instance"]["hit_at_5"], 1)
    first = comparison.iloc[0]
    assert (first["instance_hit_at_5"], first["map"]) == (figures["instance"]["hit_at_5"], figures["map"])
    assert [first["class_hit_at_5_low"], first["class_hit_at_5_high"]] == figures["class"]["hit_at_5_ci95"]
    paired = pd.read_csv(tree / "metrics/paired.csv").set_index("against")
    assert paired.index[0] == "default-untrained+pretext_whitened"
    assert len(paired) == len(comparison) - 1
    by_name = comparison.set_index("system")["instance_hit_at_5"]
    for name in paired.index:
        assert paired.loc[name, "instance_hit_at_5"] == pytest.approx(by_name["default"] - by_name[name], abs=2e-6)
    rankings = pq.read_table(tree / "data/rankings.parquet").to_pandas()
    assert (rankings["place"] <= 5).mean() == pytest.approx(figures["instance"]["hit_at_5"], abs=1e-6)
    assert set(rankings["neighbours"].map(len)) == {50}


def test_evaluating_twice_gives_the_same_bytes(tree: Path) -> None:
    write_system(tree / "data/embeddings", "default", photos=30, sketches=40)
    outputs = []
    for _ in range(2):
        run(tree, "index")
        run(tree, "evaluate")
        outputs.append([path.read_bytes() for path in sorted((tree / "metrics").iterdir())])
    assert outputs[0] == outputs[1]


def test_a_gallery_without_queries_is_indexed_and_measures_nothing(tree: Path) -> None:
    change(tree, "catalog", "dataset", "folder")
    write_system(tree / "data/embeddings", "default", photos=5, sketches=0)
    run(tree, "index")
    run(tree, "evaluate")
    figures = json.loads((tree / "metrics/retrieval.json").read_text(encoding="utf-8"))
    assert (figures["queries"], figures["gallery"], figures["map"]) == (0, 5, None)


def test_an_index_made_under_another_alignment_ends_in_a_sentence(tree: Path) -> None:
    write_system(tree / "data/embeddings", "default", photos=5, sketches=4)
    run(tree, "index")
    change(tree, "retrieval", "alignment", "none")
    said = run(tree, "evaluate", succeeds=False)
    assert said.startswith("error: ")
    assert "retrieval.alignment is none; run the index stage" in said
    assert "Traceback" not in said
    assert not (tree / "metrics/retrieval.json").exists()


def test_missing_embeddings_end_in_a_sentence(tree: Path) -> None:
    said = run(tree, "index", succeeds=False)
    assert said.startswith("error: ")
    assert "system.json" in said
