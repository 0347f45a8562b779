"""The teacher's relations against their formula, and what the teacher is asked and remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import scipy.special
import torch
from numpy.testing import assert_allclose
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models import timm_trunk
from pipeline_lib.models.context import ContextNet
from pipeline_lib.pretext.views import ViewShards
from pipeline_lib.training import teacher
from pipeline_lib.training.objective import Setup
from pipeline_lib.training.teacher import TEMPERATURE, Teaching, relational_loss

Make = Callable[..., params.Params]
IDS = [f"image/{number:02d}" for number in range(6)]
CPU = torch.device("cpu")


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_the_loss_is_the_divergence_over_the_others_of_the_batch() -> None:
    a, b, t = (unit(5, 8, seed) for seed in range(3))

    def others(table: torch.Tensor) -> np.ndarray:
        kept = np.exp([np.delete(row, k) for k, row in enumerate(table.double().numpy())])
        return np.asarray(kept / kept.sum(axis=1, keepdims=True))

    wanted = others(t @ t.T / TEMPERATURE)
    tables = [others(table / 0.2) for table in (a @ a.T, b @ a.T, a @ b.T)]
    expected = np.mean([(wanted * np.log(wanted / found)).sum(axis=1).mean() for found in tables])
    assert_allclose(float(relational_loss(a, b, t, torch.arange(5), 0.2)), expected, rtol=1e-4)


def test_views_as_alike_as_the_teacher_finds_them_lose_nothing_whatever_their_lengths() -> None:
    t = unit(6, 8, 0)
    assert_allclose(float(relational_loss(t * 3, t * 0.5, t, torch.arange(6), TEMPERATURE)), 0, atol=1e-5)
    assert float(relational_loss(t.flip(0), t, t, torch.arange(6), TEMPERATURE)) > 0.1


def test_of_views_of_one_photo_the_teacher_has_nothing_to_say() -> None:
    images = torch.tensor([0, 1, 2, 3, 0])
    t = unit(4, 8, 0)[images]
    a, b = unit(5, 8, 1), unit(5, 8, 2)

    def others(table: torch.Tensor) -> np.ndarray:
        values = np.exp(table.double().numpy()) * (images[:, None] != images[None, :]).numpy()
        return np.asarray(values / values.sum(axis=1, keepdims=True))

    wanted = others(t @ t.T / TEMPERATURE)
    tables = [others(table / 0.2) for table in (a @ a.T, b @ a.T, a @ b.T)]
    expected = np.mean([scipy.special.rel_entr(wanted, found).sum(axis=1).mean() for found in tables])
    assert_allclose(float(relational_loss(a, b, t, images, 0.2)), expected, rtol=1e-4)


def test_the_gradient_is_finite_where_the_teacher_is_sure() -> None:
    a = unit(4, 8, 0).requires_grad_()
    sure = torch.eye(4)[[0, 0, 1, 1]]  # pairs that the teacher can't tell apart
    relational_loss(a, a, sure, torch.arange(4), 0.01).backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None
    assert a.grad.isfinite().all()


@pytest.fixture
def asked(make_params: Make, pairs_folder: Path) -> Callable[[Path], Teaching]:
    settings = make_params({"train.teacher": "alexnet", "train.objectives.teacher": 1.0})
    stream = SimpleNamespace(shards=ViewShards(pairs_folder, IDS, settings.contrast))
    unused = cast("ContextNet", None)
    return lambda scratch: Teaching.of(Setup(settings.train, unused, stream, Path(), scratch, CPU, "fp32"))


def test_the_teacher_sees_every_training_photo_once(asked: Callable[[Path], Teaching], tmp_path: Path) -> None:
    found = asked(tmp_path)
    assert sorted(found.rows) == IDS
    assert found.vectors.shape == (6, 4 * 256)
    assert_allclose(found.vectors.norm(dim=1).numpy(), 1, rtol=1e-5)
    both, rows = found.told_of([IDS[3], IDS[0]], CPU)
    assert rows.tolist() == [found.rows[IDS[3]], found.rows[IDS[0]]]
    assert torch.equal(both[1], found.vectors[found.rows[IDS[0]]])


def test_a_network_of_timm_teaches_with_the_weights_of_its_hub(
    make_params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = []

    def fetched(name: str, file: Path | None) -> tuple[dict[str, torch.Tensor], str]:
        asked_for.append((name, file))
        return timm_trunk.Trunk(name).state_dict(), "timm"

    monkeypatch.setattr(timm_trunk, "pretrained", fetched)
    network = teacher._network(make_params({"train.teacher": "timm:resnet10t"}).train, Path(), CPU)
    assert asked_for == [("resnet10t", None)]
    assert network.pool5(torch.zeros(1, 3, 160, 160)).shape == (1, 512, 5, 5)


def test_a_run_that_goes_on_does_not_ask_again_and_a_damaged_answer_is_made_anew(
    asked: Callable[[Path], Teaching], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asked(tmp_path)
    (tmp_path / teacher.FILE).write_bytes(b"cut")
    assert torch.equal(asked(tmp_path).vectors, first.vectors)
    monkeypatch.setattr(teacher, "_network", pytest.fail)
    assert torch.equal(asked(tmp_path).vectors, first.vectors)
