"""The documented commands, on a small copy of the repository: they do what the README says they do."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from campaign.sandbox import Command, contents, leftovers, stage_command
from pipeline_lib.data.schemas import CATALOG, EXCLUDED, PAIRS, embeddings_schema, patches_schema
from tests.pipeline.support import ROOT, STAGES, Case, commit, processes_of, set_params, small_case, tracked_files

TABLES = ("photos", "sketches", "pretext_photos", "pretext_edges")


def shards(folder: Path) -> list[Path]:
    """The files of a folder, which holds shards and nothing else."""
    found = sorted(folder.iterdir())
    assert [path.name for path in found] == [f"part-{number:05d}.parquet" for number in range(len(found))]
    return found


def read_json(path: Path) -> dict[str, Any]:
    loaded = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def metrics_shown(case: Case, *options: str) -> dict[str, Any]:
    shown = json.loads(case.run("dvc", "metrics", "show", "--json", *options))
    return {name: found["data"] for name, found in shown[options[-1] if options else ""]["data"].items()}


def test_every_artefact_has_the_columns_of_the_contract(finished: Case) -> None:
    data, metrics = finished.tree / "data", finished.tree / "metrics"
    assert pq.read_schema(data / "catalog.parquet").equals(CATALOG)
    assert pq.read_schema(data / "excluded.parquet").equals(EXCLUDED)
    catalog = pq.read_table(data / "catalog.parquet").to_pandas()
    assert catalog["role"].value_counts().to_dict() == {"gallery": 24, "pretext": 24, "query": 10}

    pretext = sorted(catalog.loc[catalog["role"] == "pretext", "image_id"])
    pairs, patches = shards(data / "pairs"), shards(data / "patches")
    assert len(pairs) == len(patches) == 3
    assert all(pq.read_schema(path).equals(PAIRS) for path in pairs)
    assert [name for path in pairs for name in pq.read_table(path)["image_id"].to_pylist()] == pretext
    assert all(pq.read_schema(path).equals(patches_schema(64)) for path in patches)
    assert all(pq.read_schema(path).metadata == patches_schema(64).metadata for path in patches)
    assert sum(pq.read_metadata(path).num_rows for path in patches) == 2 * 24

    for folder, dimension in (("embeddings", 32), ("baselines/untrained", 32), ("baselines/start", None)):
        for name in TABLES:
            schema = pq.read_schema(data / folder / f"{name}.parquet")
            assert schema.equals(embeddings_schema(dimension or schema.field("vector").type.list_size))
    indexed = pq.read_table(data / "index/photos.parquet")["image_id"].to_pylist()
    assert indexed == pq.read_table(data / "embeddings/photos.parquet")["image_id"].to_pylist()

    model = {path.name for path in (data / "model").iterdir()}
    assert model == {"encoder.safetensors", "start.safetensors", "meta.json", "pretext.json", "training.csv"}
    record = read_json(data / "model/meta.json")
    assert {"architecture", "params_sha256", "data_sha256", "accuracy"} <= set(record)
    explained = read_json(data / "run.json")
    assert (explained["name"], explained["data"]) == ("default", record["data_sha256"])
    assert explained["params"] == yaml.safe_load((finished.tree / "params.yaml").read_text(encoding="utf-8"))
    assert {"weights", "commit", "versions", "threads", "processor"} <= set(explained)
    pretext_figures, retrieval = read_json(metrics / "pretext.json"), read_json(metrics / "retrieval.json")
    assert record["accuracy"] == pretext_figures["accuracy"]
    assert {"accuracy_ci95", "accuracy_one_patch", "per_direction", "per_domain_order"} <= set(pretext_figures)
    assert {"hit_at_1", "hit_at_5", "hit_at_5_ci95", "hit_at_10"} <= set(retrieval["instance"])
    assert (retrieval["queries"], retrieval["gallery"], retrieval["dataset"]) == (10, 24, "folder")
    compared = pd.read_csv(metrics / "comparison.csv")
    systems = {name.split("+")[0] for name in compared["system"]}
    assert systems == {"default", "default-untrained", "default-start", "hog", "chance"}
    assert {"supervision", "dataset", "instance_hit_at_5_low", "transductive", "dim", "seconds"} <= set(compared)
    assert list(pd.read_csv(metrics / "training.csv")["epoch"]) == [1]
    # One's own photos stay out of what git keeps.
    assert [path.name for path in (metrics / "pictures").iterdir()] == ["training_curve.png"]
    assert (finished.tree / "private/default/retrieval_grid.png").stat().st_size > 0


def test_a_run_shows_progress_and_leaves_git_with_nothing_but_results(finished: Case) -> None:
    for words in ("reading images", "edges", "patches", "train", "embed photos", "hog photos"):
        assert f"{words}: 100%" in finished.said
    assert finished.run("git", "status", "--porcelain") == ""
    kept = finished.run("git", "ls-files", "-z").split("\0")
    assert not [name for name in kept if name.startswith(("data/", "private/", ".scratch/", ".dvc/cache"))]
    assert "metrics/retrieval.json" in kept
    lock = yaml.safe_load((finished.tree / "dvc.lock").read_text(encoding="utf-8"))
    assert set(lock["stages"]) == set(STAGES)


def test_a_second_repro_does_nothing(finished: Case) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.tree.glob("data/**/*")}
    said = finished.run("dvc", "repro")
    assert "Running stage" not in said
    assert "Data and pipelines are up to date." in said
    assert finished.run("dvc", "status").strip() == "Data and pipelines are up to date."
    assert {path: path.stat().st_mtime_ns for path in finished.tree.glob("data/**/*")} == before


def test_the_metrics_of_a_run_fit_in_a_terminal(finished: Case) -> None:
    shown = finished.run("dvc", "metrics", "show", "--md")
    assert max(map(len, shown.splitlines())) <= 100
    (figures,) = metrics_shown(finished).values()
    assert {"pretext", "instance_at_1", "instance_at_5", "queries", "photos"} <= set(figures)


def test_curves_are_drawn_without_opening_a_browser(case: Case) -> None:
    said = case.run("dvc", "plots", "show")
    page = case.tree / "dvc_plots/index.html"
    assert str(page) in said
    html = page.read_text(encoding="utf-8")
    assert "Pretext accuracy per epoch" in html
    assert "val_accuracy_one_patch" in html
    assert case.run("git", "status", "--porcelain") == ""


def test_an_experiment_in_the_workspace_is_told_by_the_diffs(case: Case) -> None:
    first = metrics_shown(case)["metrics/headline.json"]
    before = read_json(case.tree / "metrics/pretext.json")
    said = case.run(
        "dvc", "exp", "run", "-S", "train.learning_rate=0.004", "-S", "retrieval.alignment=none", "evaluate"
    )
    assert "Running stage 'train'" in said
    assert "Running stage 'patches'" not in said

    changed = json.loads(case.run("dvc", "params", "diff", "--json"))["params.yaml"]
    assert changed.keys() == {"train.learning_rate", "retrieval.alignment"}
    assert (changed["train.learning_rate"]["old"], changed["train.learning_rate"]["new"]) == (0.02, 0.004)
    assert read_json(case.tree / "metrics/pretext.json")["loss"] != before["loss"]
    moved = json.loads(case.run("dvc", "metrics", "diff", "--json", "--all"))["metrics/headline.json"]
    now = read_json(case.tree / "metrics/headline.json")
    assert {name: change["old"] for name, change in moved.items()} == first
    assert {name: change.get("new", change["old"]) for name, change in moved.items()} == now


def test_the_variables_of_the_ablation_are_leaf_keys_that_the_diff_names(case: Case) -> None:
    changes = {
        "train.domain": "photo",
        "train.pretrained": "conv3",
        "train.batch_norm": False,
        "train.encoder": "doersch",
        "train.seed": 2,
        "patches.gap": 4,
        "edges.blur": 0.5,
    }
    before = json.loads(case.run("dvc", "params", "diff", "--json") or "{}")
    assert before == {}
    set_params(case.tree, changes)
    found = json.loads(case.run("dvc", "params", "diff", "--json"))["params.yaml"]
    assert {key: change["new"] for key, change in found.items()} == changes


def test_experiments_apart_from_the_workspace_read_the_same_photos(case: Case) -> None:
    """`--temp` and `--queue` work in copies of the repository; with an absolute root they find the photos."""
    before = metrics_shown(case)
    named = case.run("dvc", "exp", "run", "--temp", "--name", "apart", "-S", "retrieval.alignment=none")
    assert "Running stage 'report'" in named  # it opens photos
    case.run("dvc", "exp", "run", "--queue", "--name", "queued", "-S", "catalog.val_fraction=0.5", "catalog")
    said = case.run("dvc", "exp", "run", "--run-all")
    assert "Running stage 'catalog'" in said
    for _ in range(100):  # the worker ends by itself, a moment after its last task
        if not processes_of(case.env):
            break
        time.sleep(0.2)
    assert processes_of(case.env) == []

    assert metrics_shown(case) == before
    assert case.run("git", "status", "--porcelain") == ""
    case.run("dvc", "get", ".", "data/catalog.json", "--rev", "queued", "-o", case.tree.parent / "queued.json")
    counts = (read_json(path) for path in (case.tree.parent / "queued.json", case.tree / "data/catalog.json"))
    queued, own = (count["images"]["folder"]["pretext"]["val"] for count in counts)
    assert queued > own
    apart = json.loads(case.run("git", "show", f"{reference(case, 'apart')}:metrics/retrieval.json"))
    assert (apart["alignment"], read_json(case.tree / "metrics/retrieval.json")["alignment"]) == (
        "none",
        "pretext_whitened",
    )


def reference(case: Case, name: str) -> str:
    listed = case.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    (found,) = [ref for ref in listed if ref.endswith(f"/{name}")]
    return found


def test_a_relative_root_outside_the_repository_is_named_where_a_copy_lacks_it(case: Case) -> None:
    """DVC looks for a relative root beside the copy: one's own photos are given by an absolute path."""
    said = case.run("dvc", "exp", "run", "--temp", "-S", "catalog.root=../elsewhere", "catalog", succeeds=False)
    assert "failed to reproduce 'catalog'" in said
    assert "elsewhere" in said
    assert "Traceback" not in said


def test_the_same_seed_trains_to_the_same_bytes(case: Case) -> None:
    names = tuple(f"data/model/{name}" for name in ("pretext.json", "training.csv", "encoder.safetensors"))
    first = {name: (case.tree / name).read_bytes() for name in names}
    for name in ("data/model", ".scratch"):
        shutil.rmtree(case.tree / name, ignore_errors=True)
    case.stage("train")
    assert {name: (case.tree / name).read_bytes() for name in names} == first


@pytest.fixture
def interrupted(finished: Case, tmp_path: Path) -> Case:
    """A copy of `finished`, of which a stage is interrupted."""
    tree = tmp_path / "repository"
    shutil.copytree(finished.tree, tree, symlinks=True)
    return Case(tree, finished.photos, finished.env)


@pytest.mark.parametrize("name", STAGES)
def test_ctrl_c_of_every_stage_is_one_sentence_and_leaves_whole_files(interrupted: Case, name: str) -> None:
    tree, begins = interrupted.tree, interrupted.tree / f".scratch/.{name}.holder"
    before = contents(tree / "data", tree / "metrics")
    for _ in range(5):  # a stage may be done before this process comes to interrupt it
        stage = Command(stage_command(tree, name), tree.parent, interrupted.env)
        while not begins.exists() and stage.process.poll() is None:
            time.sleep(0.001)
        stage.process.send_signal(signal.SIGINT)
        said = stage.end()
        if said.code:
            break
    lines = [line for line in re.split(r"[\r\n]+", said.words) if line.strip() and "%|" not in line]  # no progress
    assert (said.code, lines) == (130, ["interrupted; finished parts are kept"])
    assert contents(tree / "data", tree / "metrics").items() <= before.items()
    assert leftovers(tree / "data", tree / "metrics") == ""


@pytest.fixture(scope="module")
def unsketched(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Own photos without a single sketch, through every stage as a plain script run from another folder."""
    case = small_case(tmp_path_factory.mktemp("unsketched"), photos=12, sketches=0)
    for name in STAGES:
        case.stage(name)
    return case


def test_photos_without_sketches_run_to_the_end(unsketched: Case) -> None:
    metrics = unsketched.tree / "metrics"
    retrieval = read_json(metrics / "retrieval.json")
    assert (retrieval["queries"], retrieval["gallery"], retrieval["map"]) == (0, 12, None)
    assert read_json(metrics / "pretext.json")["images"] > 0
    assert len(pq.read_table(unsketched.tree / "data/index/photos.parquet")) == 12
    assert (unsketched.tree / "private/default/pretext_examples.png").stat().st_size > 0
    assert not list((unsketched.tree / ".scratch").rglob("*.tmp"))
    # A stage run from elsewhere writes into its own tree only.
    assert {path.name for path in unsketched.tree.parent.iterdir()} == {"home", "own photos", "repository"}


def test_make_run_takes_any_path_needs_no_name_in_git_and_leaves_the_default_in_place(
    finished: Case, tmp_path: Path
) -> None:
    """The real command on one's own photos: a run beside the default's, whose artefacts and results stay."""
    case = Case(tmp_path / "repository", tmp_path / "it's, [my] photos (é) $HOME", finished.env)
    shutil.copytree(finished.photos, case.photos)
    shutil.copytree(finished.tree, case.tree, symlinks=True)
    for name in tracked_files():
        if name.startswith(("Makefile", "requirements", "experiments/", "recipes/", "tools/")):
            (case.tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, case.tree / name)
    binaries, stamps = case.tree / ".venv/bin", case.tree / ".venv/.stamps"
    stamps.mkdir(parents=True)
    binaries.mkdir()
    program = Path(sys.executable)
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{program}" "$@"\n', encoding="utf-8")
    (binaries / "python").chmod(0o755)
    for name in ("venv", "program", "weights"):
        (stamps / name).touch()
    commit(case.tree, "program", env=case.env)
    before = {path: path.read_bytes() for path in sorted((case.tree / "data").rglob("*")) if path.is_file()}

    place = case.photos.name.replace("$", "$$")  # as make reads it
    case.run("make", "run", "RECIPE=own-photos", f"ROOT=../{place}", f"SKETCHES=../{place}/sketches")
    made = read_json(case.tree / "data/runs/own-photos/run.json")
    values = made["params"]["catalog"]
    assert (made["name"], values["dataset"], values["root"]) == ("own-photos", "folder", str(case.photos))
    figures = read_json(case.tree / "data/runs/own-photos/metrics/catalog.json")
    assert figures["images"]["folder"]["query"] == {"test": 10}
    assert {path: path.read_bytes() for path in before} == before
    assert case.run("git", "status", "--porcelain") == ""
    changed = json.loads(case.run("dvc", "params", "diff", "HEAD", "own-photos", "--json"))["params.yaml"]
    assert changed["name"] == {"old": "default", "new": "own-photos"}
