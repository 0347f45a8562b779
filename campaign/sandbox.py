"""Small runs to harm: a copy of the program with a few drawn photos, and its commands in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import psutil  # type: ignore[import-untyped]
from PIL import Image

from pipeline_lib.files import SEAL, read_yaml
from tests.conftest import scene
from tests.pipeline.support import Case, processes_of, set_params, small_case

DRAWFIND: Final = (sys.executable, "-m", "pipeline_lib.search")
HANGS: Final = 120.0
"""Seconds; no command here takes a tenth of it on idle cores."""
TIMES: Final = frozenset({"seconds", SEAL})
"""Keys of records that differ between two runs of the same: the time that it took, and the digest that holds it."""
MEMORY: Final = 2 << 30
"""Bytes that a limited command may take."""


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int | None  # its exit status; None for one that hung and was ended
    words: str  # what it said on both streams

    @property
    def fault(self) -> str:
        """Why it is no success; "" where it is one."""
        if self.code == 0:
            return ""
        last = " | ".join(self.words.strip().splitlines()[-3:])
        return f"{'it hung' if self.code is None else f'exit status {self.code}'}: {last[-600:]}"


class Command:
    """A command that runs in a session of its own, so that all that it starts can be ended with it."""

    def __init__(self, words: Sequence[str | Path], cwd: Path, env: Mapping[str, str]) -> None:
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`; a pipe would block it
        self.process = subprocess.Popen(
            [str(word) for word in words],
            cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def children(self) -> list[psutil.Process]:
        """The processes that it has started, at any depth."""
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.process.pid).children(recursive=True))
        return []

    def kill(self) -> None:
        """Kills it, and nothing that it has started."""
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """Kills it and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self, seconds: float = HANGS) -> Said:
        """Waits until it has ended; one that hangs is killed."""
        code: int | None
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            self.kill_all()
        self._output.seek(0)
        words = self._output.read().decode("utf-8", "replace")
        self._output.close()
        return Said(code, words)


def ran(words: Sequence[str | Path], cwd: Path, env: Mapping[str, str], seconds: float = HANGS) -> Said:
    """Runs a command to its end."""
    return Command(words, cwd, env).end(seconds)


def limited(words: Sequence[str | Path], bytes_: int = MEMORY) -> list[str]:
    """A command that gets no more than some bytes of memory of its own: an allocation beyond them fails."""
    code = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_DATA, ({bytes_}, {bytes_})); "
    return [sys.executable, "-c", f"{code}os.execv(sys.argv[1], sys.argv[1:])", *map(str, words)]


def wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Whether something happens within some seconds."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def left_running(env: Mapping[str, str], seconds: float = 10.0) -> int:
    """How many processes of an environment still run after some seconds; they are ended then."""
    if wait_until(lambda: not processes_of(env), seconds):
        return 0
    left = processes_of(env)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return len(left)


def stage_command(tree: Path, name: str) -> list[str]:
    """The script of a stage."""
    return [sys.executable, str(tree / "stages" / f"{name}.py")]


def stage_outs(tree: Path, name: str) -> list[Path]:
    """What a stage writes."""
    stage = read_yaml(tree / "dvc.yaml")["stages"][name]
    items = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [tree / (next(iter(item)) if isinstance(item, dict) else item) for item in items]


def contents(*places: Path) -> dict[str, str]:
    """Digest of each file at or below some places; of a record in JSON, without the times that it tells."""
    found = {}
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file():
                found[f"{place.name}/{path.relative_to(place).as_posix()}"] = _digest(path)
    return found


def _digest(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".json":
        data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in TIMES}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The names of files that two states do not share; "" where they are the same."""
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    return f"differs in {', '.join(names[:5])}" if names else ""


def leftovers(*places: Path) -> str:
    """Unfinished files below some places; "" where there are none."""
    names = [path.name for place in places for path in place.rglob("*.tmp")]
    return f"left {', '.join(sorted(names)[:5])}" if names else ""


def replace_tree(source: Path, to: Path) -> None:
    """Makes a folder the copy of another."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to, symlinks=True)


def made_case(top: Path, stages: Sequence[str], changes: Mapping[str, Any] | None = None, photos: int = 16) -> Case:
    """A copy of the program in which some stages have run on a few photos.

    Raises:
        RuntimeError: a stage failed: nothing can be shown then.
    """
    case = small_case(top, photos=photos, sketches=4)
    set_params(case.tree, changes or {})
    for name in stages:
        said = ran(stage_command(case.tree, name), top, case.env)
        if said.fault:
            raise RuntimeError(f"stage {name}: {said.fault}")
    return case


def draw(folder: Path, numbers: Sequence[int]) -> Path:
    """Fills a folder with photos, each named by its number, which also decides what it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(scene(number, (200, 240))).save(folder / f"{number:03d}.jpg", quality=90)
    return folder


def index_command(photos: Path, place: Path, *options: str | Path) -> list[str]:
    """`drawfind index`, with the model that comes with the program."""
    return [*DRAWFIND, "index", str(photos), "--index", str(place), *map(str, options)]


def must(said: Said) -> Said:
    """What a command said that has to succeed, before anything is harmed."""
    if said.fault:
        raise RuntimeError(said.fault)
    return said
