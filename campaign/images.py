"""Damaged images and extreme shapes through the catalog, the index of own photos and uploads, with 2 GB of memory.

Each is taken, or left out for a reason that is told; none ends the command, the server or the patience of who waits.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import httpx
import pyarrow.parquet as pq

from benchmarks.timing import ROOT
from campaign.clients import Server
from campaign.pictures import extreme_files, mutated, whole_files
from campaign.sandbox import draw, index_command, limited, ran, stage_command
from campaign.tally import Plan, Tally
from tests.pipeline.support import Case, environment, set_params, small_case

COUNT: Final = 500
GOOD: Final = 3
"""Whole photos beside the others, so that there is something to search."""
PATIENCE: Final = 15.0
"""Seconds that one upload may take, on a machine that may be busy."""
EACH: Final = 2.0
"""Seconds that a command may take for each file, beside a minute for itself."""
BARE: Final = frozenset({"error", "IndexError", "KeyError", "ValueError", "TypeError", "OverflowError", "MemoryError"})
Faults = dict[str, str]
"""File name -> what is wrong with what became of it; "" where nothing is."""


def run(plan: Plan) -> Iterator[Tally]:
    """The same files through every door."""
    folder, told = plan.folder("files"), {}
    for name, data, how in files(plan):
        (folder / name).write_bytes(data)
        told[name] = f"seed {plan.seed}, {name}: {how}"
    every = sorted(folder.iterdir())
    case = small_case(plan.folder("catalog"), photos=1, sketches=0)
    set_params(case.tree, {"catalog.max_bad_fraction": 1.0, "edges.max_bad_fraction": 1.0})
    yield tallied("images: catalog", blamed(every, lambda some: catalogued(case, some)), told)
    yield tallied("images: index of own photos", blamed(every, lambda some: indexed(plan, some)), told)
    yield tallied("images: uploads", uploaded(plan, every), told)


def files(plan: Plan) -> Iterator[tuple[str, bytes, str]]:
    """Names, contents and what was done to them."""
    whole = sorted(whole_files().items())
    for number in range(plan.times(COUNT)):
        name, data = whole[number % len(whole)]
        damaged, how = mutated(data, plan.random(name, number))
        yield f"{number:03d} {name}", damaged, how
    for number, (name, data) in enumerate(extreme_files()):
        if number % round(1 / plan.share) == 0:
            yield f"extreme {number:02d} {name}", data, f"{len(data)} bytes"


def tallied(what: str, faults: Faults, told: dict[str, str]) -> Tally:
    """The count of what became of the files."""
    tally = Tally(what)
    for name, fault in faults.items():
        tally.count(fault, told.get(name, name))
    return tally


def blamed(files_: Sequence[Path], attempt: Callable[[Sequence[Path]], Faults | str]) -> Faults:
    """What became of each file; where a command failed as a whole, of which it did is found by halves."""
    found = attempt(files_)
    if not isinstance(found, str):
        return found
    if len(files_) == 1:
        return {files_[0].name: found}
    half = len(files_) // 2
    parts = blamed(files_[:half], attempt) | blamed(files_[half:], attempt)
    # Each half may pass where the whole did not.
    return parts if any(parts.values()) else {**parts, f"{files_[0].name} to {files_[-1].name} together": found}


def filled(folder: Path, some: Sequence[Path]) -> Path:
    """A folder of some files and a few good photos."""
    shutil.rmtree(folder, ignore_errors=True)
    draw(folder, range(GOOD))
    for path in some:
        (folder / path.name).hardlink_to(path)
    return folder


def clear(reason: str) -> str:
    """What is wrong with a reason; "" where it is one."""
    plain = reason.strip()
    if not plain or plain in BARE or "Traceback" in plain:
        return f"no reason is told: {plain[:200]!r}"
    return ""


def judged(some: Sequence[Path], taken: set[str], reasons: dict[str, str]) -> Faults:
    """What is wrong with what became of each file: it must have been taken, or left out for a reason."""
    found = {}
    for path in some:
        if path.name in taken or path.suffix == ".svg":  # drawings to search with, no photos
            found[path.name] = ""
        else:
            found[path.name] = clear(reasons.get(path.name, ""))
    return found


def catalogued(case: Case, some: Sequence[Path]) -> Faults | str:
    """Files through the stages catalog and edges; a message where one ends."""
    filled(case.photos, some)
    shutil.rmtree(case.tree / "data", ignore_errors=True)
    shutil.rmtree(case.tree / ".scratch", ignore_errors=True)
    for name in ("catalog", "edges"):
        said = ran(limited(stage_command(case.tree, name)), case.tree.parent, case.env, 60 + EACH * len(some))
        if said.fault:
            return f"stage {name}: {said.fault}"
    excluded = pq.read_table(case.tree / "data/excluded.parquet").to_pylist()
    taken = set(pq.read_table(case.tree / "data/catalog.parquet")["path"].to_pylist())
    return judged(some, taken, {row["path"]: row["detail"] for row in excluded})


def indexed(plan: Plan, some: Sequence[Path]) -> Faults | str:
    """Files through `drawfind index`; a message where it ends."""
    photos, place = filled(plan.scratch / "photos", some), plan.scratch / "index"
    shutil.rmtree(place, ignore_errors=True)
    env = environment(plan.scratch / "home")
    said = ran(limited(index_command(photos, place)), ROOT, env, 60 + EACH * len(some))
    if said.fault:
        return said.fault
    (generation,) = (path for path in place.iterdir() if path.name.isdecimal())
    taken = {Path(name).name for name in pq.read_table(generation / "index/photos.parquet")[0].to_pylist()}
    reasons = json.loads((generation / "bad.json").read_text(encoding="utf-8"))
    return judged(some, taken, {Path(name).name: why for name, why in reasons.items()})


def uploaded(plan: Plan, some: Sequence[Path]) -> Faults:
    """Files sent to a server, one after another."""
    top = plan.folder("upload")
    found: Faults = {}
    waiting = list(some)
    while waiting:
        with Server(draw(top / "photos", range(GOOD)), top, limit=True) as server:
            while waiting and server.process.poll() is None:
                path = waiting.pop(0)
                found[path.name] = answered(server, path)
    return found


def answered(server: Server, path: Path) -> str:
    """What is wrong with the answer to an upload; "" where nothing is."""
    started = time.monotonic()
    try:
        answer = httpx.post(
            f"{server.address}/api/search/image?top=3", content=path.read_bytes(), timeout=httpx.Timeout(PATIENCE)
        )
    except httpx.HTTPError as failure:
        time.sleep(0.5)  # until a server that has died is seen to be dead
        ended = server.process.poll()
        return f"{type(failure).__name__}, the server {'goes on' if ended is None else f'ended with status {ended}'}"
    seconds = time.monotonic() - started
    if seconds > PATIENCE:
        return f"answered after {seconds:.1f} s"
    if answer.status_code == 200:
        return ""
    if answer.status_code in {413, 415, 422}:
        return clear(answer.json()["detail"])
    return f"status {answer.status_code}: {answer.text[:200]}"
