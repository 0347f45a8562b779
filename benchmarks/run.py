"""Runs all benchmarks and prints one table: `make bench`, or `python -m benchmarks.run --quick` without memory.

Each runs in a process of its own. The table also goes to metrics/benchmarks.csv, with the machine it was measured on.
A goal that is missed is a result, not a failure: the exit status tells only whether everything could be measured.
"""

from __future__ import annotations

import argparse
import csv
import io
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from pipeline_lib.data.cores import usable_cores
from pipeline_lib.files import replacing
from pipeline_lib.run import processor

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ("sharing", "edges", "patches", "memory")
FIGURES = ("ours", "limit", "ratio", "low", "high")


def measure(name: str) -> list[dict[str, str]]:
    """Runs one benchmark and reads the rows that it tells."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    rows = [dict(row) for row in csv.DictReader(io.StringIO(done.stdout))]
    for row in rows:
        median, goal = float(row["ratio"]), float(row["goal"])
        row["met"] = "yes" if (median >= goal if row["sense"] == "at least" else median <= goal) else "no"
        row.update({key: f"{float(row[key]):.4g}" for key in FIGURES})
    return rows


def machine() -> dict[str, str]:
    """What the figures depend on; no names of machines."""
    return {
        "cores": str(usable_cores()),
        "processor": processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "pyarrow")},
    }


def table(rows: list[dict[str, str]]) -> str:
    """The rows as aligned text."""
    lines = [("benchmark", "ours", "limit", "unit", "ratio (min-max)", "goal", "met")]
    for row in rows:
        ratio = f"{row['ratio']} ({row['low']}-{row['high']})"
        goal = f"{row['sense']} {row['goal']}"
        lines.append((row["name"], row["ours"], row["limit"], row["unit"], ratio, goal, row["met"]))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def save(rows: list[dict[str, str]], path: Path) -> None:
    """Writes the rows, each with the facts about the machine, whole or not at all."""
    facts = machine()
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], *facts], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **facts} for row in rows)


def main() -> None:
    """Runs what is asked for, prints the table and writes it down."""
    parser = argparse.ArgumentParser(description="speed and memory, as ratios to a bare limit measured in the same run")
    parser.add_argument("--quick", action="store_true", help="leave out memory, which takes most of the time")
    parser.add_argument("--out", type=Path, default=ROOT / "metrics" / "benchmarks.csv", help="the CSV to write")
    asked = parser.parse_args()
    rows = []
    for name in BENCHMARKS:
        if not (asked.quick and name == "memory"):
            rows += measure(name)
    print(table(rows))
    save(rows, asked.out)


if __name__ == "__main__":
    main()
