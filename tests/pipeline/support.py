"""A small copy of the repository with a few drawn photos beside it, in which the real commands run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import yaml
from PIL import Image

from pipeline_lib import params
from pipeline_lib.pretext.edges import edge_map
from tests.conftest import scene

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml", "pipeline_lib/", "stages/")
IDENTITY = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
HANGS = 900.0  # seconds; a busy machine may take its time
STAGES = ("catalog", "edges", "patches", "train", "embed", "index", "baselines", "evaluate", "report")
SMALL: dict[str, Any] = {
    "catalog.dataset": "folder",
    "catalog.val_fraction": 0.25,
    "machine.workers": 1,
    "edges.short_side": 180,
    "edges.rows_per_shard": 10,
    "patches.size": 64,
    "patches.draws": 2,
    "train.pretrained": "none",
    "train.fc6": 32,
    "train.head": [16],
    "train.epochs": 1,
    "train.batch_images": 4,
    "train.precision": "fp32",
    "train.threads": 1,
    "train.device": "cpu",
    "train.bootstrap": 100,
    "contrast.batch_images": 4,
    "contrast.image_size": 64,
    "embed.image_size": 64,
    "embed.layers": "fc6",
    "embed.threads": 1,
    "baselines.image_size": 64,
    "baselines.hog_size": 64,
    "evaluate.bootstrap": 100,
    "report.queries": 2,
    "report.neighbours": 3,
}


def tracked_files(root: Path = ROOT) -> list[str]:
    """Files of the working tree that git holds or would hold, POSIX and relative to its root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in listed.split("\0") if name and (root / name).is_file())


def copy_program(to: Path) -> Path:
    """Copies what the pipeline needs, uncommitted changes included; no data, metrics or lock file."""
    for name in tracked_files():
        if name.startswith(PROGRAM):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def set_params(tree: Path, changes: Mapping[str, Any]) -> None:
    """Changes leaf keys of a tree's params.yaml, given as `{"train.epochs": 2}`."""
    path = tree / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[leaf] = value
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def draw_photos(folder: Path, photos: int = 24, sketches: int = 10) -> Path:
    """Fills a folder with photos of 200 x 240 px, and its folder `sketches` with drawings of the first of them."""
    folder.mkdir(parents=True)
    settings = params.parse(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))).edges
    for number in range(photos):
        picture = scene(number, (200, 240))
        Image.fromarray(picture).save(folder / f"photo {number:02d}.jpg", quality=95)
        if number < sketches:
            (folder / "sketches").mkdir(exist_ok=True)
            Image.fromarray(edge_map(picture, settings)).save(folder / "sketches" / f"photo {number:02d}.png")
    return folder


def environment(home: Path, **more: str) -> dict[str, str]:
    """What a fresh machine has: the program's own `python` and `dvc` first, and no settings of git or DVC."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_"))}
    return {
        **kept,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")]),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site"),
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def run(command: Sequence[str | Path], cwd: Path, *, env: Mapping[str, str]) -> tuple[int, str]:
    """Runs a command; returns its exit status and what it said on both streams. One that hangs is ended."""
    with subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as running:  # fmt: skip
        try:
            said, _ = running.communicate(timeout=HANGS)
        except subprocess.TimeoutExpired:
            for process in processes_of(env):
                process.kill()
            raise
    return running.returncode, said


def stage(tree: Path, name: str, *, env: Mapping[str, str]) -> tuple[int, str]:
    """Runs a stage script from a working directory that is not its tree."""
    return run([sys.executable, tree / "stages" / f"{name}.py"], tree.parent, env=env)


def commit(tree: Path, words: str, *, env: Mapping[str, str]) -> None:
    """Commits everything in a tree under a name that only this repository knows."""
    for command in (["git", "add", "-A"], ["git", *IDENTITY, "commit", "--quiet", "--allow-empty", "-m", words]):
        code, said = run(command, tree, env=env)
        assert code == 0, said


def processes_of(env: Mapping[str, str]) -> list[Any]:
    """Processes that run in an environment made by `environment`: its home is theirs alone."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == env["HOME"] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@dataclass(frozen=True)
class Case:
    """A copy of the repository, with what it runs on.

    Attributes:
        tree: root of the copy.
        photos: its data, beside it.
        env: environment of its commands.
        said: what the run that made it said.
    """

    tree: Path
    photos: Path
    env: dict[str, str]
    said: str = ""

    def run(self, *command: str | Path, succeeds: bool = True) -> str:
        """Runs a command in the tree; returns what it said on both streams."""
        code, said = run(command, self.tree, env=self.env)
        assert (code == 0) == succeeds, said
        return said

    def stage(self, name: str, *, succeeds: bool = True) -> str:
        """Runs a stage script from another folder; returns what it said on both streams."""
        code, said = stage(self.tree, name, env=self.env)
        assert (code == 0) == succeeds, said
        return said


def small_case(top: Path, *, photos: int = 24, sketches: int = 10) -> Case:
    """A fresh copy of the repository, photos beside it in a folder whose name needs quoting; nothing has run yet."""
    folder = draw_photos(top / "own photos", photos, sketches)
    tree = copy_program(top / "repository")
    changes = {"catalog.root": str(folder), "catalog.sketches": "sketches" if sketches else ""}
    set_params(tree, {**SMALL, **changes})
    return Case(tree, folder, environment(top / "home"))
