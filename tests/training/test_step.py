from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models.context import ContextNet, Logits
from pipeline_lib.pretext.batches import Batch, PatchShards, pair_table
from pipeline_lib.training.context import ContextPrediction
from pipeline_lib.training.loop import Task, train_step
from pipeline_lib.training.objective import Weighted
from pipeline_lib.training.start import learning_rate, make_optimiser
from pipeline_lib.training.streams import Pairs, PatchStream, Predictions, pair_losses, patch_inputs
from pipeline_lib.training.summary import summarise

Make = Callable[..., params.Params]
CPU = torch.device("cpu")


def batch_of(count: int, *, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        [str(number) for number in range(count)],
        rng.integers(0, 256, (count, 4, 40, 40, 3), dtype=np.uint8),
        rng.integers(0, 256, (count, 4, 40, 40), dtype=np.uint8),
    )


def test_photo_patches_stand_before_the_edge_patches_of_their_image(make_params: Make) -> None:
    settings = make_params().train
    batch = batch_of(3)
    images = patch_inputs(batch, settings, CPU, None)
    assert images.shape == (24, 3, 40, 40)
    assert batch.photos is not None
    assert batch.edges is not None
    only_photos = patch_inputs(Batch(batch.image_ids, batch.photos, None), settings, CPU, None)
    only_edges = patch_inputs(Batch(batch.image_ids, None, batch.edges), settings, CPU, None)
    torch.testing.assert_close(images.view(3, 8, 3, 40, 40)[:, :4], only_photos.view(3, 4, 3, 40, 40))
    torch.testing.assert_close(images.view(3, 8, 3, 40, 40)[:, 4:], only_edges.view(3, 4, 3, 40, 40))


def test_colours_are_dropped_from_photos_alone_and_only_in_training(make_params: Make) -> None:
    settings = make_params({"train.color": "drop"}).train
    batch = batch_of(2)
    plain = patch_inputs(batch, settings, CPU, None).view(2, 8, 3, 40, 40)
    dropped = patch_inputs(batch, settings, CPU, torch.Generator().manual_seed(0)).view(2, 8, 3, 40, 40)
    torch.testing.assert_close(plain[:, 4:], dropped[:, 4:])
    assert not torch.allclose(plain[:, :4], dropped[:, :4])


def test_the_loss_weighs_directions_equally() -> None:
    table = pair_table("photo")
    pairs = Pairs.of(table, CPU)
    logits = torch.randn(5, 12, 8, dtype=torch.float64)
    found = pair_losses(Logits(logits, logits), pairs)
    log_p = functional.log_softmax(logits.float(), -1)
    per_direction = []
    for way in range(8):
        columns = np.nonzero(table.directions == way)[0]
        per_direction.append(-log_p[:, columns, way].mean())
    assert float(found.pair) == pytest.approx(float(torch.stack(per_direction).mean()), rel=1e-5)
    assert found.correct.shape == (5, 12)


def context_task(settings: params.Train, patches: Path) -> Task:
    """Context prediction on the layouts of two images."""
    stream = PatchStream(settings, patches, ["image/00", "image/01"], ["image/02"], CPU, "fp32")
    (batch,) = stream.batches(0, 0, 1)
    return Task(stream, batch, [Weighted(1.0, ContextPrediction())])


def network(settings: params.Train) -> ContextNet:
    torch.manual_seed(0)
    table = pair_table("cross")
    return ContextNet(settings, 64, torch.from_numpy(table.first), torch.from_numpy(table.second)).train()


def test_a_step_lowers_the_loss_on_its_own_batch(make_params: Make, patches_folder: Path) -> None:
    changes = {"train.fc6": 64, "train.head": [32], "train.dropout": 0.0, "train.pretrained": "none"}
    settings = make_params({**changes, "train.batch_images": 2}).train
    model = network(settings)
    optimiser = make_optimiser(model, settings)
    task = context_task(settings, patches_folder)
    found = [float(train_step(model, optimiser, [task], 0)["train_loss"]) for _ in range(30)]
    assert len(found) == 30
    assert found[-1] < 0.5 * found[0]


def test_gradients_of_a_steps_tasks_add_up(make_params: Make, patches_folder: Path) -> None:
    changes = {"train.fc6": 64, "train.head": [32], "train.dropout": 0.0, "train.pretrained": "none"}
    settings = make_params({**changes, "train.batch_norm": False, "train.batch_images": 2}).train
    task = context_task(settings, patches_folder)
    models = [network(settings) for _ in range(2)]
    twice = Task(task.stream, task.batch, [Weighted(2.0, ContextPrediction())])
    for model, tasks in zip(models, ([task, task], [twice]), strict=True):
        train_step(model, make_optimiser(model, settings), tasks, 0)
    for first, second in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(first, second)


def test_the_learning_rate_warms_up_and_falls_to_zero(make_params: Make) -> None:
    settings = make_params({"train.warmup": 0.1, "train.learning_rate": 1.0}).train
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001


def test_every_parameter_is_learned_once_and_pretrained_ones_at_their_own_rate(make_params: Make) -> None:
    settings = make_params({"train.pretrained": "conv2", "train.pretrained_rate": 0.1}).train
    table = pair_table("cross")
    model = ContextNet(settings, 96, torch.from_numpy(table.first), torch.from_numpy(table.second))
    optimiser = make_optimiser(model, settings)
    grouped = [
        (id(value), group["factor"], group["weight_decay"])
        for group in optimiser.param_groups
        for value in group["params"]
    ]
    assert sorted(key for key, _, _ in grouped) == sorted(id(value) for value in model.parameters())
    factors = {key: factor for key, factor, _ in grouped}
    decays = {key: decay for key, _, decay in grouped}
    assert factors[id(model.encoder.conv(2).weight)] == 0.1
    assert factors[id(model.encoder.conv(3).weight)] == factors[id(model.encoder.fc6.weight)] == 1.0
    assert decays[id(model.encoder.conv(2).bias)] == 0.0
    assert decays[id(model.encoder.fc6.weight)] == settings.weight_decay


def test_frozen_layers_stay_as_they_are_and_the_rest_learns(make_params: Make, patches_folder: Path) -> None:
    changes = {"train.pretrained": "conv3", "train.frozen": "conv2", "train.fc6": 64, "train.batch_images": 2}
    settings = make_params(changes).train
    model = network(settings)
    optimiser = make_optimiser(model, settings)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    task = context_task(settings, patches_folder)
    for _ in range(2):
        train_step(model, optimiser, [task], 0)
    same = {name for name, value in model.encoder.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if name.startswith(("stages.0.", "stages.1."))}


def test_the_summary_weighs_directions_and_separates_heads_and_domain_orders() -> None:
    table = pair_table("cross")
    orders = np.array(table.order)
    right = np.tile(table.directions >= 4, (6, 1))  # all diagonals right, all sides wrong: half of the directions
    alone = np.zeros_like(right)
    right[:, orders == "edges_photo"] &= False
    found = Predictions([f"i{n // 2}" for n in range(6)], right, alone, 1.0)
    summary = summarise(found, table, np.array(["a", "a", "b", "b", "c", "c"]), 100, 0)
    assert summary["accuracy"] == pytest.approx(0.25)
    assert summary["per_domain_order"] == {"edges_photo": 0.0, "photo_edges": 0.5}
    assert summary["per_direction"]["right"] == 0.0
    assert summary["per_direction"]["down_right"] == 0.5
    assert summary["accuracy_one_patch"] == 0.0
    assert summary["accuracy_gain_over_one_patch_ci95"] == [0.25, 0.25]
    assert (summary["images"], summary["layouts"], summary["pairs"]) == (3, 6, 144)


def test_pretext_intervals_resample_images_not_pairs() -> None:
    table = pair_table("photo")
    right = np.repeat(np.arange(40) % 2 == 0, 12).reshape(40, 12)  # images are all right or all wrong
    found = Predictions([str(n) for n in range(40)], right, right, 1.0)
    together = summarise(found, table, np.array([str(n // 10) for n in range(40)]), 500, 0)
    each = summarise(found, table, np.array([str(n) for n in range(40)]), 500, 0)
    low, high = each["accuracy_ci95"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 40), rel=0.2)
    assert together["accuracy"] == each["accuracy"] == pytest.approx(0.5)


def test_the_encoder_reads_shards_of_every_domain(make_params: Make, patches_folder: Path) -> None:
    for domain, patches in (("cross", 8), ("photo", 4), ("edges", 4)):
        settings = make_params({"train.domain": domain}).train
        shards = PatchShards(patches_folder, ["image/00", "image/01"], settings.domain)
        (batch,) = shards.epoch(0, 2, shuffle=None)
        assert len(patch_inputs(batch, settings, CPU, None)) == 2 * patches
