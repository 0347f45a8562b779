"""Recipes: what a run changes in params.yaml, one file each, `recipes/**/NAME.yaml`.

A file says what it is about and which leaf keys it sets, on top of another recipe if it names one (`from`). Rows of the
ablation and of the retrieval study are recipes with a `group`. Names that begin with "_" are bases for others and no
runs of their own.
"""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline_lib.errors import PipelineError
from pipeline_lib.files import read_yaml
from pipeline_lib.params import Params, parse
from pipeline_lib.registry import OBJECTIVES

ROOT: Final = Path(__file__).resolve().parents[1]
RECIPES: Final = ROOT / "recipes"
DEFAULT: Final = "default"
"""The recipe that is params.yaml itself."""
ABLATION: Final = ("claim", "grid", "ablation", "length", "encoder")
"""Groups of the ablation's rows; that of the study's is `study`."""
RESERVED: Final = ("ablation", "comparison", "pictures", "retrieval_study")
"""Folders of metrics/ that are no run's."""


class Recipe(BaseModel):
    """The content of a recipe's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str = Field(min_length=1)  # one sentence; of a study row the hypothesis
    base: str = Field(default=DEFAULT, alias="from")  # the recipe whose changes come first
    root: str = ""  # what folder the user must name; empty where the recipe knows its images
    set: dict[str, Any] = Field(default_factory=dict)  # values by leaf key of params.yaml
    group: Literal["", "claim", "grid", "ablation", "length", "encoder", "study"] = ""
    final: bool = False  # of the study: also measured on the reporting classes
    before: bool = False  # of the ablation: also measures the start weights, and keeps its run for pictures
    note: str = ""  # for the ablation's table

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file; a PipelineError names it and the key that is wrong."""
        try:
            return cls.model_validate(read_yaml(path))
        except ValidationError as failure:
            words = [
                f"{'.'.join(map(str, error['loc'])) or 'whole file'}: {error['msg']}" for error in failure.errors()
            ]
            raise PipelineError(f"{path}: {'; '.join(words)}") from failure


class Recipes:
    """All recipes below a folder: `all` by name, the file of each in `places`."""

    def __init__(self, folder: Path = RECIPES, params: Path = ROOT / "params.yaml") -> None:
        """Reads them; a PipelineError names a file that can't be used and its key, or two files of one name."""
        self.places: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.yaml")):
            if path.stem in self.places or path.stem in RESERVED:
                other = self.places.get(path.stem, ROOT / "metrics" / path.stem)
                raise PipelineError(f"{path}: {other} has the same name; rename the recipe")
            self.places[path.stem] = path
        self.all = {name: Recipe.read(path) for name, path in self.places.items()}
        self.defaults: dict[str, Any] = read_yaml(params)
        # A recipe may turn on an objective that params.yaml does not list.
        objectives = self.defaults["train"]["objectives"]
        self.defaults["train"]["objectives"] = dict.fromkeys(OBJECTIVES, 0.0) | objectives

    def __getitem__(self, name: str) -> Recipe:
        """A recipe that can be run; where there is none of that name, a PipelineError lists those there are."""
        if name not in self.all or name.startswith("_"):
            known = sorted(self.all, key=lambda other: (len(self.places[other].parts), other))
            listed = ", ".join(other for other in known if not other.startswith("_"))
            raise PipelineError(f"there is no recipe {name}; recipes are {listed}")
        return self.all[name]

    def rows(self, groups: Iterable[str]) -> list[str]:
        """Names of some groups' rows: first those of experiments/order.yaml in its order, then the others by name."""
        order = read_yaml(ROOT / "experiments" / "order.yaml")
        listed = {name: place for place, name in enumerate(name for names in order.values() for name in names)}
        found = [name for name, recipe in self.all.items() if recipe.group in set(groups)]
        return sorted(found, key=lambda name: (listed.get(name, len(listed)), name))

    def chain(self, name: str) -> list[str]:
        """The recipes whose changes make up one, the first base first, without the default.

        Raises:
            PipelineError: a `from` names no recipe, or leads back to itself.
        """
        found: list[str] = []
        while name != DEFAULT:
            if name not in self.all or name in found:
                what = "leads back to" if name in self.all else "names no recipe:"
                raise PipelineError(f"{self.places[found[-1]]}: from: {what} {name}")
            found.append(name)
            name = self.all[name].base
        return found[::-1]

    def changes(self, name: str, beyond: str = DEFAULT) -> dict[str, Any]:
        """What a recipe and its bases set, by leaf key, as far as another recipe does not set the same."""
        found = {key: value for step in self.chain(name) for key, value in self.all[step].set.items()}
        common = self.changes(beyond) if beyond != DEFAULT else {}
        return {key: value for key, value in found.items() if key not in common or common[key] != value}

    def params_of(self, name: str, more: dict[str, Any] | None = None) -> Params:
        """All params of a recipe, with the values of leaf keys in `more` on top.

        Raises:
            PipelineError: there is no such recipe, a key is no leaf of params.yaml, or a value is out of range.
        """
        self[name]
        values = changed(self.defaults, {"name": name}, "name")
        for step in self.chain(name):
            values = changed(values, self.all[step].set, str(self.places[step]))
        return parse(changed(values, more or {}, "--set"), source=str(self.places[name]))


def changed(values: dict[str, Any], changes: dict[str, Any], source: str) -> dict[str, Any]:
    """A copy of nested values with some leaves changed, such as `{"train.epochs": 26}`.

    Raises:
        PipelineError: a key is no leaf of the values; the message begins with `source`.
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
