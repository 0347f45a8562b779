from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline_lib.baselines.supervised.training import contrastive, distances, triplet


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), margin=st.floats(0.05, 2.0))
def test_losses_equal_loops_over_all_combinations(seed: int, margin: float) -> None:
    torch.manual_seed(seed)
    sketches, photos = torch.randn(5, 3), torch.randn(4, 3)
    drawn = torch.randint(4, (5,))
    units = functional.normalize(sketches), functional.normalize(photos)
    d = [[float((s - p).norm()) for p in units[1]] for s in units[0]]
    found = distances(sketches, photos)
    assert torch.allclose(found, torch.tensor(d), atol=2e-3)
    d = found.tolist()
    own = [d[s][int(drawn[s])] for s in range(5)]
    others = [(s, p) for s in range(5) for p in range(4) if p != int(drawn[s])]
    apart = [max(0.0, margin - d[s][p]) ** 2 for s, p in others]
    triplets = [max(0.0, margin + own[s] - d[s][p]) for s, p in others]
    wanted = sum(value**2 for value in own) / 5 + sum(apart) / max(1, sum(value > 0 for value in apart))
    assert float(contrastive(found, drawn, margin)) == pytest.approx(wanted, abs=1e-4)
    wanted = sum(triplets) / max(1, sum(value > 0 for value in triplets))
    assert float(triplet(found, drawn, margin)) == pytest.approx(wanted, abs=1e-4)


def test_distances_do_not_see_lengths() -> None:
    values = torch.randn(3, 4)
    assert torch.allclose(distances(values, values), distances(10 * values, 0.1 * values), atol=1e-3)


def test_pairs_that_coincide_and_others_at_the_far_side_cost_nothing() -> None:
    photos = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = distances(photos, photos)
    drawn = torch.tensor([0, 1])
    assert float(contrastive(found, drawn, 1.0)) < 1e-5
    assert float(triplet(found, drawn, 0.3)) == 0


def test_slopes_are_finite_where_sketch_and_photo_coincide() -> None:
    values = torch.ones(2, 3, requires_grad=True)
    triplet(distances(values, values), torch.tensor([0, 1]), 0.3).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
