"""One name, one figure: tables that were written apart agree on what a system finds."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import ROOT

FIGURES = (
    "instance_hit_at_1", "instance_hit_at_5", "in_class_hit_at_5", "class_hit_at_5", "map", "li_score_at_5",
)  # fmt: skip
PLAIN = {"weight": {"0.0"}, "method": {"none"}, "sketches": {"whole"}, "photos": {"whole", "0"}}
"""What changes how a list is ranked in tables of the study, and the values that change nothing."""
TABLES = sorted((ROOT / "metrics").rglob("*.csv"))

Key = tuple[str, ...]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def key_of(row: dict[str, str]) -> Key:
    """Name without alignment, data set, protocol, alignment, and what else changes a ranking."""
    name = row.get("system") or row.get("name", "")
    alignment = row.get("alignment") or row.get("form", "")
    knobs = ["" if row.get(knob, "") in {"", *plain} else f"{knob} {row[knob]}" for knob, plain in PLAIN.items()]
    return (
        name.removesuffix(f"+{alignment}"),
        row["dataset"],
        row.get("gallery", ""),
        row.get("queries", ""),
        alignment,
        *knobs,
    )


def disagreements(paths: list[Path]) -> dict[tuple[Key, str], dict[str, list[str]]]:
    """Figures of one key that differ, with the tables that hold each value."""
    found: dict[tuple[Key, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        for row in rows_of(path):
            if not {"dataset", "queries"} <= row.keys() or not {"system", "name"} & row.keys() or "against" in row:
                continue
            for figure in FIGURES:
                if row.get(figure) and "class_name" not in row:
                    found[key_of(row), figure][row[figure]].append(
                        path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
                    )
    return {key: dict(values) for key, values in found.items() if len(values) > 1}


def test_no_name_has_two_figures_for_one_data_set_protocol_and_alignment() -> None:
    assert disagreements(TABLES) == {}


def test_the_check_finds_two_figures_and_lets_other_protocols_be(tmp_path: Path) -> None:
    head = "system,dataset,gallery,queries,alignment,instance_hit_at_5"
    (tmp_path / "a.csv").write_text(f"{head}\nours,d,10,5,none,0.5\nours+mean,d,10,5,mean,0.6\n")
    (tmp_path / "b.csv").write_text(f"{head}\nours+none,d,10,5,none,0.7\nours,d,10,5,mean,0.6\nours,d,9,5,none,0.4\n")
    (key,) = disagreements([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert key == (("ours", "d", "10", "5", "none", "", "", "", ""), "instance_hit_at_5")


@pytest.mark.parametrize(
    "table", [path for path in TABLES if path.name == "comparison.csv"], ids=lambda path: path.parent.name
)
def test_paired_differences_are_those_of_the_figures_beside_them(table: Path) -> None:
    figures = {(row["system"], row["dataset"]): row for row in rows_of(table)}
    for row in rows_of(table.with_name("paired.csv")):
        ours, other = (figures[row[side], row["dataset"]] for side in ("system", "against"))
        for figure in FIGURES:
            if row.get(figure):
                expected = float(ours[figure]) - float(other[figure])
                assert float(row[figure]) == pytest.approx(expected, abs=2e-6), (row["system"], row["against"], figure)
