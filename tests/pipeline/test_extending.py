"""The worked examples of docs/extending.md, run together as they stand there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline.support import ROOT, SMALL, Case, copy_program, draw_photos, environment, run, set_params

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(?:python|yaml)\n# (?P<path>\S+?)(?:, in (?P<name>\w+))?\n(?P<text>.*?)```", re.DOTALL)
TOUCHED = {
    "data set": {"pipeline_lib/data/trio.py", "pipeline_lib/registry.py"},
    "encoder": {"pipeline_lib/models/small.py", "pipeline_lib/registry.py"},
    "objective of training": {"pipeline_lib/training/decorrelation.py", "pipeline_lib/registry.py"},
    "step of alignment": {"pipeline_lib/embedding/rooting.py", "pipeline_lib/registry.py"},
    "kind of index": {"pipeline_lib/index/kinds.py"},
    "system to compare with": {"pipeline_lib/baselines/thumbnails.py"},
    "recipe": {"recipes/small-trio.yaml"},
}
"""What each example touches; the numbers in the page's table."""
SYSTEM = """
import json, sys
from pathlib import Path
import numpy as np, yaml
from pipeline_lib.baselines.system import Image, system_modules
from pipeline_lib.baselines.thumbnails import SYSTEMS
from pipeline_lib.params import parse
settings = parse(yaml.safe_load(Path("params.yaml").read_text("utf-8")))
images = [Image(str(n), "", "", np.full((20, 30, 3), 60 * n, np.uint8)) for n in range(3)]
vectors = SYSTEMS[0].embedder(Path(), settings)(images, "photo")
print(json.dumps({"found": "thumbnails" in system_modules(), "shape": vectors.shape, "kind": str(vectors.dtype)}))
"""


def examples() -> dict[str, list[re.Match[str]]]:
    """The blocks of each section of the page, by its title without the article."""
    sections = re.split(r"^## An? ", PAGE, flags=re.MULTILINE)[1:]
    return {section.splitlines()[0]: list(BLOCK.finditer(section)) for section in sections}


def apply(block: re.Match[str], tree: Path) -> None:
    """Writes a new file, or puts lines into what the block names."""
    path, name, text = tree / block["path"], block["name"], block["text"]
    if name is None:
        assert not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    before = path.read_text(encoding="utf-8")
    opening = re.search(rf"^{name}: [^\n]*= {{\n", before, re.MULTILINE)
    assert opening, name
    path.write_text(before[: opening.end()] + text + before[opening.end() :], encoding="utf-8")


def test_each_example_touches_the_files_that_the_table_counts() -> None:
    found = {title: {block["path"] for block in blocks} for title, blocks in examples().items()}
    assert found == TOUCHED
    for title, files in TOUCHED.items():
        assert re.search(rf"^\| an? {title} \| {len(files)} \|", PAGE, re.MULTILINE), title


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A copy of the repository with all examples in it, and a run of the recipe's params on a few drawn photos."""
    top = tmp_path_factory.mktemp("extending")
    drawn = draw_photos(top / "drawn", 16, 6)
    photos = sorted(drawn.glob("*.jpg"))
    for part, chosen in (("train", photos[:10]), ("search", photos[10:]), ("drawn", [])):
        (top / "trio" / part).mkdir(parents=True)
        for path in chosen:
            shutil.move(path, top / "trio" / part / path.name)
    for number, path in enumerate(sorted((top / "trio/search").iterdir())):
        shutil.copy(drawn / "sketches" / f"photo {number:02d}.png", top / "trio/drawn" / f"{path.stem}.png")
    tree = copy_program(top / "repository")
    for blocks in examples().values():
        for block in blocks:
            apply(block, tree)
    recipe: dict[str, Any] = yaml.safe_load((tree / "recipes/small-trio.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((tree / "params.yaml").read_text(encoding="utf-8"))
    values["train"]["objectives"]["decorrelation"] = 0.0
    (tree / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    small = {**SMALL, **recipe["set"], "catalog.root": str(top / "trio"), "name": "small-trio", "index.dimension": 16}
    set_params(tree, small)
    case = Case(tree, top / "trio", environment(top / "home"))
    for name in ("catalog", "edges", "patches", "train", "embed", "index", "baselines", "evaluate"):
        case.stage(name)
    return case


def test_one_run_uses_every_example(extended: Case) -> None:
    made = json.loads((extended.tree / "data/run.json").read_text(encoding="utf-8"))
    assert made["name"] == "small-trio"
    history = (extended.tree / "data/model/training.csv").read_text(encoding="utf-8").splitlines()
    assert "decorrelation" in history[0].split(",")
    figures = json.loads((extended.tree / "metrics/retrieval.json").read_text(encoding="utf-8"))
    assert (figures["dataset"], figures["alignment"]) == ("trio", "pretext_rooted")
    assert (figures["queries"], figures["gallery"], figures["system"]) == (6, 6, "small-trio")
    compared = (extended.tree / "metrics/comparison.csv").read_text(encoding="utf-8")
    assert "small-trio+pretext_whitened" in compared


def test_a_system_is_found_and_embeds(extended: Case) -> None:
    code, said = run(["python", "-c", SYSTEM], extended.tree, env={**extended.env, "PYTHONPATH": str(extended.tree)})
    assert code == 0, said
    assert json.loads(said.splitlines()[-1]) == {"found": True, "shape": [3, 256], "kind": "float32"}


def test_the_rooms_still_import_only_what_is_above_them(extended: Case) -> None:
    shutil.copy(ROOT / "pyproject.toml", extended.tree)
    code, said = run(["lint-imports"], extended.tree, env=extended.env)
    assert code == 0, said
