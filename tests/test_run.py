"""A run folder explains itself, and says so when it can't."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib import params, run
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file, read_sealed, write_json
from pipeline_lib.run import Run

Make = Callable[..., params.Params]


@pytest.fixture
def made(make_params: Make, tmp_path: Path) -> Run:
    """A finished run with something in place of weights."""
    found = Run(tmp_path / "data", make_params({"name": "small", "train.epochs": 3, "embed.threads": 5}), tmp_path)
    found.model.mkdir(parents=True)
    found.weights.write_bytes(b"weights")
    found.write_record(data="digest of the images", threads={"train": 2, "embed": 5})
    return found


def test_a_finished_run_is_opened_from_its_folder_alone(made: Run, tmp_path: Path) -> None:
    moved = shutil.move(made.folder, tmp_path / "elsewhere" / "any-name")
    opened = Run.open(Path(moved), tmp_path)
    assert opened.params == made.params
    assert (opened.name, opened.root) == ("small", tmp_path)
    assert opened.weights.read_bytes() == b"weights"
    places = (opened.model, opened.weights, opened.embeddings, opened.index, opened.catalog, opened.pairs)
    assert all(place.is_relative_to(moved) for place in places)
    assert len(set(places)) == len(places)


def test_the_record_tells_what_the_run_was_made_from_and_on(made: Run) -> None:
    record = read_sealed(made.folder / "run.json")
    assert record == Run.open(made.folder).record
    assert params.parse(record["params"]) == made.params
    expected = {"name": "small", "weights": digest_of_file(made.weights), "data": "digest of the images"}
    assert record.items() >= expected.items()
    assert record["threads"] == {"train": 2, "embed": 5}
    assert record["versions"]["python"] == platform.python_version()
    assert {"torch", "numpy", "pyarrow"} <= record["versions"].keys()
    assert record["processor"]
    assert record["commit"] == "unknown"  # a temporary folder is no part of a repository


def test_a_run_that_is_not_finished_has_no_record_and_says_how_to_make_one(made: Run) -> None:
    assert replace(made).record == {}
    (made.folder / "run.json").unlink()
    with pytest.raises(PipelineError, match=r"there is no finished run \(run\.json is missing\); make it with `make"):
        Run.open(made.folder)


def test_weights_that_have_changed_since_are_refused(made: Run) -> None:
    made.weights.write_bytes(b"other weights")
    found, told = digest_of_file(made.weights)[:12], read_sealed(made.folder / "run.json")["weights"][:12]
    with pytest.raises(PipelineError, match=rf"SHA-256 is {found}\.\.\., but run\.json says {told}\.\.\."):
        Run.open(made.folder)
    made.weights.unlink()
    with pytest.raises(PipelineError, match=r"encoder\.safetensors: can't be read"):
        Run.open(made.folder)


@pytest.mark.parametrize("record", [[], {}, {"params": {}}, {"weights": "0"}, "text", None])
def test_what_is_no_record_is_named(made: Run, record: object) -> None:
    write_json(made.folder / "run.json", record)
    with pytest.raises(PipelineError, match=r"run\.json: is no record of a run; make the run again"):
        Run.open(made.folder)


def test_a_record_that_is_cut_is_named(made: Run) -> None:
    path = made.folder / "run.json"
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(PipelineError, match=r"run\.json: can't be read"):
        Run.open(made.folder)


def change(made: Run, section: str, values: dict[str, Any], *drop: str) -> None:
    """Edits a section of the params in a run's record."""
    record = read_sealed(made.folder / "run.json")
    record["params"][section] |= values
    for key in drop:
        del record["params"][section][key]
    write_json(made.folder / "run.json", record)


def test_an_older_record_that_lacks_later_keys_opens_with_their_defaults(made: Run) -> None:
    change(made, "train", {}, "objectives", "fc6_grid", "frozen")
    change(made, "embed", {}, "beside", "facing", "apart", "layers")
    change(made, "retrieval", {}, "diversity")
    opened = Run.open(made.folder)
    assert opened.params.train.objectives == {"context": 1.0}
    assert (opened.params.train.fc6_grid, opened.params.train.frozen) == (0, "none")
    assert (opened.params.embed.layers, opened.params.embed.runs) == ("fc6", [])
    assert opened.params.train.epochs == 3


@pytest.mark.parametrize(
    ("section", "values", "drop", "words"),
    [
        ("train", {}, ["epochs"], r"train\.epochs: Field required"),
        ("train", {"encoder": "transformer"}, [], r"train\.encoder: transformer is unknown"),
        ("embed", {"fc6_input": "slide"}, [], r"embed\.fc6_input: unknown key"),
    ],
)
def test_params_of_a_record_that_can_not_be_used_are_named(
    made: Run, section: str, values: dict[str, Any], drop: list[str], words: str
) -> None:
    change(made, section, values, *drop)
    with pytest.raises(PipelineError, match=rf"run\.json can't be used:\n  {words}"):
        Run.open(made.folder)


def test_a_commit_bears_a_plus_where_code_differs_and_none_for_other_params(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=tests", "-c", "user.email=tests@example.org", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    code, values = tmp_path / "pipeline_lib" / "module.py", tmp_path / "params.yaml"
    code.parent.mkdir()
    (tmp_path / "stages").mkdir()
    for file in (code, values, tmp_path / "stages" / "train.py"):
        file.write_text("one\n", encoding="utf-8")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    name = git("rev-parse", "--short=12", "HEAD")
    assert run.commit(tmp_path) == name
    values.write_text("another\n", encoding="utf-8")
    assert run.commit(tmp_path) == name
    code.write_text("another\n", encoding="utf-8")
    assert run.commit(tmp_path) == name + "+"


def test_where_git_is_not_installed_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run.commit(tmp_path) == "unknown"


def test_a_run_is_opened_without_loading_torch_or_faiss() -> None:
    code = "import sys, pipeline_lib.run, pipeline_lib.params; print(*sys.modules)"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not {"torch", "faiss", "cv2", "numpy"} & set(done.stdout.split())
