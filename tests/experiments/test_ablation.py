"""Rows of the ablation: what is kept of a run, and what becomes of a row that can't be made here."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import ablation, table
from experiments.recipes import Recipes
from pipeline_lib.files import read_json, write_json
from pipeline_lib.run import Run

HISTORY = "epoch,learning_rate," + ",".join(ablation.CURVE[1:])


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rows are written; every row's run is already there."""

    def made(name: str, recipes: Recipes, root: str, targets: list[str]) -> Run:
        assert root == "/images"
        folder = tmp_path / "runs" / name
        meta = {"training_images": 1803, "start_weights": "none", "seconds": 12.5}
        write_json(folder / "model" / "meta.json", meta)
        (folder / "model" / "training.csv").write_text(f"{HISTORY}\n1,0.1,2.0,0.2,1.9,0.3,0.2\n", encoding="utf-8")
        write_json(folder / "targets.json", targets)
        return Run(folder, recipes.params_of(name), record={"commit": "abc"})

    monkeypatch.setattr(ablation, "made", made)
    monkeypatch.setattr(ablation, "measure", lambda run: {"pretext": {"of": run.name}})
    monkeypatch.setattr(table, "ROWS", tmp_path / "rows")
    return tmp_path


@pytest.mark.parametrize(("name", "before"), [("gap-16", False), ("cross-conv5-bn-s0", True)])
def test_a_row_keeps_its_record_and_its_curve_and_the_run_only_for_pictures(
    name: str, before: bool, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ablation.make(name, Recipes(), "/images")
    found: dict[str, Any] = read_json(rows / "rows" / f"{name}.json")
    committed = json.loads((Path(__file__).parents[2] / "metrics" / "ablation" / f"{name}.json").read_text("utf-8"))
    assert list(found) == [key for key in committed if key in found]
    assert set(committed) - set(found) == {"retrieval", "per_class", "minus", "domains"}
    same = (
        "name",
        "group",
        "set",
        "note",
        "dataset",
        "encoder",
        "domain",
        "pretrained",
        "batch_norm",
        "epochs",
        "seed",
    )
    assert {key: found[key] for key in same} == {key: committed[key] for key in same}
    assert (found["seconds"], found["commit"], found["pretext"]) == (12.5, "abc", {"of": name})
    monkeypatch.setattr(table, "ROWS", rows / "rows")
    assert table.history(name).to_dict("records") == [
        dict(zip(ablation.CURVE, (1, 2.0, 0.2, 1.9, 0.3, 0.2), strict=True))
    ]
    assert (rows / "runs" / name).exists() == before
    if before:
        assert read_json(rows / "runs" / name / "targets.json") == ["index", "baselines"]


def test_a_row_whose_weights_are_out_of_reach_says_so_in_its_file(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "lacking_weights", lambda _: "no weights here")
    ablation.make("cross-fc6-bn-s0", Recipes(), "/images")
    assert "cross-fc6-bn-s0: skipped, no weights here" in capsys.readouterr().out
    expected = {"name": "cross-fc6-bn-s0", "group": "grid", "skipped": "no weights here"}
    assert read_json(rows / "rows" / "cross-fc6-bn-s0.json") == expected
    assert table.history("cross-fc6-bn-s0").empty


def test_only_rows_that_start_from_fc6_can_lack_their_weights() -> None:
    assert ablation.lacking_weights(Recipes().params_of("gap-16")) == ""
    # A file that is not there is found out in a process of its own.
    missing = {"train.weights": "file", "train.weights_file": "nowhere.pth", "train.weights_sha256": "0" * 64}
    assert "nowhere.pth" in ablation.lacking_weights(Recipes().params_of("cross-fc6-bn-s0", missing))
