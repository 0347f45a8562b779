"""What all benchmarks share: interleaved timing of ours and a bare limit, and the rows of the table.

The machine is noisy, so ours and the limit take turns, a ratio is taken within each turn, and the median is told
with its smallest and largest value.
"""

from __future__ import annotations

import csv
import dataclasses
import resource
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments import recipes
from pipeline_lib import params
from pipeline_lib.files import read_yaml, replacing

ROOT = Path(__file__).resolve().parents[1]

Run = Callable[[], float]
"""Does some work and returns its figure: items per second, or bytes."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` is the median over the turns, `low` and `high` its extremes."""

    name: str
    ours: float
    limit: float
    unit: str
    ratio: float
    low: float
    high: float
    sense: Literal["at least", "at most"]
    goal: float
    turns: int


def compare(
    name: str, ours: Run, limit: Run, *, unit: str, goal: float, turns: int, sense: Literal["at least", "at most"]
) -> Row:
    """Runs both in turns, each first every other time, after one uncounted turn.

    Args:
        name: of the row.
        ours: gives this project's figure.
        limit: gives the bare limit's figure.
        unit: of both figures.
        goal: for the median of ours / limit.
        turns: how often.
        sense: whether the ratio must be at least or at most the goal.
    """
    figures: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for side in (0, 1) if turn % 2 else (1, 0):
            figure = (ours, limit)[side]()
            if turn:
                figures[side].append(figure)
        print(f"{name}: turn {turn} of {turns}", file=sys.stderr)
    return row_of(name, *figures, unit=unit, goal=goal, sense=sense)


def row_of(
    name: str,
    ours: Sequence[float],
    limit: Sequence[float],
    *,
    unit: str,
    goal: float,
    sense: Literal["at least", "at most"],
) -> Row:
    """The row of figures that were taken in turns."""
    ratios = [a / b for a, b in zip(ours, limit, strict=True)]
    median = statistics.median
    low, high = min(ratios), max(ratios)
    return Row(name, median(ours), median(limit), unit, median(ratios), low, high, sense, goal, len(ratios))


def tell(rows: Sequence[Row]) -> None:
    """Writes rows to standard output as CSV, from which `run.py` reads them."""
    writer = csv.DictWriter(sys.stdout, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(dataclasses.asdict(row))


def spent() -> float:
    """Processor seconds of finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def update_table(path: Path, columns: Sequence[str], key: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Writes rows into a CSV, whole or not at all, in the place of those that agree in the columns of `key`."""
    kept: dict[tuple[str, ...], Mapping[str, str]] = {}
    if path.exists():
        with path.open(encoding="utf-8", newline="") as stream:
            kept = {tuple(row[name] for name in key): row for row in csv.DictReader(stream)}
    kept |= {tuple(row[name] for name in key): row for row in rows}
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())


def changed(changes: dict[str, Any]) -> params.Params:
    """The default params with some leaf keys changed, given as `{"train.epochs": 2}`."""
    return params.parse(changed_values(changes))


def changed_values(changes: dict[str, Any]) -> dict[str, Any]:
    """As `changed`, as the plain mapping that params.yaml holds."""
    values: dict[str, Any] = read_yaml(ROOT / "params.yaml")
    return recipes.changed(values, changes, "benchmarks")
