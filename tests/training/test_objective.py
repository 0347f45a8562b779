"""Which objectives take part in a training, and how their losses are added up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor

from pipeline_lib import params
from pipeline_lib.models.context import ContextNet
from pipeline_lib.pretext.batches import pair_table
from pipeline_lib.registry import OBJECTIVES, load
from pipeline_lib.training.objective import Objective, Setup, Weighted, objectives_of, weighted_loss

Make = Callable[..., params.Params]


def setup(make_params: Make, weights: dict[str, float]) -> Setup:
    changes = {f"train.objectives.{name}": weight for name, weight in weights.items()}
    settings = make_params({"train.fc6": 16, "train.head": [8], **changes}).train
    table = pair_table("cross")
    model = ContextNet(settings, 64, torch.from_numpy(table.first), torch.from_numpy(table.second))
    return Setup(settings, model, None, Path(), Path(), torch.device("cpu"), "fp32")


class Fixed(Objective):
    """Says always the same."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    @classmethod
    def of(cls, setup: Setup) -> Self:
        raise NotImplementedError

    def loss(self, outputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.value, {outputs: self.value}


@pytest.mark.parametrize(
    ("weights", "patches", "views"),
    [
        ({"context": 1.0, "contrast": 0.0}, ["context"], []),
        ({"context": 0.0, "contrast": 0.5}, [], ["contrast"]),
        ({"keeping": 3.0, "contrast": 0.5, "context": 2.0}, ["context"], ["contrast", "keeping"]),
    ],
)
def test_objectives_with_a_weight_take_part_in_the_registrys_order_whatever_that_of_the_params(
    make_params: Make, weights: dict[str, float], patches: list[str], views: list[str]
) -> None:
    made = setup(make_params, weights)
    for reads, names in (("patches", patches), ("views", views)):
        found = objectives_of(made, reads)
        assert [weight for weight, _ in found] == [weights[name] for name in names]
        assert [type(objective) for _, objective in found] == [load(OBJECTIVES[name].place) for name in names]
    assert made.settings.views == bool(views)


def test_the_loss_is_the_weighted_sum_and_figures_hold_no_gradient() -> None:
    one, other = (torch.tensor(value, requires_grad=True) for value in (3.0, 5.0))
    total, figures = weighted_loss([Weighted(0.5, Fixed(one)), Weighted(2.0, Fixed(other))], "figure")
    assert float(total.detach()) == 0.5 * 3 + 2 * 5
    total.backward()  # type: ignore[no-untyped-call]
    assert (one.grad, other.grad) == (torch.tensor(0.5), torch.tensor(2.0))
    assert figures.keys() == {"figure"}
    assert not figures["figure"].requires_grad
