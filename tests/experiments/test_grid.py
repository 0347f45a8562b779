from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.grid import GRID, ROOT, changed, read_grid
from experiments.table import finished
from pipeline_lib.errors import PipelineError


def leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


def test_every_row_is_a_valid_setting_of_the_pipelines_own_params() -> None:
    grid = read_grid()
    known = leaves(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    for name in grid.order:
        row = grid.rows[name]
        assert set(row.set) <= known, name
        settings = grid.params_of(name).train
        for key, value in row.set.items():
            section, leaf = key.split(".")
            if section == "train":
                assert getattr(settings, leaf) == value, name


def test_no_two_rows_are_the_same_run() -> None:
    grid = read_grid()
    settings = [grid.params_of(name).model_dump_json() for name in grid.order]
    assert len(set(settings)) == len(settings)


def test_runs_that_carry_a_claim_have_three_seeds() -> None:
    grid = read_grid()
    runs: dict[tuple[str, str, bool], set[int]] = {}
    for name in grid.order:
        if grid.rows[name].group == "claim":
            train = grid.params_of(name).train
            runs.setdefault((train.domain, train.pretrained, train.batch_norm), set()).add(train.seed)
    claims = {("cross", pretrained, norm) for pretrained in ("none", "conv5") for norm in (False, True)}
    assert set(runs) == claims | {("edges", "none", False), ("photo", "conv5", False)}
    assert all(seeds == {0, 1, 2} for seeds in runs.values())


def test_the_grid_is_whole() -> None:
    grid = read_grid()
    runs = [grid.params_of(name) for name in grid.order if grid.rows[name].group in ("claim", "grid")]
    cells = {(run.train.domain, run.train.pretrained, run.train.batch_norm) for run in runs}
    levels = ["none", *(f"conv{number}" for number in range(1, 6)), "fc6"]
    assert cells == {(d, p, b) for d in ("cross", "photo", "edges") for p in levels for b in (True, False)}


def test_a_key_that_is_no_leaf_is_named() -> None:
    values = {"train": {"epochs": 1, "head": [2]}}
    assert changed(values, {"train.epochs": 3}, "x")["train"]["epochs"] == 3
    assert values["train"]["epochs"] == 1
    for key in ("train", "train.epoch", "train.epochs.more", "other.key"):
        with pytest.raises(PipelineError, match=f"x: {key} is no key"):
            changed(values, {key: 1}, "x")


def test_a_row_in_one_list_alone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    values = yaml.safe_load(GRID.read_text(encoding="utf-8"))
    values["order"].append("forgotten")
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(PipelineError, match="forgotten"):
        read_grid(path)


def test_dvc_makes_one_stage_of_each_row() -> None:
    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only", "experiments/dvc.yaml"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, encoding="utf-8")
    stages = [line.split()[0].rpartition("@")[2] for line in found.stdout.splitlines() if line.strip()]
    assert [name for name in stages if name in read_grid().rows] == read_grid().order


def test_a_row_that_dvc_can_not_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    values = yaml.safe_load(GRID.read_text(encoding="utf-8"))
    values["order"].append("rate-0.5")
    values["rows"]["rate-0.5"] = {"group": "ablation", "set": {"train.pretrained_rate": 0.5}}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(PipelineError, match=r"rate-0\.5: DVC reads a dot"):
        read_grid(path)


def test_what_is_made_is_not_made_again() -> None:
    command = [sys.executable, "-m", "dvc", "status", "--json", "experiments/dvc.yaml"]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    made = {row["name"] for row in finished(read_grid()) if "skipped" not in row}
    assert made
    assert not made & {stage.rpartition("@")[2] for stage in found}


def test_an_unknown_row_is_answered_with_the_rows_there_are() -> None:
    command = [sys.executable, "-m", "experiments.cell", "nothing"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, encoding="utf-8")
    assert found.returncode == 1
    assert "there is no row nothing" in found.stderr
    assert "cross-conv5-bn-s0" in found.stderr
