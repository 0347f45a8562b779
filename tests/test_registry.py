"""Every line of the registry names something that is there, in its room, and of the form that its readers ask for."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline_lib.data.source import Source
from pipeline_lib.embedding.alignment import Step
from pipeline_lib.registry import ALIGNMENTS, DATASETS, ENCODERS, OBJECTIVES, STEPS, TRANSDUCTIVE, load
from pipeline_lib.training.objective import Objective

ROOT = Path(__file__).resolve().parents[1]
PLACES = {
    **{f"data.{name}": ("data", place) for name, place in DATASETS.items()},
    **{f"encoder.{name}": ("models", spec.trunk) for name, spec in ENCODERS.items()},
    **{f"objective.{name}": ("training", spec.place) for name, spec in OBJECTIVES.items()},
    **{f"step.{name}": ("embedding", place) for name, place in STEPS.items()},
}


@pytest.mark.parametrize("name", PLACES)
def test_every_string_loads_and_its_module_lies_in_its_room(name: str) -> None:
    room, place = PLACES[name]
    module, _, attribute = place.partition(":")
    found = load(place)
    assert found.__name__ == attribute
    assert module.startswith(f"pipeline_lib.{room}.")
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    # Nothing is listed at second hand.
    assert found.__module__ == module
    assert found.__doc__


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_is_a_class_of_readers(name: str) -> None:
    reader: Any = load(DATASETS[name])
    assert [*inspect.signature(reader.of).parameters][:2] == ["catalog", "base"]
    wanted = {member for member in vars(Source) if not member.startswith("_")}
    assert wanted >= {"entries", "load", "recognises", "trains_on_gallery"}
    assert wanted <= set(dir(reader)) | {field.name for field in dataclasses.fields(reader)}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_a_sequence_of_stages_as_its_line_tells(name: str) -> None:
    spec = ENCODERS[name]
    trunk = load(spec.trunk)
    stages = trunk(batch_norm=True)
    assert isinstance(stages, nn.Sequential)
    assert any(isinstance(module, nn.BatchNorm2d) for module in stages.modules())
    if not spec.always_batch_norm:
        assert not any(isinstance(module, nn.BatchNorm2d) for module in trunk(batch_norm=False).modules())
    assert 0 < spec.before_last < len(stages)
    assert len(spec.pretrained) in (0, 5)
    assert list(spec.pretrained) == sorted(set(spec.pretrained))
    assert all(1 <= number <= len(stages) for number in spec.pretrained)
    assert bool(spec.weights) == bool(spec.pretrained)
    with torch.inference_mode():
        before = stages.eval()[: spec.before_last](torch.zeros(1, 3, 224, 224))
        last = stages[spec.before_last :](before)
    if spec.fc6_places:
        assert last.shape[2:] == (spec.fc6_places, spec.fc6_places)
    # Of twice as many places a side as the last, up to rounding.
    assert 1.9 <= before.shape[-1] / last.shape[-1] <= 2.4


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_has_a_loss_and_reads_a_stream(name: str) -> None:
    objective = load(OBJECTIVES[name].place)
    assert issubclass(objective, Objective)
    assert not inspect.isabstract(objective)
    assert OBJECTIVES[name].reads in ("patches", "views")


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_alignment_is_fitted_applied_and_saved(name: str) -> None:
    step = load(STEPS[name])
    assert issubclass(step, Step)
    assert not inspect.isabstract(step)
    assert (type(step.on_whole), type(step.added)) == (bool, int)
    # A number that is added to the vectors of an image and of its mirror image apart would have no part to stand in.
    assert step.on_whole or not step.added


def test_chains_are_made_of_steps_and_use_them_all() -> None:
    assert {name for chain in ALIGNMENTS.values() for name in chain} == set(STEPS)
    assert set(TRANSDUCTIVE) <= set(ALIGNMENTS)
    # What was fitted on a gallery can't be told from its name otherwise.
    assert {name for name in ALIGNMENTS if name.startswith("transductive")} == set(TRANSDUCTIVE)
    for chain in ALIGNMENTS.values():
        whole = [load(STEPS[name]).on_whole for name in chain]
        assert whole == sorted(whole), "steps on finished vectors come last"


def test_params_choose_from_the_registry_without_loading_a_reader_an_encoder_or_an_objective() -> None:
    code = "import sys, pipeline_lib.params, pipeline_lib.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("pipeline_lib.")}
    assert loaded == {"pipeline_lib.errors", "pipeline_lib.params", "pipeline_lib.registry"}
