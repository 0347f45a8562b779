from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_lib import params
from pipeline_lib.data.randomness import generator_for
from pipeline_lib.errors import PipelineError
from pipeline_lib.pretext.layout import (
    DIRECTIONS,
    ORDERED_PAIRS,
    PAIR_DIRECTIONS,
    PAIR_WEIGHTS,
    direction,
    draw_boxes,
)

anywhere = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_direction_names_say_where_the_second_region_lies() -> None:
    names = {(first, second): DIRECTIONS[direction(first, second)] for first, second in ORDERED_PAIRS}
    assert names[0, 1] == names[2, 3] == "right"
    assert names[1, 0] == names[3, 2] == "left"
    assert names[0, 2] == names[1, 3] == "down"
    assert names[2, 0] == names[3, 1] == "up"
    assert (names[0, 3], names[1, 2], names[2, 1], names[3, 0]) == ("down_right", "down_left", "up_right", "up_left")


def test_every_direction_has_the_same_total_weight() -> None:
    totals = np.bincount(PAIR_DIRECTIONS, PAIR_WEIGHTS)
    assert len(totals) == 8
    np.testing.assert_allclose(totals, 12 / 8)
    assert PAIR_WEIGHTS.mean() == pytest.approx(1.0)


@anywhere
@given(
    width=st.integers(60, 400),
    height=st.integers(60, 400),
    size=st.integers(4, 20),
    gap=st.integers(0, 9),
    cross=st.floats(0.0, 0.1),
    jitter=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
def test_patches_lie_inside_the_image_in_their_regions_and_keep_the_gap(
    make_params: Callable[..., params.Params],
    width: int,
    height: int,
    size: int,
    gap: int,
    cross: float,
    jitter: bool,
    seed: int,
) -> None:
    layout = make_params().patches.model_copy(
        update={"size": size, "gap": gap, "cross_jitter": cross, "jitter": jitter}
    )
    boxes = draw_boxes(width, height, layout, np.random.default_rng(seed)).astype(int)
    assert boxes.shape == (4, 4)
    assert (boxes[:, 2:] - boxes[:, :2] == size).all()
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= width).all()
    assert (boxes[:, [1, 3]] <= height).all()
    for left, right in ((0, 1), (2, 3), (0, 3), (2, 1)):
        assert boxes[right, 0] - boxes[left, 2] >= gap
    for top, bottom in ((0, 2), (1, 3), (0, 3), (1, 2)):
        assert boxes[bottom, 1] - boxes[top, 3] >= gap


def test_the_cross_and_the_patches_move_between_draws(make_params: Callable[..., params.Params]) -> None:
    layout = make_params().patches
    draws = {draw_boxes(300, 256, layout, generator_for(0, "a", draw)).tobytes() for draw in range(20)}
    assert len(draws) == 20
    still = layout.model_copy(update={"jitter": False, "cross_jitter": 0.0})
    assert len({draw_boxes(300, 256, still, generator_for(0, "a", draw)).tobytes() for draw in range(20)}) == 1


def test_the_same_seed_name_and_draw_give_the_same_layout(make_params: Callable[..., params.Params]) -> None:
    layout = make_params().patches
    first = draw_boxes(300, 256, layout, generator_for(3, "name", 1))
    np.testing.assert_array_equal(first, draw_boxes(300, 256, layout, generator_for(3, "name", 1)))
    assert not np.array_equal(first, draw_boxes(300, 256, layout, generator_for(4, "name", 1)))


def test_an_image_too_small_for_the_layout_is_an_error_that_names_the_keys(
    make_params: Callable[..., params.Params],
) -> None:
    with pytest.raises(PipelineError, match=r"edges\.short_side.*patches\.size"):
        draw_boxes(150, 150, make_params().patches, np.random.default_rng(0))
