"""The contrastive objective against its formula, and training with it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.data.schemas import CATALOG, write_rows
from pipeline_lib.errors import PipelineError
from pipeline_lib.training.contrast import info_nce
from pipeline_lib.training.keeping import departure
from pipeline_lib.training.loop import Trained, train, train_step
from pipeline_lib.training.streams import ViewSource, group_numbers
from tests.conftest import catalog_frame

Make = Callable[..., params.Params]
IDS = [f"image/{number:02d}" for number in range(14)]
TINY = {
    "train.fc6": 32,
    "train.head": [16],
    "train.batch_images": 4,
    "train.epochs": 2,
    "train.pretrained": "none",
    "train.objectives.contrast": 1.0,
    "train.threads": 1,
    "machine.checkpoint_seconds": 0.0,
    "contrast.batch_images": 6,
    "contrast.image_size": 64,
    "edges.short_side": 180,
    "patches.size": 64,
}


def test_the_loss_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((5, 8)).astype(np.float32) for _ in range(2))
    unit_a, unit_b = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (a, b))
    logits = unit_b @ unit_a.T / 0.1
    both = [
        -np.mean([table[k, k] - math.log(np.exp(table[k]).sum()) for k in range(5)]) for table in (logits, logits.T)
    ]
    loss, correct = info_nce(torch.from_numpy(a), torch.from_numpy(b), torch.arange(5), 0.1)
    assert_allclose(float(loss), sum(both) / 2, rtol=1e-5)
    assert correct.tolist() == (logits.argmax(1) == np.arange(5)).tolist()


def test_the_loss_does_not_see_the_lengths_of_vectors() -> None:
    a, b = torch.randn(6, 8), torch.randn(6, 8)
    first, _ = info_nce(a, b, torch.arange(6), 0.07)
    second, _ = info_nce(a * 9, b * torch.rand(6, 1), torch.arange(6), 0.07)
    assert_allclose(float(first), float(second), rtol=1e-4)


def test_images_of_a_group_are_not_told_apart() -> None:
    a = functional.normalize(torch.randn(4, 8), dim=1)
    twin = a.clone()
    twin[1] = a[0]  # two photos of one group look the same
    apart, _ = info_nce(twin, twin, torch.tensor([0, 1, 2, 3]), 0.05)
    together, correct = info_nce(twin, twin, torch.tensor([0, 0, 2, 3]), 0.05)
    assert float(together) < float(apart)
    assert correct.all()


def test_departure_is_the_angle_at_every_place_whatever_the_strength() -> None:
    start = torch.rand(3, 8, 2, 2)
    assert_allclose(float(departure(start * 7, start)), 0, atol=1e-6)
    turned = start.clone()
    turned[:, :, 0, 0] *= -1  # one of four places
    assert_allclose(float(departure(turned, start)), 2 / 4, rtol=1e-5)


def test_groups_are_numbered_by_name_and_strangers_stand_alone() -> None:
    assert group_numbers(["a", "b", "c", "d"], {"a": "x", "c": "x", "b": "y"}).tolist() == [0, 1, 0, 2]


def test_an_image_and_its_mirror_image_are_told_apart() -> None:
    mirrored = np.array([False, False, True, True])
    assert group_numbers(["a", "b", "a", "c"], {"a": "x", "c": "x"}, mirrored).tolist() == [0, 1, 2, 2]


def trained_with(
    make_params: Make, changes: dict[str, object], pairs: Path, patches: Path, scratch: Path, groups: dict[str, str]
) -> Trained:
    settings = make_params({**TINY, **changes})
    source = ViewSource(pairs, settings.contrast, groups)
    seconds = settings.machine.checkpoint_seconds
    return train(settings.train, patches, IDS[:12], IDS[12:], Path(), scratch, source, seconds)


def test_both_objectives_are_learned_and_told(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    trained = trained_with(make_params, {}, pairs_folder, patches_folder, tmp_path / "run", {})
    row = trained.history[-1]
    assert math.isfinite(row["train_loss"])
    assert 0 < row["contrast_loss"] < 10
    assert 0 <= row["contrast_accuracy"] <= 1
    assert trained.matched == row["val_match_at_1"] in (0.0, 0.5, 1.0)


def test_contrast_alone_leaves_the_context_heads_as_they_were(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    changes: dict[str, object] = {"train.objectives.context": 0.0, "train.weight_decay": 0.0}
    once = trained_with(make_params, changes | {"train.epochs": 1}, pairs_folder, patches_folder, tmp_path / "a", {})
    twice = trained_with(make_params, changes, pairs_folder, patches_folder, tmp_path / "b", {})
    assert math.isnan(once.history[0]["train_loss"])
    heads = [model.model.fusion.state_dict() for model in (once, twice)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not torch.equal(once.model.encoder.fc6.weight, twice.model.encoder.fc6.weight)


def test_without_weight_the_contrast_changes_no_bit(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    changes: dict[str, object] = {"train.objectives.contrast": 0.0}
    given = trained_with(make_params, changes, pairs_folder, patches_folder, tmp_path / "a", {})
    settings = make_params({**TINY, **changes}).train
    absent = train(settings, patches_folder, IDS[:12], IDS[12:], Path(), tmp_path / "b")
    first, second = given.model.state_dict(), absent.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "contrast_loss" not in given.history[0]


def test_kept_photo_maps_move_less(make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path) -> None:
    moved = {}
    for weight in (1e-6, 10.0):
        changes: dict[str, object] = {
            "train.pretrained": "conv2",
            "train.objectives.keeping": weight,
            "train.epochs": 4,
        }
        trained = trained_with(make_params, changes, pairs_folder, patches_folder, tmp_path / str(weight), {})
        moved[weight] = [row["departure"] for row in trained.history]
    assert moved[10.0][-1] < moved[1e-6][-1]
    assert all(0 < value < 1 for value in moved[10.0])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.pretrained": "conv1", "train.objectives.keeping": 1.0},
        {"train.teacher": "alexnet", "train.objectives.teacher": 1.0},
    ],
)
def test_a_run_that_goes_on_ends_in_the_same_bits(
    make_params: Make,
    pairs_folder: Path,
    patches_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
) -> None:
    whole = trained_with(make_params, changes, pairs_folder, patches_folder, tmp_path / "whole", {})
    real, calls = train_step, []

    def cut(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("pipeline_lib.training.loop.train_step", cut)
    with pytest.raises(KeyboardInterrupt):
        trained_with(make_params, changes, pairs_folder, patches_folder, tmp_path / "cut", {})
    monkeypatch.setattr("pipeline_lib.training.loop.train_step", real)
    resumed = trained_with(make_params, changes, pairs_folder, patches_folder, tmp_path / "cut", {})
    first, second = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.history == resumed.history


def test_fewer_images_than_a_batch_are_all_taken(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    changes: dict[str, object] = {"contrast.batch_images": 99, "contrast.temperature": 10.0}
    trained = trained_with(make_params, changes, pairs_folder, patches_folder, tmp_path / "r", {})
    # At so high a temperature all look alike: the loss is the logarithm of how many there are.
    assert abs(trained.history[0]["contrast_loss"] - math.log(12)) < 0.1


def test_a_run_goes_on_only_where_the_same_images_belong_together(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which views are no negatives of each other depends on the groups, so another grouping is another run."""
    stage = importlib.import_module("train")
    monkeypatch.setattr(stage, "SCRATCH", tmp_path / "checkpoints")
    assert (pairs_folder.parent, patches_folder.parent) == (tmp_path, tmp_path)

    def runs_after(groups: list[str], weight: float) -> int:
        """The number of runs with a checkpoint, after one more that breaks in its second step."""
        split = ["train"] * 12 + ["val"] * 2
        rows = [
            {"image_id": name, "group_id": group, "split": part}
            for name, group, part in zip(IDS, groups, split, strict=True)
        ]
        write_rows(tmp_path / "catalog.parquet", catalog_frame(rows).to_dict("records"), CATALOG)  # type: ignore[arg-type]  # columns are strings
        broken = {"train.objectives.contrast": weight, "train.learning_rate": 1e30, "train.batch_norm": False}
        with pytest.raises(PipelineError, match="diverged"):
            stage.main(make_params({**TINY, **broken}), tmp_path, tmp_path)
        return len(list((tmp_path / "checkpoints").glob("train-*/checkpoint.pt")))

    joined = [IDS[0], IDS[0], *IDS[2:]]
    assert [runs_after(groups, 1.0) for groups in (IDS, IDS, joined)] == [1, 1, 2]
    # Without the contrast groups decide nothing.
    assert [runs_after(groups, 0.0) for groups in (IDS, joined)] == [3, 3]


def test_a_contrast_of_one_image_is_refused(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    settings = make_params({**TINY, "train.batch_images": 2})
    (tmp_path / "one").mkdir()
    rows = pq.read_table(next(iter(sorted(pairs_folder.glob("part-*.parquet")))))
    pq.write_table(rows.slice(0, 1), tmp_path / "one" / "part-00000.parquet")
    source = ViewSource(tmp_path / "one", settings.contrast, {})
    with pytest.raises(PipelineError, match=r"train\.objectives\.contrast: a contrast needs two"):
        train(settings.train, patches_folder, IDS[:12], IDS[12:], Path(), tmp_path / "r", source)


def test_objectives_of_no_weight_are_refused(make_params: Make) -> None:
    with pytest.raises(PipelineError, match=r"objectives: all weights are 0"):
        make_params({"train.objectives.context": 0.0, "train.objectives.contrast": 0.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.objectives.contrast": 0.0}, r"objectives\.keeping: is measured on the contrast's views"),
        (
            {"train.objectives.contrast": 0.0, "train.objectives.keeping": 0.0, "train.objectives.teacher": 1.0},
            r"objectives\.teacher: is measured on the contrast's views",
        ),
        ({"train.pretrained": "none"}, r"objectives\.keeping: without pretrained layers"),
    ],
)
def test_keeping_what_is_not_there_is_refused(make_params: Make, changes: dict[str, object], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        make_params({"train.objectives.contrast": 1.0, "train.objectives.keeping": 1.0, **changes})
