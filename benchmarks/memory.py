"""Peak memory of the stages catalog, edges, patches and embed for 2,000 and for 20,000 images: it must not grow.

The real stage scripts run in a copy of the tree with params of its own. Peaks are the kernel's own high-water marks of
resident memory (VmHWM, pages shared between processes counted in each), of the stage's process and its workers. Two
figures are compared: the sum over all processes, and the largest process alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.pictures import write_pictures
from benchmarks.timing import ROOT, Row, changed_values, row_of, tell

COUNTS = (2_000, 20_000)
STAGES = ("catalog", "edges", "patches", "embed")
GOAL = 1.1
POLL = 0.05  # seconds; a process's last moments may be missed
SETTINGS = {
    "catalog.dataset": "folder",
    "edges.short_side": 180,
    "patches.size": 64,
    "patches.draws": 1,
    "embed.image_size": 64,
    "embed.batch": 32,
    "train.pretrained": "none",
    "train.fc6": 256,
}
MODEL = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path("stages").resolve()))
from common import load_params
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.saved import save_model
params = load_params()
state = Encoder(params.train, params.patches.size).state_dict()
save_model(Path("data/model"), state, state, params, {})
"""


def make_tree(place: Path, photos: Path) -> None:
    """A copy of what the stages need, with small settings and an untrained model."""
    for name in ("pipeline_lib", "stages"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    values = changed_values({**SETTINGS, "catalog.root": str(photos)})
    (place / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    subprocess.run([sys.executable, "-c", MODEL], cwd=place, check=True)


def peaks(command: list[str], cwd: Path) -> tuple[float, float]:
    """Runs a command and watches it and its descendants.

    Returns:
        The sum of the processes' peaks and the largest one, MB.
    """
    marks: dict[int, int] = {}
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for number in descendants(process.pid):
                marks[number] = max(high_water(number), marks.get(number, 0))
            time.sleep(POLL)
    if process.returncode:
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return sum(marks.values()) / 1000, max(marks.values()) / 1000


def descendants(top: int) -> list[int]:
    """A process and all it has started, directly or not."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                # After the name in brackets: state, then the parent's number.
                parent = (place / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
            except OSError:  # it has ended
                continue
            children.setdefault(int(parent), []).append(int(place.name))
    found = [top]
    for number in found:
        found += children.get(number, [])
    return found


def high_water(number: int) -> int:
    """Largest resident memory of a process so far, kB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{number}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def main() -> None:
    """Runs every stage on few and on many images."""
    if not Path("/proc/self/status").exists():
        print("memory: needs Linux's /proc; left out", file=sys.stderr)
        return
    found: dict[str, list[tuple[float, float]]] = {stage: [] for stage in STAGES}
    for count in COUNTS:
        with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
            photos, tree = Path(folder, "photos"), Path(folder, "tree")
            write_pictures(photos, count, width=200, height=180)
            make_tree(tree, photos)
            for stage in STAGES:
                found[stage].append(peaks([sys.executable, f"stages/{stage}.py"], tree))
                print(f"memory: {stage}, {count} images: {found[stage][-1]} MB", file=sys.stderr)
    tell([row for stage in STAGES for row in rows_of(stage, *found[stage])])


def rows_of(stage: str, few: tuple[float, float], many: tuple[float, float]) -> list[Row]:
    """How a stage's peaks with many images compare with those with few."""
    unit = f"MB at {COUNTS[1]:,} and {COUNTS[0]:,} images"
    return [
        row_of(f"memory: {stage}, {name}", [large], [small], unit=unit, goal=GOAL, sense="at most")
        for name, large, small in zip(("all processes", "largest process"), many, few, strict=True)
    ]


if __name__ == "__main__":
    main()
