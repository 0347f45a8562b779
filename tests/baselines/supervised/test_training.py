from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_lib import params
from pipeline_lib.baselines.supervised import training
from pipeline_lib.baselines.supervised.batches import Batch
from pipeline_lib.baselines.supervised.network import TwoBranches, build, load, parameter_groups, save
from pipeline_lib.baselines.supervised.recipe import Recipe
from pipeline_lib.baselines.supervised.training import Where, inputs, train
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.encoder import Encoder
from tests.baselines.supervised.support import RECIPE, batches

WHERE = Where(torch.device("cpu"), "fp32", 1)


@pytest.fixture
def settings(make_params: Callable[..., params.Params]) -> params.Params:
    return make_params({"train.fc6": 64, "train.fc6_grid": 0, "train.pretrained": "none", "train.threads": 1})


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("loss", ["triplet", "contrastive"])
def test_training_finds_the_drawn_photo_among_others(tmp_path: Path, settings: params.Params, loss: str) -> None:
    recipe = Recipe.model_validate({**RECIPE.model_dump(), "loss": loss, "epochs": 16, "shift": 1, "margin": 0.5})
    data = batches(tmp_path, recipe)
    network = build(recipe, settings, None, 3)
    history = train(network, data, recipe, settings.train, WHERE, tmp_path / "checkpoint.pt")
    assert [row["epoch"] for row in history] == list(range(1, 17))
    assert history[-1]["pair_loss"] < history[0]["pair_loss"]
    network.eval()
    with torch.inference_mode():
        photos = network.embed(inputs(data.photos.images, settings.train, WHERE.device), "photo")
        sketches = network.embed(inputs(data.sketches.images, settings.train, WHERE.device), "sketch")
    nearest = torch.nn.functional.normalize(sketches) @ torch.nn.functional.normalize(photos).T
    assert float((nearest.argmax(1).numpy() == data.drawn).mean()) > 0.6


@pytest.mark.parametrize("shared", [True, False])
def test_a_run_that_was_cut_off_ends_in_the_same_bits(
    tmp_path: Path, settings: params.Params, monkeypatch: pytest.MonkeyPatch, *, shared: bool
) -> None:
    recipe = RECIPE.model_copy(update={"shared": shared, "checkpoint_seconds": 0.0})
    data = batches(tmp_path, recipe)
    whole = build(recipe, settings, None, 3)
    wanted = train(whole, data, recipe, settings.train, WHERE, tmp_path / "whole.pt")
    steps = iter(range(4))
    real = training.train_step

    def cut(*given: object) -> tuple[float, float, float]:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train_step", cut)
    first = build(recipe, settings, None, 3)
    with pytest.raises(KeyboardInterrupt):
        train(first, data, recipe, settings.train, WHERE, tmp_path / "cut.pt")
    monkeypatch.setattr(training, "train_step", real)
    second = build(recipe, settings, None, 3)
    assert train(second, data, recipe, settings.train, WHERE, tmp_path / "cut.pt") == wanted
    assert same(whole, second)
    assert not same(whole, first)


def test_other_seeds_give_other_weights(settings: params.Params) -> None:
    assert same(build(RECIPE, settings, None, 3), build(RECIPE, settings, None, 3))
    assert not same(build(RECIPE, settings, None, 3), build(RECIPE.model_copy(update={"seed": 1}), settings, None, 3))


@pytest.mark.parametrize("shared", [True, False])
def test_a_network_comes_back_from_its_file(tmp_path: Path, settings: params.Params, *, shared: bool) -> None:
    recipe = RECIPE.model_copy(update={"shared": shared})
    network = build(recipe, settings, None, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save(network, tmp_path / "n.safetensors")
    again = build(recipe.model_copy(update={"seed": 5}), settings, None, 3)
    load(again, tmp_path / "n.safetensors")
    assert same(network, again)
    assert again.shared == shared


def test_a_file_of_another_network_is_refused(tmp_path: Path, settings: params.Params) -> None:
    save(build(RECIPE, settings, None, 3), tmp_path / "n.safetensors")
    with pytest.raises(PipelineError, match=r"n\.safetensors"):
        load(build(RECIPE, settings, None, 4), tmp_path / "n.safetensors")


def test_branches_of_their_own_are_trained_by_their_own_domain(settings: params.Params) -> None:
    network = build(RECIPE.model_copy(update={"shared": False}), settings, None, 3)
    photos, _, _ = network(torch.randn(3, 3, 64, 64), torch.randn(3, 3, 64, 64))
    photos.sum().backward()
    assert network.photo.embed.weight.grad is not None
    assert network.sketch.embed.weight.grad is None


def test_pretrained_layers_and_only_those_learn_slowly(settings: params.Params) -> None:
    recipe = RECIPE.model_copy(update={"start": "imagenet", "pretrained_rate": 0.1})
    network = TwoBranches(*[build(RECIPE, settings, None, 3).photo] * 2)
    slow = {
        id(value)
        for group in parameter_groups(network, recipe)
        if group["factor"] == 0.1
        for value in group["params"]  # type: ignore[attr-defined]
    }
    encoder = network.photo.encoder
    assert isinstance(encoder, Encoder)
    assert slow == {id(value) for value in encoder.stages.parameters()}
    every = [value for group in parameter_groups(network, recipe) for value in group["params"]]  # type: ignore[attr-defined]
    assert len(every) == len(list(network.parameters()))


def test_fewer_photos_than_a_batch_are_refused(tmp_path: Path, settings: params.Params) -> None:
    data = batches(tmp_path, photos=3)
    with pytest.raises(PipelineError, match="batch of 4"):
        train(build(RECIPE, settings, None, 3), data, RECIPE, settings.train, WHERE, tmp_path / "c.pt")


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path, settings: params.Params) -> None:
    recipe = RECIPE.model_copy(update={"learning_rate": 1e12, "warmup": 0.0})
    with pytest.raises(PipelineError, match="diverged"):
        train(build(recipe, settings, None, 3), batches(tmp_path), recipe, settings.train, WHERE, tmp_path / "c.pt")


def test_a_step_reports_how_many_sketches_are_nearest_to_their_photo(settings: params.Params, tmp_path: Path) -> None:
    data = batches(tmp_path)
    batch = data.batch(0, 0)
    network = build(RECIPE, settings, None, 3).eval()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.0)
    _, _, found = training.train_step(network, optimiser, batch, RECIPE, settings.train, WHERE)
    with torch.inference_mode():
        sketches = network.embed(inputs(batch.sketches, settings.train, WHERE.device), "sketch")
        photos = network.embed(inputs(batch.photos, settings.train, WHERE.device), "photo")
    cosine = torch.nn.functional.normalize(sketches) @ torch.nn.functional.normalize(photos).T
    assert found == pytest.approx(float((cosine.argmax(1).numpy() == batch.drawn).mean()))
    assert isinstance(batch, Batch)
    assert np.isfinite(found)
