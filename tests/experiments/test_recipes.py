"""Recipes: valid params, one name each, one sentence each; and the ablation's rows are the whole grid."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.recipes import ABLATION, DEFAULT, RECIPES, ROOT, Recipes, changed
from experiments.run import records_of
from experiments.table import ROWS
from pipeline_lib.errors import PipelineError
from pipeline_lib.params import Params, parse

FOLDER = "folder that holds VOCdevkit/ and sketchy/"


@pytest.fixture(scope="module")
def recipes() -> Recipes:
    return Recipes()


def runnable(recipes: Recipes) -> list[str]:
    return [name for name in recipes.all if not name.startswith("_")]


def leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


def value_of(params: Params, key: str) -> object:
    found: Any = params.model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    return found


def test_every_recipe_is_a_valid_setting_of_the_pipelines_own_params(recipes: Recipes) -> None:
    known = leaves(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    for name in runnable(recipes):
        assert set(recipes[name].set) <= known, name
        params = recipes.params_of(name)
        assert params.name == name
        for key, value in recipes.changes(name).items():
            assert value_of(params, key) == value, (name, key)


def test_every_recipe_says_in_one_sentence_what_it_is_about(recipes: Recipes) -> None:
    for name, recipe in recipes.all.items():
        assert re.fullmatch(r"\S[^\n]*\.", recipe.about), name


def test_the_default_is_params_yaml_itself(recipes: Recipes) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert recipes.changes(DEFAULT) == {}
    assert recipes.params_of(DEFAULT) == parse(values)


def test_no_two_rows_of_the_ablation_are_the_same_run(recipes: Recipes) -> None:
    settings = [recipes.params_of(name).model_dump_json(exclude={"name"}) for name in recipes.rows(ABLATION)]
    assert len(set(settings)) == len(settings)


def test_runs_that_carry_a_claim_have_three_seeds(recipes: Recipes) -> None:
    runs: dict[tuple[str, str, bool], set[int]] = {}
    for name in recipes.rows(["claim"]):
        train = recipes.params_of(name).train
        runs.setdefault((train.domain, train.pretrained, train.batch_norm), set()).add(train.seed)
    claims = {("cross", pretrained, norm) for pretrained in ("none", "conv5") for norm in (False, True)}
    assert set(runs) == claims | {("edges", "none", False), ("photo", "conv5", False)}
    assert all(seeds == {0, 1, 2} for seeds in runs.values())


def test_the_grid_is_whole(recipes: Recipes) -> None:
    runs = [recipes.params_of(name) for name in recipes.rows(["claim", "grid"])]
    cells = {(run.train.domain, run.train.pretrained, run.train.batch_norm) for run in runs}
    levels = ["none", *(f"conv{number}" for number in range(1, 6)), "fc6"]
    assert cells == {(d, p, b) for d in ("cross", "photo", "edges") for p in levels for b in (True, False)}


def test_every_row_of_the_study_is_a_run_on_voc_and_sketchy(recipes: Recipes) -> None:
    for name in recipes.rows(["study"]):
        assert recipes.params_of(name).catalog.dataset == "voc_sketchy"


@pytest.mark.parametrize(("name", "row"), [("best", "best"), ("best", "conv4")])
def test_a_recipe_for_users_trains_and_embeds_as_its_row_does(recipes: Recipes, name: str, row: str) -> None:
    sections = {"patches", "train", "contrast", "embed"}
    ours, theirs = (recipes.params_of(each).model_dump(include=sections) for each in (name, row))
    # Rows run on one thread, so that two of them share a machine.
    for params in (ours, theirs):
        del params["train"]["threads"], params["embed"]["threads"]
    assert ours.pop("embed") == theirs.pop("embed") | ({"apart": True} if row == "conv4" else {})
    assert ours == theirs


def test_recipes_for_users_ask_for_their_images(recipes: Recipes) -> None:
    asked = {name: recipes[name].root for name in runnable(recipes) if recipes.places[name].parent == RECIPES}
    assert {name for name, root in asked.items() if not root} == {"default", "source"}
    assert {root for name, root in asked.items() if root and name != "own-photos"} == {f"the {FOLDER}"}


def test_rows_stand_in_the_order_of_the_tables_and_unlisted_ones_last(recipes: Recipes, tmp_path: Path) -> None:
    listed = yaml.safe_load((ROOT / "experiments" / "order.yaml").read_text(encoding="utf-8"))
    assert recipes.rows(ABLATION) == listed["ablation"]
    assert recipes.rows(["study"]) == listed["study"]
    folder = copied(tmp_path)
    for name in ("zebra", "aardvark"):
        write(folder / "study" / f"{name}.yaml", {"about": "New.", "from": "map", "group": "study"})
    assert Recipes(folder).rows(["study"]) == [*listed["study"], "aardvark", "zebra"]


def test_a_row_whose_record_is_there_is_not_made_again(recipes: Recipes) -> None:
    made = [row["name"] for row in records_of(recipes, ABLATION, ROWS) if "skipped" not in row]
    assert made == [name for name in recipes.rows(ABLATION) if name in made]
    assert len(made) == 78


def test_a_key_that_is_no_leaf_is_named() -> None:
    values = {"train": {"epochs": 1, "head": [2]}}
    assert changed(values, {"train.epochs": 3}, "x")["train"]["epochs"] == 3
    assert values["train"]["epochs"] == 1
    for key in ("train", "train.epoch", "train.epochs.more", "other.key"):
        with pytest.raises(PipelineError, match=f"x: {key} is no key"):
            changed(values, {key: 1}, "x")


def copied(tmp_path: Path) -> Path:
    shutil.copytree(RECIPES, tmp_path / "recipes")
    return tmp_path / "recipes"


def write(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"about": "New.", "set": {"train.epoch": 3}}, r"new\.yaml: train\.epoch is no key of params\.yaml"),
        ({"about": "New.", "set": {"train.epochs": 0}}, r"new\.yaml can't be used:\n  train\.epochs"),
        ({"about": "New.", "from": "nothing"}, r"new\.yaml: from: names no recipe: nothing"),
        ({"about": "New.", "from": "new"}, r"new\.yaml: from: leads back to new"),
    ],
)
def test_what_is_wrong_is_told_with_its_file_and_key(content: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    write(folder / "new.yaml", content)
    with pytest.raises(PipelineError, match=words):
        Recipes(folder).params_of("new")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"set": {}}, r"new\.yaml: about: Field required"),
        ({"about": "New.", "sets": {}}, r"new\.yaml: sets: Extra inputs"),
        ({"about": "New.", "group": "other"}, r"new\.yaml: group: Input should be"),
        ([1], r"new\.yaml: whole file: Input should be"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_with_its_key(content: object, words: str, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    write(folder / "new.yaml", content)
    with pytest.raises(PipelineError, match=words):
        Recipes(folder)


def test_a_loop_over_several_recipes_is_told(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    for name, base in (("one", "two"), ("two", "three"), ("three", "one")):
        write(folder / f"{name}.yaml", {"about": "New.", "from": base})
    with pytest.raises(PipelineError, match=r"three\.yaml: from: leads back to one"):
        Recipes(folder).params_of("one")


@pytest.mark.parametrize("name", ["best", "comparison"])
def test_a_name_that_is_taken_is_refused(name: str, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    write(folder / "study" / f"{name}.yaml", {"about": "Again."})
    with pytest.raises(PipelineError, match=rf"{name}\.yaml: .*{name}.* has the same name; rename the recipe"):
        Recipes(folder)


def test_a_recipe_costs_one_file(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    write(folder / "wider.yaml", {"about": "A wider fc6.", "from": "source", "set": {"train.fc6": 8192}})
    params = Recipes(folder).params_of("wider")
    assert (params.name, params.train.fc6, params.train.weight("contrast")) == ("wider", 8192, 0)


@pytest.mark.parametrize("module", ["run", "study"])
@pytest.mark.parametrize("name", ["nothing", "_study"])
def test_an_unknown_recipe_is_answered_with_those_there_are(module: str, name: str) -> None:
    command = [sys.executable, "-m", f"experiments.{module}", name]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, encoding="utf-8")
    assert found.returncode == 1
    assert f"there is no recipe {name}" in found.stderr
    assert "recipes are best, default, default-sketchy, dinov2, own-photos, photos, source, voc-sketchy" in found.stderr
    assert "cross-conv5-bn-s0" in found.stderr
    assert "_study," not in found.stderr
