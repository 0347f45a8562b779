"""Cut files, flipped bits and lost blocks in every artefact: each is found, or changes nothing that is read."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.timing import ROOT
from campaign.reading import FAMILY_OF
from campaign.sandbox import (
    HANGS,
    Command,
    draw,
    index_command,
    made_case,
    must,
    ran,
    replace_tree,
    stage_command,
    wait_until,
)
from campaign.tally import Plan, Tally
from tests.pipeline.support import Case, environment

STAGES: Final = ("catalog", "edges", "patches", "train", "embed", "index", "baselines", "evaluate")
CHANGING: Final = frozenset({"update"})
"""Kinds of reading that may write."""
BLOCK: Final = 512
"""Bytes that a lost sector takes."""


@dataclass(frozen=True)
class Target:
    """A file to damage, and how the program reads it."""

    file: Path
    kind: str  # of `reading`
    read: Path  # the file or folder that is read
    times: int


class Reader:
    """Reads in a process of its own; one that breaks down is started again."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def ask(self, kind: str, path: Path) -> dict[str, str]:
        """What reading gave: `read` and a digest, `refused` and a message, or `broke` and how."""
        family = FAMILY_OF[kind]
        process = self._processes.get(family) or self._start(family)
        assert process.stdin is not None  # noqa: S101  they are pipes
        assert process.stdout is not None  # noqa: S101
        hanging = threading.Timer(HANGS, process.kill)
        hanging.start()
        try:
            process.stdin.write(json.dumps([kind, str(path)]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            hanging.cancel()
        if line:
            answer: dict[str, str] = json.loads(line)
            return answer
        self._end(family)
        return {"broke": f"the process that read it ended with status {process.returncode}"}

    def _start(self, family: str) -> subprocess.Popen[str]:
        self._processes[family] = subprocess.Popen(
            [sys.executable, "-m", "campaign.reading", family],
            cwd=ROOT, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        return self._processes[family]

    def _end(self, family: str) -> None:
        process = self._processes.pop(family)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        try:
            process.wait(HANGS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Ends the processes."""
        for family in list(self._processes):
            self._end(family)


def run(plan: Plan) -> Iterator[Tally]:
    """The artefacts of a run, of an index of one's own photos, and of the model that comes with the program."""
    env = environment(plan.folder("home"))
    reader = Reader(env)
    try:
        yield harmed(plan, reader, "rot: artefacts of a run", of_run(plan))
        yield harmed(plan, reader, "rot: index of own photos", of_own(plan, env))
        yield harmed(plan, reader, "rot: exported model", of_box(plan))
    finally:
        reader.close()


def harmed(plan: Plan, reader: Reader, what: str, targets: list[Target]) -> Tally:
    """Damages each target some times, and looks at what is read of it."""
    tally = Tally(what)
    for target in targets:
        kept = plan.scratch / "kept"
        if target.kind in CHANGING:
            replace_tree(target.read, kept)
        whole, before = target.file.read_bytes(), reader.ask(target.kind, target.read)
        if "read" not in before:
            raise RuntimeError(f"{target.file}: can't be read before it is damaged: {before}")
        for number in range(plan.times(target.times)):
            name = f"{target.kind} {target.file.name}"
            damaged, how = damage(whole, plan.random(name, number))
            if damaged == whole:
                continue
            target.file.write_bytes(damaged)
            found = reader.ask(target.kind, target.read)
            if target.kind in CHANGING:
                replace_tree(kept, target.read)
            else:
                target.file.write_bytes(whole)
            tally.count(fault_of(found, before, target), f"seed {plan.seed}, {name} {number}: {how}")
    return tally


def fault_of(found: dict[str, str], before: dict[str, str], target: Target) -> str:
    """What is wrong with how a damaged file was read; "" where it was refused by name, or made no difference."""
    if "broke" in found:
        return found["broke"]
    if "refused" in found:
        named = any(name in found["refused"] for name in (target.file.name, str(target.read)))
        return "" if named else f"the message names no file: {found['refused'][:200]}"
    return "" if found == before else "it was read in silence, and says something else"


def damage(data: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Bytes with a flipped bit, a lost block or a cut, and what was done to them."""
    place, kind = int(random.integers(len(data))), random.random()
    if kind < 0.6:
        bit = int(random.integers(8))
        return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :], f"byte {place}, bit {bit} flipped"
    if kind < 0.8:
        lost = data[place : place + BLOCK]
        return data[:place] + bytes(len(lost)) + data[place + len(lost) :], f"{len(lost)} bytes from {place} lost"
    return data[:place], f"cut at byte {place}"


def of_run(plan: Plan) -> list[Target]:
    """A small run, with a checkpoint of a training that was stopped."""
    top = plan.folder("run")
    case = made_case(top, STAGES, {"machine.checkpoint_seconds": 0.0, "train.epochs": 3})
    stopped_training(case)
    data = case.tree / "data"
    model, vectors = data / "model", data / "embeddings"
    targets = [
        Target(data / "catalog.parquet", "catalog", data / "catalog.parquet", 30),
        Target(data / "rankings.parquet", "table", data / "rankings.parquet", 15),
        *(Target(path, "shard", path, 25) for name in ("pairs", "patches") for path in first(data / name)),
        *(Target(vectors / f"{name}.parquet", "embeddings", vectors / f"{name}.parquet", 15) for name in TABLES),
        Target(data / "index/photos.faiss", "index", data / "index", 25),
        Target(data / "index/photos.parquet", "index", data / "index", 25),
        Target(vectors / "alignment.safetensors", "run", data, 10),
        Target(data / "run.json", "run", data, 30),
        Target(model / "encoder.safetensors", "run", data, 15),
        Target(model / "start.safetensors", "start", data, 15),
        Target(model / "meta.json", "run", data, 15),
    ]
    (checkpoint,) = case.tree.glob(".scratch/train-*/checkpoint.pt")
    return [*targets, Target(checkpoint, "checkpoint", case.tree, 30)]


TABLES: Final = ("photos", "sketches", "pretext_photos", "pretext_edges")


def first(folder: Path) -> list[Path]:
    """The first shard of a folder."""
    return sorted(folder.glob("*.parquet"))[:1]


def stopped_training(case: Case) -> None:
    """Trains again, until there is a checkpoint."""
    running = Command(stage_command(case.tree, "train"), case.tree.parent, case.env)
    found = wait_until(lambda: any(case.tree.glob(".scratch/train-*/checkpoint.pt")), HANGS)
    running.process.send_signal(signal.SIGKILL)
    said = running.end()
    if not found or not any(case.tree.glob(".scratch/train-*/checkpoint.pt")):
        raise RuntimeError(f"no checkpoint was left: {said.words[-300:]}")


def of_own(plan: Plan, env: dict[str, str]) -> list[Target]:
    """An index of own photos."""
    photos, place = draw(plan.scratch / "photos", range(20)), plan.scratch / "own"
    must(ran(index_command(photos, place), ROOT, env))
    (generation,) = (path for path in place.iterdir() if path.name.isdecimal())
    pictures = sorted(generation.glob("thumbnails/*/*.jpg"))
    return [
        Target(generation / "index/photos.faiss", "own", place, 20),
        Target(generation / "index/photos.parquet", "own", place, 20),
        Target(generation / "record.json", "own", place, 25),
        Target(generation / "record.json", "update", place, 15),
        *(Target(path, "update", place, 40) for path in first(generation / "vectors")),
        *(Target(path, "own", place, 10) for path in first(generation / "vectors")),
        *(Target(path, "thumbnail", path, 6) for path in pictures[:5]),
    ]


def of_box(plan: Plan) -> list[Target]:
    """The model that comes with the program, which is an exported run."""
    folder = plan.scratch / "box"
    shutil.copytree(ROOT / "models/photos", folder)
    names = {"model/encoder.onnx": 8, "embeddings/alignment.safetensors": 8, "run.json": 30, "model/meta.json": 10}
    return [Target(folder / name, "run", folder, times) for name, times in names.items()]
