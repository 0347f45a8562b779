"""Runs of recipes: real DVC experiments of a pipeline whose stages only write down what they were asked to do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from experiments import run
from experiments.recipes import Recipes
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file, write_json
from tests.conftest import ROOT

# A stage leaves its name and all params in each of its outs; training takes as long as it is told.
SCRIPT = """
import json, pathlib, sys, time, yaml
stage, *outs = sys.argv[1:]
params = yaml.safe_load(open("params.yaml"))
with open(params["report"]["log"], "a") as log: log.write(stage + "\\n")
if stage == "train" and params["train"]["momentum"] == 0.5: time.sleep(60)
for out in map(pathlib.Path, outs):
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.suffix:
        out.mkdir(exist_ok=True)
        out = out / "part.json"
    out.write_text(json.dumps({"stage": stage, "params": params}))
"""
STAGES: dict[str, tuple[list[str], list[str], list[str]]] = {  # params, deps, outs
    "catalog": (["catalog"], ["${catalog.root}"], ["data/catalog.parquet"]),
    "patches": (["patches"], ["data/catalog.parquet"], ["data/pairs", "data/patches"]),
    "train": (["train"], ["data/patches"], ["data/model"]),
    "index": (["name", "index"], ["data/model"], ["data/index", "data/run.json"]),
    "baselines": (["baselines"], ["data/model"], ["data/baselines"]),
    "evaluate": (["evaluate"], ["data/baselines", "data/index"], ["metrics/headline.json"]),
    "report": (["report"], ["data/index"], ["metrics/pictures"]),
}


def pipeline() -> dict[str, Any]:
    stages: dict[str, Any] = {}
    for name, (params, deps, outs) in STAGES.items():
        command = f"python stage.py {name} {' '.join(outs)}"
        stages[name] = {"cmd": command, "params": params, "deps": deps, "outs": outs}
    stages["evaluate"]["metrics"] = [{out: {"cache": False}} for out in stages["evaluate"].pop("outs")]
    stages["report"]["outs"] = [{out: {"cache": False}} for out in stages["report"]["outs"]]
    return {"stages": stages}


class Tree:
    """A copy of the program with that pipeline, in a git repository of its own."""

    def __init__(self, home: Path) -> None:
        self.root, self.log = home / "tree", home / "stages.log"
        self.root.mkdir(parents=True)
        unlike = shutil.ignore_patterns("__pycache__", "tmp", "cache")
        for part in ("experiments", "recipes", "pipeline_lib", "tools", ".dvc"):
            shutil.copytree(ROOT / part, self.root / part, ignore=unlike)
        for part in (".gitignore", ".dvcignore", "requirements-data.txt"):
            shutil.copy2(ROOT / part, self.root / part)
        (self.root / "stage.py").write_text(SCRIPT, encoding="utf-8")
        (self.root / "dvc.yaml").write_text(yaml.safe_dump(pipeline(), sort_keys=False), encoding="utf-8")
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["report"]["log"] = str(self.log)
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        # Neither git's settings nor a name for its commits, as on a fresh machine.
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "DVC_"))}
        self.env = {**plain, "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "DVC_SITE_CACHE_DIR": str(home / "site")}

    def git(self, *arguments: str) -> str:
        author = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
        command = ["git", *author, *arguments]
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=True).stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "experiments.run", *arguments]
        out = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.root, env=self.env, stdout=out, stderr=subprocess.STDOUT, text=True)

    def run(self, *arguments: str, code: int = 0) -> str:
        running = self.start(*arguments)
        said, _ = running.communicate(timeout=300)
        assert running.returncode == code, said
        return said

    def ran(self) -> list[str]:
        """Stages that ran since the last call."""
        stages = self.log.read_text(encoding="utf-8").split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return stages

    def files(self) -> list[str]:
        """Of the run `source`."""
        folder = self.root / "data" / "runs" / "source"
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def params(self, part: str = "run.json") -> dict[str, Any]:
        """What a stage of the run `source` was asked for."""
        found: dict[str, Any] = json.loads((self.root / "data" / "runs" / "source" / part).read_text("utf-8"))["params"]
        return found


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(tmp_path)
    # The report's log is a key of this pipeline alone.
    path = made.root / "pipeline_lib" / "params.py"
    text = path.read_text(encoding="utf-8")
    assert text.count("class Report(Section):") == 1
    path.write_text(text.replace("    queries: int = Field(ge=1, le=100)", "    log: str\n    queries: int"), "utf-8")
    made.git("init", "--quiet")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "program")
    monkeypatch.setattr(run, "ROOT", made.root)
    return made


def test_a_run_is_an_experiment_that_is_published_and_leaves_the_tree_as_it_was(tree: Tree) -> None:
    said = tree.run("source")
    assert sorted(tree.ran()) == sorted(STAGES)
    whole = ["baselines/part.json", "catalog.parquet", "index/part.json", "metrics/headline.json"]
    assert tree.files() == [*whole, "metrics/pictures/part.json", "model/part.json", "pairs/part.json", "run.json"]
    params = tree.params()
    assert (params["name"], params["train"]["fc6"], params["train"]["objectives"]["contrast"]) == ("source", 4096, 0.0)
    assert tree.git("status", "--porcelain") == "?? metrics/\n"
    kept = sorted(path.name for path in (tree.root / "metrics" / "source").iterdir())
    assert kept == ["headline.json", "pictures"]
    assert not (tree.root / "data" / "model").exists()
    assert f"run: {tree.root / 'data/runs/source'}" in said
    assert [line.split()[1:] for line in said.splitlines() if "train.fc6 " in line] == [["train.fc6", "512", "4096"]]

    # Again, with another last stage: what is finished is taken from the run cache, what was not asked for is not there.
    said = tree.run("source", "--set", "index.kind=exact", "--targets", "index")
    assert tree.ran() == ["index"]
    assert tree.files() == ["catalog.parquet", "index/part.json", "model/part.json", "pairs/part.json", "run.json"]
    assert tree.params()["index"]["kind"] == "exact"
    # A variation of a recipe is not the recipe: git keeps the metrics of that.
    assert "metrics: none for git" in said
    assert (tree.root / "metrics" / "source" / "pictures").is_dir()


def test_a_run_that_is_stopped_says_how_to_go_on_and_leaves_the_older_one(tree: Tree) -> None:
    old = tree.root / "data" / "runs" / "source" / "run.json"
    write_json(old, {"old": True})
    running = tree.start("source", "--set", "train.momentum=0.5")
    waited = time.monotonic() + 120
    while "train" not in (tree.log.read_text(encoding="utf-8") if tree.log.exists() else ""):
        assert time.monotonic() < waited
        time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stopped; the same command again goes on where it stopped (make run RECIPE=source" in said
    assert json.loads(old.read_text(encoding="utf-8")) == {"old": True}
    assert tree.git("status", "--porcelain") == ""
    assert tree.ran() == ["catalog", "patches", "train"]
    tree.run("source", "--targets", "index")
    assert tree.ran() == ["train", "index"]
    assert tree.params()["train"]["momentum"] == 0.9


def test_two_recipes_are_made_side_by_side_and_private_photos_stay_out_of_git(tree: Tree, tmp_path: Path) -> None:
    photos = tmp_path / "it's mine, [all]"
    photos.mkdir()
    (photos / "photo.jpg").write_bytes(b"photo")
    running = [tree.start("source"), tree.start("own-photos", "--root", str(photos), "--sketches", "drawn")]
    for each in running:
        said, _ = each.communicate(timeout=300)
        assert each.returncode == 0, said
    own = json.loads((tree.root / "data" / "runs" / "own-photos" / "run.json").read_text("utf-8"))["params"]
    assert own["catalog"]["root"] == str(photos)
    assert own["catalog"]["sketches"] == str(tree.root / "drawn")
    assert tree.params()["catalog"]["dataset"] == "openmoji"
    assert [path.name for path in (tree.root / "metrics").iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["voc-sketchy"], "voc-sketchy needs ROOT=/path (--root): the folder that holds VOCdevkit/ and sketchy/"),
        (["own-photos"], "own-photos needs ROOT=/path (--root): the folder of your photos"),
        (["default"], "make it with `make repro`"),
        (["source", "--sketches", "x"], "SKETCHES (--sketches) goes with a folder of your own photos"),
        (["source", "--targets", "trian"], "there is no stage trian; stages are catalog, patches, train"),
        (["source", "--set", "train.epoch=3"], "--set: train.epoch is no key of params.yaml"),
        (["together", "--root", "x"], "data/runs/map-vgg16: there is no finished run"),
    ],
)
def test_what_can_not_be_run_is_told_at_once(tree: Tree, arguments: list[str], words: str) -> None:
    if arguments[0] == "together":
        words = words.replace("map-vgg16", "map")
    said = tree.run(*arguments, code=1)
    assert f"error: {said.removeprefix('error: ')}" == said
    assert words in said
    assert tree.ran() == []


def test_a_tree_without_a_commit_is_told(tree: Tree) -> None:
    shutil.rmtree(tree.root / ".git")
    assert "is no git repository with a commit, and a run is a DVC experiment" in tree.run("source", code=1)


def test_a_stage_that_fails_is_told_with_how_to_go_on(tree: Tree) -> None:
    (tree.root / "stage.py").write_text("raise SystemExit('no room')", encoding="utf-8")
    said = tree.run("source", code=1)
    assert "no room" in said
    assert "error: source is not finished: see the message above; the same command again goes on" in said


@given(
    st.recursive(
        st.text(st.characters(codec="ascii", min_codepoint=32, exclude_characters="$"))
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False),
        st.lists,
        max_leaves=4,
    )
)
def test_values_reach_params_yaml_as_they_are(value: object) -> None:
    override = OverridesParser.create().parse_override(f"++key={run.spelled(value)}")
    found = override.value()
    assert found == value
    assert type(found) is type(value)


Finish = Callable[..., Path]


@pytest.fixture
def finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finish:
    """Writes a finished run of a row, with some params changed."""
    monkeypatch.setattr(run, "RUNS", tmp_path)

    def write(name: str, **changes: Any) -> Path:
        recipes, folder = Recipes(), tmp_path / name
        root = run.absolute(name, recipes, {"catalog.root": str(tmp_path)})
        for part in run.outs_of(["index"]):  # of the real pipeline
            path = folder / part.removeprefix("data/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if not path.suffix else path.write_text("", encoding="utf-8")
        (folder / "model" / "encoder.safetensors").write_bytes(b"weights")
        params = recipes.params_of(name, {**root, **changes}).model_dump(mode="json")
        digest = digest_of_file(folder / "model" / "encoder.safetensors")
        write_json(folder / "run.json", {"name": name, "params": params, "weights": digest})
        return folder

    return write


@pytest.mark.parametrize(
    ("changes", "again"), [({}, False), ({"machine.workers": 3}, False), ({"train.epochs": 3}, True)]
)
def test_a_row_is_made_once_for_the_same_params(
    changes: dict[str, Any], again: bool, finish: Finish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def make(name: str, *_: object) -> Path:
        asked.append(name)
        return tmp_path / name

    monkeypatch.setattr(run, "make", make)
    finish("contrast", **changes)
    assert run.made("contrast", Recipes(), str(tmp_path), ["index"]).name == "contrast"
    assert asked == (["contrast"] if again else [])
    # Baselines were not asked for then.
    run.made("contrast", Recipes(), str(tmp_path), ["index", "baselines"])
    assert asked[-1:] == ["contrast"]


def test_a_run_that_takes_part_is_named_by_its_weights(finish: Finish, tmp_path: Path) -> None:
    folder = finish("map")
    root = {"catalog.root": str(tmp_path)}
    with pytest.raises(PipelineError, match="there is no finished run"):
        run.absolute("together", Recipes(), root)
    beside = {**root, "embed.beside": [str(folder)]}
    digest = digest_of_file(folder / "model" / "encoder.safetensors")
    found = run.absolute("together", Recipes(), beside)
    assert found["embed.beside"] == [f"{folder}@{digest[:16]}"]
    assert run.absolute("together", Recipes(), found) == found
