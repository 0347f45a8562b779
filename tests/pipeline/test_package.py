"""What reaches the person who searches: a small installation, one command, a package, an image."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.builders import wheel as wheels
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline_lib.search.__main__ import COMMANDS
from pipeline_lib.search.export import export
from tests.pipeline.support import ROOT, draw_photos, run, tracked_files
from tests.search.support import make_run
from tools import install

HEAVY = (
    "torch", "torchvision", "dvc", "matplotlib", "scipy", "skimage", "sklearn", "imagehash", "pandas", "onnx",
    "onnxscript",
)  # fmt: skip
WITHOUT = f"""
import sys
class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing)
"""
"""As where these packages are not installed."""
SEARCH = ("__main__", "api", "choice", "engine", "export", "find", "gallery", "index_photos", "serve", "service")
PACKAGED = (
    "pipeline_lib/",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "requirements.lock",
    ".gitignore",
)


def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return loaded


def requirements(name: str) -> list[Requirement]:
    """What a file asks for itself, without the files that it includes."""
    lines = (line.split(" #")[0].split(" --hash")[0].strip() for line in (ROOT / name).read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def test_searching_imports_nothing_that_only_training_needs() -> None:
    for modules in ([f"pipeline_lib.search.{name}" for name in SEARCH], ["pipeline_lib.index.worker"]):
        code = WITHOUT + f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    code = WITHOUT + f"from pipeline_lib.search.__main__ import main; main([{command!r}, '--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: drawfind {command} ")


def test_a_search_starts_without_the_libraries_of_the_page() -> None:
    code = "import sys; from pipeline_lib.search.__main__ import main\n"
    code += "try: main(['search', '--help'])\nexcept SystemExit: print('loaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"uvicorn", "fastapi", "torch"} & set(done.stdout.rpartition("loaded")[2].split())


def test_the_package_depends_on_what_the_requirements_say() -> None:
    light = {str(found) for found in requirements("requirements-search.txt")}
    rest = {str(found) for name in ("requirements.txt", "requirements-data.txt") for found in requirements(name)}
    assert {str(Requirement(text)) for text in project()["dependencies"]} == light
    assert {str(Requirement(text)) for text in project()["optional-dependencies"]["train"]} == rest
    assert "-r requirements-search.txt" in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()


def pins() -> dict[str, str]:
    return {name: each.lines.split()[0].partition("==")[2] for name, each in install.read().items()}


def brought_along(wanted: list[Requirement]) -> Iterator[tuple[str, str]]:
    """Names and versions of installed packages that requirements lead to, directly or not."""
    waiting = list(wanted)
    seen: set[tuple[str, str]] = set()
    while waiting:
        found = waiting.pop()
        name = canonicalize_name(found.name)
        for extra in {"", *found.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            try:
                package = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                continue  # an extra's, or another build's; its pin is checked by name
            yield name, package.version
            needed = (Requirement(text) for text in package.requires or ())
            waiting += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]


def test_every_package_of_a_working_environment_is_pinned() -> None:
    files = ("requirements-search.txt", "requirements.txt", "requirements-data.txt", "requirements-dev.txt")
    optional = [Requirement(text) for texts in project()["optional-dependencies"].values() for text in texts]
    wanted = [*(found for name in files for found in requirements(name)), *optional]
    wanted += [Requirement(text) for text in project()["dependencies"]]
    pinned = pins()
    for each in wanted:
        assert str(each.specifier) == f"=={pinned[canonicalize_name(each.name)]}", each
    found = dict(brought_along(wanted))
    found.pop("setuptools", None)  # comes with the environment, as Python's release has it
    assert {name: version for name, version in found.items() if pinned.get(name) != version} == {}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run as it is exported."""
    folder = tmp_path_factory.mktemp("exported") / "photos"
    export(make_run(tmp_path_factory.mktemp("run")), folder)
    return folder


@pytest.fixture(scope="module")
def installed(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of a copy of the repository that comes with the small model."""
    top = tmp_path_factory.mktemp("package")
    tree = top / "tree"
    for name in tracked_files():
        if name.startswith(PACKAGED):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    shutil.copytree(exported, tree / "models/photos")
    (wheel,) = wheels.WheelBuilder(str(tree)).build(directory=str(top), versions=["standard"])
    place = top / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place


def test_the_wheel_holds_the_page_the_model_and_one_command(installed: Path, exported: Path) -> None:
    page = {path.name for path in (ROOT / "pipeline_lib/search/page").iterdir()}
    assert {path.name for path in (installed / "pipeline_lib/search/page").iterdir()} == page
    box = installed / "pipeline_lib/box"
    kept = {path.relative_to(exported): path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    assert {path.relative_to(box): path.read_bytes() for path in box.rglob("*") if path.is_file()} == kept
    (entries,) = installed.glob("*.dist-info/entry_points.txt")
    assert "drawfind = pipeline_lib.search.__main__:main" in entries.read_text(encoding="utf-8")
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"pipeline_lib"}


def test_installed_it_finds_own_photos_with_its_model_and_without_torch(installed: Path, tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "own photos", 5, 2)
    drawing = photos / "sketches" / "photo 01.png"
    (installed / "sitecustomize.py").write_text(WITHOUT, encoding="utf-8")
    home = {"HOME": str(tmp_path / "home"), "XDG_DATA_HOME": str(tmp_path / "home/data")}
    env = {**os.environ, **home, "PYTHONPATH": str(installed)}
    drawfind = [sys.executable, "-c", "from pipeline_lib.search.__main__ import main; raise SystemExit(main())"]

    def call(*words: str | Path) -> tuple[int, str]:
        return run([*drawfind, *words], tmp_path, env=env)

    code, said = call("search", drawing)
    assert (code, "drawfind serve --photos FOLDER" in said) == (1, True), said
    code, said = call("index", photos, "--exclude", "sketches")
    assert (code, "5 photos" in said) == (0, True), said
    code, said = call("search", drawing, "--json")
    assert code == 0, said
    (found,) = json.loads(said)
    assert found["kind"] == "drawing"
    assert sorted(Path(hit["path"]) for hit in found["found"]) == sorted(photos.glob("*.jpg"))
    assert not (installed / "pipeline_lib/box/own_index").exists()


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Runs the real Makefile where `.venv/bin/python` only writes down what it is asked."""
    bin_, log = tmp_path / ".venv/bin", tmp_path / "log"
    bin_.mkdir(parents=True)
    for name in ("Makefile", *(path.name for path in ROOT.glob("requirements*"))):
        shutil.copy2(ROOT / name, tmp_path)
    (bin_ / "python").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$*\" >> {shlex.quote(str(log))}\n", encoding="utf-8")
    (bin_ / "python").chmod(0o755)
    (tmp_path / ".venv/.stamps").mkdir()
    (tmp_path / ".venv/.stamps/venv").touch()

    def call(*arguments: str) -> list[str]:
        log.unlink(missing_ok=True)
        code, said = run(["make", *arguments], tmp_path, env=dict(os.environ))
        assert code == 0, said
        return log.read_text(encoding="utf-8").splitlines()

    return call


def test_make_serve_installs_what_searching_needs_and_passes_on_what_it_is_told(make: Any) -> None:
    installing, serve = make("serve", "PHOTOS=/my photos", "EXCLUDE=*.gif", "INDEX=/i", "SHARE=1", "PORT=1", "AFRESH=1")
    assert installing == "tools/install.py requirements-search.txt"
    assert serve == (
        "-m pipeline_lib.search serve --photos /my photos --exclude *.gif --index /i --afresh --port 1 --share"
    )
    assert make("index", "PHOTOS=/p", "RUN=data") == ["-m pipeline_lib.search index /p --run data"]


def test_with_everything_installed_make_serve_installs_nothing_more(make: Any) -> None:
    steps = make("setup", "TORCH_INDEX=https://example.org/cpu")
    assert "tools/install.py requirements.txt --torch-index https://example.org/cpu" in steps
    assert make("serve", "HOST=::1", "GALLERY=own") == ["-m pipeline_lib.search serve --gallery own --host ::1"]


@pytest.mark.parametrize("target", ["repro", "run", "ablation", "study", "comparison", "bench"])
def test_a_folder_without_git_is_told_before_anything_is_installed(tmp_path: Path, target: str) -> None:
    shutil.copy2(ROOT / "Makefile", tmp_path)
    code, said = run(["make", target], tmp_path, env=dict(os.environ))
    assert code != 0
    assert "no git repository, which DVC needs" in said
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


def test_the_image_is_built_from_files_that_are_there_and_runs_a_command_that_exists() -> None:
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    needed = {"pyproject.toml", "pipeline_lib", "models/photos", project()["readme"], "LICENSE"}
    assert needed | {"tools/install.py", "requirements-search.txt", "requirements.lock"} <= kept
    assert all("--no-deps" in line for line in docker.splitlines() if "-m pip" in line)
    words = re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", docker, re.MULTILINE)
    entry, command = (json.loads(each) for each in words)
    assert entry == list(project()["scripts"])
    code = f"from pipeline_lib.search.__main__ import main; main([*{command!r}, '--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(option in done.stdout for option in command if option.startswith("--"))


def test_composed_the_image_finds_its_photos_and_may_write_to_its_index_alone() -> None:
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    (service,) = composed["services"].values()
    (words,) = map(json.loads, re.findall(r"^CMD (\[.*\])$", docker, re.MULTILINE))
    photos, index = (words[words.index(option) + 1] for option in ("--photos", "--index"))
    mounted = {volume.removesuffix(":ro").rsplit(":", 1)[1]: volume for volume in service["volumes"]}
    assert mounted.keys() == {photos, index}
    assert mounted[photos].endswith(":ro")
    assert mounted[index].split(":")[0] in composed["volumes"]
    assert service["read_only"]
    assert re.search(r"^USER (?!root)", docker, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", docker, re.MULTILINE)
    assert f"EXPOSE {service['ports'][0].rsplit(':', 1)[1]}" in docker


def test_the_citation_names_the_licence_and_the_works_that_the_method_comes_from() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["license"], cited["version"]) == (project()["license"], project()["version"])
    assert [author["name"] for author in project()["authors"]] == [author["name"] for author in cited["authors"]]
    method = " ".join((ROOT / "docs/method.md").read_text(encoding="utf-8").split())
    for work in cited["references"]:
        assert f"*{work['title']}*" in method
        assert str(work["year"]) in method
