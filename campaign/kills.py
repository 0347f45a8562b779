"""Kills at random moments: afterwards the same command, run again, ends in what an undisturbed one makes."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow.parquet as pq

from benchmarks.timing import ROOT
from campaign.sandbox import (
    DRAWFIND,
    HANGS,
    Command,
    Said,
    contents,
    differences,
    draw,
    index_command,
    left_running,
    leftovers,
    made_case,
    must,
    ran,
    replace_tree,
    stage_command,
    stage_outs,
    wait_until,
)
from campaign.tally import Plan, Tally
from pipeline_lib.files import write_text
from tests.pipeline.support import Case, commit, environment, tracked_files
from tools.recover import DAMAGED

STAGES: Final = {"catalog": 6, "edges": 6, "patches": 6, "train": 8, "embed": 6, "index": 6}
"""How often each is killed."""
POOLS: Final = {"edges": 6, "patches": 8}
"""How often one of a stage's workers is."""
DVC: Final = {"patches": 4, "train": 4}
CUT: Final = 8
"""How often dvc.lock is cut, as `dvc` leaves it when it is killed while it writes that."""
INDEX: Final = {"first": 5, "update": 5, "afresh": 3, "worker": 4}
MAKE: Final = 3
CHANGES: Final[dict[str, Any]] = {
    "machine.workers": 2,
    "machine.checkpoint_seconds": 0.0,
    "edges.rows_per_shard": 3,
    "patches.draws": 8,
    "train.epochs": 3,
}
BUSY: Final = re.compile(r"another process|process \d+")
"""What a second process says where it does not wait for the first."""
SAME: Final = 2e-3
"""How far vectors may differ, as a share, that were computed in another company and kept in float16."""


def run(plan: Plan) -> Iterator[Tally]:
    """All kinds of kills."""
    folder = plan.folder("stages")
    case = made_case(folder, tuple(STAGES), CHANGES)
    whole = folder / "whole"
    shutil.copytree(case.tree / "data", whole)
    yield stages_killed(plan, case, whole)
    yield workers_killed(plan, case, whole)
    replace_tree(whole, case.tree / "data")
    yield dvc_killed(plan, case)
    yield from updates_killed(plan, plan.folder("photos"))


def again(words: Sequence[str | Path], cwd: Path, env: dict[str, str]) -> Said:
    """The same command once more; where it says that another process is at work, after that one has ended."""
    said = ran(words, cwd, env)
    if said.code and BUSY.search(said.words):
        left_running(env, HANGS)
        said = ran(words, cwd, env)
    return said


def killed(running: Command, delay: float, kill: Callable[[Command], None] = Command.kill) -> None:
    """Kills a command after some seconds, and waits for its end."""
    time.sleep(delay)
    kill(running)
    running.end()


def stages_killed(plan: Plan, case: Case, whole: Path) -> Tally:
    """A stage is killed, and its workers are left to themselves."""
    tally = Tally("kills: stages")
    for name, times in STAGES.items():
        seconds = time_of(case, name, whole)
        for number in range(plan.times(times)):
            random = plan.random(f"stage {name}", number)
            begin(case, name, whole, fresh=bool(random.integers(2)))
            delay = float(random.uniform(0, seconds))
            killed(Command(stage_command(case.tree, name), case.tree.parent, case.env), delay)
            tally.count(
                after(case, name, whole, stage_command(case.tree, name)),
                f"seed {plan.seed}, {name} {number}, killed after {delay:.3f} s",
            )
    return tally


def time_of(case: Case, name: str, whole: Path) -> float:
    """Seconds that a stage takes undisturbed."""
    begin(case, name, whole, fresh=True)
    started = time.monotonic()
    must(ran(stage_command(case.tree, name), case.tree.parent, case.env))
    return time.monotonic() - started


def begin(case: Case, name: str, whole: Path, *, fresh: bool) -> None:
    """The state in which a stage starts: what it makes is missing, or there from an earlier run."""
    shutil.rmtree(case.tree / ".scratch", ignore_errors=True)
    replace_tree(whole, case.tree / "data")
    for out in stage_outs(case.tree, name) if fresh else ():
        if out.is_dir():
            shutil.rmtree(out)
        else:
            out.unlink(missing_ok=True)


def after(case: Case, name: str, whole: Path, command: Sequence[str | Path]) -> str:
    """What is wrong after a command is run again; "" if nothing is."""
    said = again(command, case.tree, case.env)
    left = left_running(case.env)
    outs = stage_outs(case.tree, name)
    wanted = contents(*(whole / out.relative_to(case.tree / "data") for out in outs))
    running = f"{left} processes went on" if left else ""
    return said.fault or differences(contents(*outs), wanted) or leftovers(case.tree / "data") or running


def workers_killed(plan: Plan, case: Case, whole: Path) -> Tally:
    """One of a stage's workers is killed, soon after its start or later; the stage ends, and a second run mends it."""
    tally = Tally("kills: pool workers")
    for name, times in POOLS.items():
        seconds = time_of(case, name, whole)
        for number in range(plan.times(times)):
            random = plan.random(f"worker {name}", number)
            begin(case, name, whole, fresh=True)
            delay = float(random.uniform(0, 0.02 if number % 2 else seconds / 2))
            running = Command(stage_command(case.tree, name), case.tree.parent, case.env)
            wait_until(lambda: bool(workers(running)) or running.process.poll() is not None, HANGS)  # noqa: B023
            time.sleep(delay)
            if found := workers(running):
                with suppress(psutil.NoSuchProcess):
                    found[int(random.integers(len(found)))].kill()
            said = running.end()
            fault = said.fault if said.code is None or "Traceback" in said.words else ""
            fault = fault or after(case, name, whole, stage_command(case.tree, name))
            tally.count(fault, f"seed {plan.seed}, worker of {name} {number}, killed {delay:.3f} s after its start")
    return tally


def workers(running: Command) -> list[psutil.Process]:
    """The processes of a stage's pool."""
    found = []
    for child in running.children():
        with suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def dvc_killed(plan: Plan, case: Case) -> Tally:
    """`dvc` alone is killed, and run again while its stage may still be at work."""
    tally = Tally("kills: dvc")
    case.run("git", "init", "--quiet")
    dvc = Path(sys.executable).with_name("dvc")
    must(ran([dvc, "repro", "train"], case.tree, case.env))
    commit(case.tree, "run", env=case.env)
    whole = case.tree.parent / "by dvc"
    replace_tree(case.tree / "data", whole)
    for name, times in DVC.items():
        command: list[str | Path] = [dvc, "repro", "--force", "--single-item", name]
        started = time.monotonic()
        must(ran(command, case.tree, case.env))
        seconds = time.monotonic() - started
        for number in range(plan.times(times)):
            delay = float(plan.random(f"dvc {name}", number).uniform(0, seconds))
            killed(Command(command, case.tree, case.env), delay)
            fault = recovered(case) or after(case, name, whole, command)
            tally.count(fault, f"seed {plan.seed}, {name} {number}, killed after {delay:.3f} s")
    lock = case.tree / "dvc.lock"
    for number in range(plan.times(CUT)):
        text = lock.read_bytes()
        lock.write_bytes(text[: (place := int(plan.random("dvc.lock", number).integers(len(text))))])
        fault = recovered(case) or after(case, "train", whole, [dvc, "repro", "train"])
        tally.count(fault, f"seed {plan.seed}, dvc.lock cut after {place} of {len(text)} bytes")
    return tally


def recovered(case: Case) -> str:
    """What is wrong about mending a repository whose `dvc` was killed, as `make repro` begins; "" if nothing is."""
    code = "from pathlib import Path; from tools.recover import recover; print(*recover(Path.cwd()))"
    said = ran([sys.executable, "-c", code], case.tree, {**case.env, "PYTHONPATH": str(ROOT)})
    silent = (case.tree / DAMAGED).exists() and "dvc.lock: can't be read" not in said.words
    (case.tree / DAMAGED).unlink(missing_ok=True)
    return said.fault or ("dvc.lock was replaced in silence" if silent else "")


def updates_killed(plan: Plan, top: Path) -> Iterator[Tally]:
    """An index of own photos: its first making, an update, one afresh, and the process that builds it."""
    env = environment(top / "home")
    photos, base, place = top / "photos", top / "base", top / "index"
    must(ran(index_command(draw(photos, range(24)), base), ROOT, env))
    for number in range(4):
        (photos / f"{number:03d}.jpg").unlink()
    draw(photos, range(24, 36))
    seconds = {}
    for kind in INDEX:
        begin_update(kind, base, place)
        started = time.monotonic()
        must(ran(update_command(kind, photos, place), ROOT, env))
        seconds[kind] = time.monotonic() - started
    wanted = indexed(place)

    def harmed(kind: str, number: int, command: Sequence[str], kill: Callable[[Command], None]) -> tuple[str, str]:
        begin_update(kind, base, place)
        delay = float(plan.random(f"index {kind}", number).uniform(0, seconds[kind]))
        killed(Command(command, ROOT, env), delay, kill)
        said = again(command, ROOT, env)
        left = left_running(env)
        running_on = f"{left} processes went on" if left else ""
        fault = said.fault or unlike(indexed(place), wanted) or leftovers(place) or running_on
        return fault or found_again(photos, place, env), f"seed {plan.seed}, {kind} {number}, after {delay:.3f} s"

    tally = Tally("kills: updates of an index")
    for kind, times in INDEX.items():
        for number in range(plan.times(times)):
            kill = kill_worker if kind == "worker" else Command.kill
            tally.count(*harmed(kind, number, update_command(kind, photos, place), kill))
    yield tally
    tally, tree = Tally("kills: make index"), with_make(top / "made")
    command = ["make", "-C", str(tree), "index", f"PHOTOS={photos}", f"INDEX={place}"]
    for number in range(plan.times(MAKE)):
        tally.count(*harmed("update", number, command, Command.kill_all if number % 2 else Command.kill))
    yield tally


def begin_update(kind: str, base: Path, place: Path) -> None:
    """The index that an update finds."""
    shutil.rmtree(place, ignore_errors=True)
    if kind != "first":
        shutil.copytree(base, place)


def update_command(kind: str, photos: Path, place: Path) -> list[str]:
    """The command that is killed."""
    return index_command(photos, place, *(["--afresh"] if kind == "afresh" else []))


def kill_worker(running: Command) -> None:
    """Kills the process that holds FAISS as soon as there is one; the command itself goes on."""
    wait_until(lambda: bool(running.children()) or running.process.poll() is not None, HANGS)
    for child in running.children():
        with suppress(psutil.NoSuchProcess):
            child.kill()


Rows = dict[str, tuple[str, np.ndarray]]


def indexed(place: Path) -> Rows:
    """What an index holds: by path the digest of the photo's content and its vector."""
    found: Rows = {}
    for path in sorted(place.glob("*/vectors/*.parquet")):
        table = pq.read_table(path, columns=["image_id", "content", "vector"])
        for name, content, vector in zip(*(column.to_pylist() for column in table.columns), strict=True):
            found[name] = (content, np.array(vector, np.float32))
    names = {name for path in place.glob("*/index/photos.parquet") for name in pq.read_table(path)[0].to_pylist()}
    return {name: row for name, row in found.items() if name in names}


def unlike(found: Rows, wanted: Rows) -> str:
    """How two indexes differ; "" where they hold the same."""
    if found.keys() != wanted.keys():
        return f"holds other photos: {sorted(found.keys() ^ wanted.keys())[:3]}"
    for name, (content, vector) in found.items():
        if content != wanted[name][0] or not np.allclose(vector, wanted[name][1], rtol=SAME, atol=1e-4):
            return f"{name} has another vector"
    return ""


def found_again(photos: Path, place: Path, env: dict[str, str]) -> str:
    """Whether a photo finds itself in an index; "" if it does."""
    photo = photos / "030.jpg"
    said = ran([*DRAWFIND, "search", photo, "--photo", "--json", "--top", "1", "--index", place], ROOT, env)
    if said.fault:
        return said.fault
    first = json.loads(said.words)[0]["found"][0]["path"]
    return "" if first == str(photo) else f"{photo.name} found {first}"


def with_make(tree: Path) -> Path:
    """The program with its Makefile, set up with this very Python."""
    for name in tracked_files():
        if name.startswith(("Makefile", "requirements", "pipeline_lib/", "models/")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    binary = tree / ".venv/bin/python"
    write_text(binary, f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    binary.chmod(0o755)
    (tree / ".venv/.stamps").mkdir()
    for name in ("venv", "search", "program", "weights"):
        (tree / ".venv/.stamps" / name).touch()
    return tree
