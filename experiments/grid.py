"""The grid of the ablation: which rows there are, and the params that each stands for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.errors import PipelineError
from pipeline_lib.params import Params, parse

ROOT = Path(__file__).resolve().parents[1]
GRID = ROOT / "experiments" / "grid.yaml"


class Row(BaseModel):
    """One run: what it changes, and what else is kept or measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: Literal["claim", "grid", "ablation", "length", "encoder", "study"]
    set: dict[str, Any] = Field(default_factory=dict)
    final: bool = False  # of the retrieval study: also measured on the reporting classes
    before: bool = False  # also measures the start weights, and keeps the embeddings for pictures and tests
    note: str = ""


class Grid(BaseModel):
    """The content of grid.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str
    base: dict[str, Any]
    order: list[str]
    rows: dict[str, Row]

    def params_of(self, name: str) -> Params:
        """The params of a row: those of params.yaml, with the base's and the row's leaf keys changed.

        Raises:
            PipelineError: there is no such row, a key is no leaf of params.yaml, or a value is out of range.
        """
        if name not in self.rows:
            raise PipelineError(f"there is no row {name}; rows are {', '.join(self.order)}")
        values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        changes = {**self.base, "catalog.root": str((ROOT / self.root).resolve()), **self.rows[name].set}
        return parse(changed(values, changes, f"rows.{name}"), source=f"rows.{name}")


def changed(values: dict[str, Any], changes: dict[str, Any], source: str) -> dict[str, Any]:
    """A copy of nested values with some leaves changed, given as `{"train.epochs": 26}`.

    Raises:
        PipelineError: a key is no leaf of the values.
    """
    values = copy.deepcopy(values)
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        place: Any = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or leaf not in place or isinstance(place[leaf], dict):
            raise PipelineError(f"{source}: {key} is no key of params.yaml; correct its name")
        place[leaf] = value
    return values


def read_grid(path: Path = GRID) -> Grid:
    """Reads grid.yaml.

    Raises:
        PipelineError: `order` and `rows` name different rows, or a name holds a dot.
    """
    grid = Grid.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    dotted = [name for name in grid.rows if "." in name]
    if dotted:
        # In a stage's params, rows.NAME is a path through the file.
        raise PipelineError(f"{path.name}: {', '.join(dotted)}: DVC reads a dot as a new level; name the row without")
    if sorted(grid.order) != sorted(grid.rows):
        odd = set(grid.order) ^ set(grid.rows)
        raise PipelineError(f"{path.name}: order and rows must name the same rows; {sorted(odd)} stand in one alone")
    return grid
