"""The tree keeps the shape that docs/architecture.md promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline_lib.closure import imported_files
from tests.pipeline.support import ROOT, STAGES, tracked_files

# It changes how fast a stage is, or how little a stop costs, but not one bit of its results.
FREE = {"machine"}
DVC_LINES = 200
LIBRARY = sorted((ROOT / "pipeline_lib").rglob("*.py"))
TEXT = {".py", ".yaml", ".yml", ".toml", ".md", ".txt", ".cfg", ".json", ".csv", ".lock", ""}


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert isinstance(loaded, dict)
    return loaded


def names_of(items: list[Any]) -> list[str]:
    """Outs and their kin are names, or a name with settings."""
    return [next(iter(item)) if isinstance(item, dict) else item for item in items]


def source_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_the_stages_stand_in_the_order_in_which_data_flows(stages: dict[str, Any]) -> None:
    assert tuple(stages) == STAGES
    made: set[str] = {"${catalog.root}"}
    for name, stage in stages.items():
        assert stage["cmd"] == f"python stages/{name}.py"
        assert stage["desc"].strip()
        data = {dep for dep in stage["deps"] if not dep.startswith(("pipeline_lib/", "stages/"))}
        assert data <= made, f"{name} reads what no stage before it makes: {data - made}"
        made |= set(names_of([*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]))


def test_metrics_and_plots_are_kept_by_git_and_artefacts_by_dvc(stages: dict[str, Any]) -> None:
    for stage in stages.values():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                (place,) = names_of([out])
                by_git = isinstance(out, dict) and out[place].get("cache") is False
                assert by_git == place.startswith("metrics/"), place
                assert by_git or place.startswith("data/"), place


def test_the_pipeline_can_be_read_at_a_glance() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= DVC_LINES


def room_of(file: str) -> str:
    """The folder of a library file that lies in one; any other file itself."""
    parts = file.split("/")
    return "/".join(parts[:2])


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_rooms_that_it_imports(name: str, stages: dict[str, Any]) -> None:
    listed = [dep for dep in stages[name]["deps"] if dep.startswith(("pipeline_lib/", "stages/"))]
    imported = {room_of(file) for file in imported_files(ROOT / "stages" / f"{name}.py", ROOT)}
    assert listed == sorted(imported)


def test_stages_name_whole_sections_and_every_section_that_matters_is_named(
    stages: dict[str, Any], defaults: dict[str, Any]
) -> None:
    named: set[str] = set()
    for name, stage in stages.items():
        assert len(stage["params"]) == len(set(stage["params"])), name
        named |= set(stage["params"])
    assert named == defaults.keys() - FREE


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_names_the_params_that_its_script_reads(
    name: str, stages: dict[str, Any], defaults: dict[str, Any]
) -> None:
    named = set(stages[name]["params"]) | FREE
    for node in ast.walk(source_of(ROOT / "stages" / f"{name}.py")):
        chain = _chain(node)
        if len(chain) > 1 and chain[0] == "params":
            assert chain[1] in defaults, chain
            assert chain[1] in named, chain


def _chain(node: ast.AST) -> list[str]:
    """The names of `a.b.c`; nothing for other expressions."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        before = _chain(node.value)
        return [*before, node.attr] if before else []
    return []


def test_every_module_says_what_it_is_for() -> None:
    for path in [*LIBRARY, *(ROOT / "stages").glob("*.py")]:
        assert ast.get_docstring(source_of(path)), path


OUTSIDE = {"os.environ", "os.environb", "os.getenv", "os.putenv", "os.getcwd", "os.getcwdb", "os.chdir", "Path.cwd"}


def outside_reads(module: ast.Module) -> list[str]:
    """Where code asks the environment, the working directory or a params file."""
    found = []
    for node in ast.walk(module):
        name = ".".join(_chain(node))
        if name in OUTSIDE or name.endswith((".Path.cwd", "os.environ")):
            found.append(name)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [f"os.{alias.name}" for alias in node.names if f"os.{alias.name}" in OUTSIDE]
        opened = [*node.args] if isinstance(node, ast.Call) else [node.right] if isinstance(node, ast.BinOp) else []
        texts = [part.value for part in opened if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        found += [text for text in texts if re.fullmatch(r"\S*params\.yaml", text)]
    return found


def test_the_check_for_outside_reads_finds_them() -> None:
    for code in (
        "import os\nx = os.environ['A']", "from os import getcwd", "from pathlib import Path\nPath.cwd()",
        "open('params.yaml')", "root / 'params.yaml'", "import pathlib\npathlib.Path.cwd()",
    ):  # fmt: skip
        assert outside_reads(ast.parse(code)), code
    assert outside_reads(ast.parse("def parse(values, source='params.yaml'): ...")) == []


def test_the_library_reads_no_environment_no_working_directory_and_no_params_file() -> None:
    found = {path.name: set(outside_reads(source_of(path))) for path in LIBRARY}
    # Where a user's data lie, whether there is a screen for a browser, what torchrun tells the processes it starts, and
    # how OpenMP's threads are to wait, which is said nowhere else.
    asked = {name: {"os.environ"} for name in ("own_record.py", "serve.py", "ranks.py", "__main__.py")}
    assert {name: reads for name, reads in found.items() if reads} == asked


@dataclass(frozen=True)
class Imported:
    """What importing some modules in a process of their own did: what it said, left in its folder and loaded."""

    said: str
    left: list[str]
    engines: set[str]


def import_alone(modules: list[str], cwd: Path) -> Imported:
    code = (
        f"import importlib, sys; sys.path[:0] = [{str(ROOT / 'stages')!r}, {str(ROOT)!r}]\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print('loaded', *(name for name in ('torch', 'faiss') if name in sys.modules))"
    )
    cwd.mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    *others, loaded = done.stdout.splitlines() or [""]
    return Imported(
        "\n".join([*others, done.stderr]).strip(), [path.name for path in cwd.iterdir()], set(loaded.split())
    )


@pytest.fixture(scope="module")
def imports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Imported]:
    """Every stage imported in a process of its own; under "rest" and "faiss" the modules that no stage imports."""
    seen = set().union(*(imported_files(ROOT / "stages" / f"{name}.py", ROOT) for name in STAGES))
    names = {path.relative_to(ROOT).as_posix() for path in LIBRARY if path.name != "__init__.py"}
    direct = {name for name in names if re.search(r"^import faiss", (ROOT / name).read_text("utf-8"), re.MULTILINE)}
    with_faiss = {name for name in names - seen if imported_files(ROOT / name, ROOT) & direct}
    parts = {"rest": names - seen - with_faiss, "faiss": with_faiss}
    work: dict[str, list[str]] = {name: [name] for name in STAGES}
    work |= {part: sorted(name.removesuffix(".py").replace("/", ".") for name in parts[part]) for part in parts}
    top = tmp_path_factory.mktemp("imports")
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(work, pool.map(lambda item: import_alone(item[1], top / item[0]), work.items()), strict=True))


@pytest.mark.parametrize("name", [*STAGES, "rest", "faiss"])
def test_importing_says_nothing_and_leaves_nothing(name: str, imports: dict[str, Imported]) -> None:
    assert (imports[name].said, imports[name].left) == ("", [])


def test_a_stage_loads_torch_or_faiss_but_never_both(imports: dict[str, Imported]) -> None:
    engines = {name: found.engines - {"loaded"} for name, found in imports.items()}
    torch, faiss = ("train", "embed", "baselines"), ("index", "evaluate")
    expected = {name: {"torch"} if name in torch else {"faiss"} if name in faiss else set() for name in STAGES}
    expected |= {"rest": {"torch"}, "faiss": {"faiss"}}  # search: all but the worker process
    assert engines == expected


def test_rooms_import_only_the_rooms_above_them() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* kept, 0 broken", done.stdout)


def test_no_file_names_a_place_on_the_machine_it_was_written_on() -> None:
    places = [f"/{name}/" for name in ("work", "root", "tmp/w", "home")]
    found: dict[str, str] = {}
    for name in tracked_files():
        path = ROOT / name
        if path.suffix in TEXT and path.name != "LICENSE":
            text = path.read_text(encoding="utf-8")
            found |= dict.fromkeys((place for place in places if re.search(rf"(?<![\w.~}}-]){place}", text)), name)
    assert found == {}


def test_every_requirement_is_pinned() -> None:
    files = [*ROOT.glob("requirements*.txt")]
    assert len(files) > 2
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split("#")[0].strip()
            if words and not words.startswith(("-r ", "-c ")):
                assert re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.+!]+( --hash=sha256:[0-9a-f]{64})?", words), line


def test_dvc_sends_no_analytics() -> None:
    config = ConfigParser()
    config.read(ROOT / ".dvc/config", encoding="utf-8")
    assert config["core"]["analytics"] == "false"
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text(encoding="utf-8").split()
