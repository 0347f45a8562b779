"""Edge views look drawn, stay where the photo's edges are, and depend on their seed alone."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.pretext.drawing import (
    CANVAS,
    SPOT_OFF,
    SPOT_RADII,
    bend,
    draw_edges,
    edges_of_density,
    leave_out,
    spotlight,
    wipe_out,
)
from tests.conftest import scene

Make = Callable[..., params.Params]
STILL = {
    "contrast.rotation": 0.0,
    "contrast.warp": 0.0,
    "contrast.drop_strokes": 0.0,
    "contrast.erase": 0.0,
    "contrast.blur": [1.0, 1.0],
    "contrast.line_width": [1, 1],
    "contrast.image_size": CANVAS,
}


def grey_scene(seed: int) -> NDArray[np.uint8]:
    return np.asarray(scene(seed, (CANVAS, CANVAS)).mean(axis=2), np.uint8)


def test_a_drawing_is_dark_lines_on_white(make_params: Make) -> None:
    drawing = draw_edges(grey_scene(0), make_params().contrast, np.random.default_rng(0))
    assert drawing.shape == (make_params().contrast.image_size,) * 2
    assert drawing.dtype == np.uint8
    assert np.median(drawing) == 255
    assert drawing.min() < 100


def test_the_same_seed_draws_the_same_and_another_seed_another(make_params: Make) -> None:
    contrast = make_params().contrast
    first, again, other = (draw_edges(grey_scene(0), contrast, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_without_any_change_lines_lie_where_the_photo_changes(make_params: Make) -> None:
    picture = np.full((CANVAS, CANVAS), 40, np.uint8)
    picture[:, 100:] = 200
    drawing = draw_edges(picture, make_params(STILL).contrast, np.random.default_rng(0))
    rows, columns = np.nonzero(drawing < 128)
    assert len(rows) > 200
    assert set(columns.tolist()) <= {98, 99, 100, 101}


def test_a_picture_of_one_tone_has_no_lines(make_params: Make) -> None:
    drawing = draw_edges(np.full((90, 70), 77, np.uint8), make_params().contrast, np.random.default_rng(0))
    assert (drawing == 255).all()


@pytest.mark.parametrize("factor", [0.2, 0.5])
def test_a_pale_photo_gives_about_as_many_lines_as_a_crisp_one(factor: float) -> None:
    crisp = grey_scene(3)
    pale = (100 + factor * (crisp.astype(np.float64) - 100)).astype(np.uint8)
    counts = [np.count_nonzero(edges_of_density(picture, 1.0, 0.1)) for picture in (crisp, pale)]
    assert 0.7 * counts[0] < counts[1] < 1.4 * counts[0]


def test_a_higher_density_draws_more() -> None:
    texture = np.random.default_rng(0).integers(0, 256, (CANVAS, CANVAS)).astype(np.uint8)
    counts = [np.count_nonzero(edges_of_density(texture, 2.0, density)) for density in (0.02, 0.1, 0.3)]
    assert counts[0] < counts[1] < counts[2]


@settings(max_examples=30, deadline=None)
@given(part=st.floats(0, 1), seed=st.integers(0, 1000))
def test_strokes_are_kept_whole_or_left_out(part: float, seed: int) -> None:
    lines = np.zeros((100, 100), np.uint8)
    for number in range(5):
        lines[10 + 15 * number, 5:95] = 255
    lines[90, 90:95] = 255  # dust
    kept = leave_out(lines, part, np.random.default_rng(seed))
    assert not kept[90].any()
    for number in range(5):
        row = kept[10 + 15 * number]
        assert np.array_equal(row, lines[10 + 15 * number]) or not row.any()
    assert not kept[lines == 0].any()


def test_no_stroke_is_left_out_at_part_0_and_all_at_1() -> None:
    lines = np.zeros((100, 100), np.uint8)
    lines[20, 5:95] = lines[60, 5:95] = 255
    assert np.array_equal(leave_out(lines, 0.0, np.random.default_rng(0)), lines)
    assert not leave_out(lines, 1.0, np.random.default_rng(0)).any()


@settings(max_examples=20, deadline=None)
@given(part=st.floats(0, 0.9), seed=st.integers(0, 1000))
def test_about_the_asked_part_of_the_canvas_is_wiped_out(part: float, seed: int) -> None:
    full = np.full((CANVAS, CANVAS), 255, np.uint8)
    left = wipe_out(full, part, np.random.default_rng(seed))
    assert abs(np.mean(left == 0) - part) < 0.02


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_spotlight_keeps_an_ellipse_about_the_middle(seed: int) -> None:
    full = np.full((CANVAS, CANVAS), 255, np.uint8)
    kept = spotlight(full, np.random.default_rng(seed)) > 0
    low, high = (np.pi * radius**2 for radius in SPOT_RADII)
    assert 0.5 * low < kept.mean() < 1.01 * high
    count, _, _, centres = cv2.connectedComponentsWithStats(kept.astype(np.uint8))
    assert count == 2
    # Five standard deviations; what the border cuts off moves the middle inwards.
    assert np.abs(centres[1] / CANVAS - 0.5).max() < 5 * SPOT_OFF
    texture = np.random.default_rng(0).integers(0, 2, (CANVAS, CANVAS)).astype(np.uint8) * 255
    assert np.array_equal(spotlight(texture, np.random.default_rng(seed)), np.where(kept, texture, 0))


def test_as_many_drawings_are_under_a_spotlight_as_the_params_say(make_params: Make) -> None:
    texture = np.random.default_rng(0).integers(0, 256, (CANVAS, CANVAS)).astype(np.uint8)
    for part in (0.0, 0.5, 1.0):
        contrast = make_params({**STILL, "contrast.spotlight": part}).contrast
        corners = [
            np.any(draw_edges(texture, contrast, np.random.default_rng(seed))[:40, :40] < 255) for seed in range(60)
        ]
        assert abs(1 - np.mean(corners) - part) < 0.2


def test_without_rotation_and_warp_nothing_is_bent(make_params: Make) -> None:
    x, y = bend(make_params(STILL).contrast, np.random.default_rng(0))
    rows, columns = np.mgrid[0:CANVAS, 0:CANVAS]
    assert np.abs(x - columns).max() < 1e-4
    assert np.abs(y - rows).max() < 1e-4


def test_bending_goes_no_further_than_the_params_say(make_params: Make) -> None:
    contrast = make_params({**STILL, "contrast.warp": 0.05}).contrast
    rows, columns = np.mgrid[0:CANVAS, 0:CANVAS]
    for seed in range(20):
        x, y = bend(contrast, np.random.default_rng(seed))
        # Cubic smoothing may pass the values it runs through by a little.
        assert max(np.abs(x - columns).max(), np.abs(y - rows).max()) < 1.5 * 0.05 * CANVAS


def test_a_rotation_turns_about_the_centre(make_params: Make) -> None:
    contrast = make_params({**STILL, "contrast.rotation": 30.0}).contrast
    x, y = bend(contrast, np.random.default_rng(5))
    middle = (CANVAS - 1) / 2
    radius = np.hypot(x - middle, y - middle)
    rows, columns = np.mgrid[0:CANVAS, 0:CANVAS]
    assert np.abs(radius - np.hypot(columns - middle, rows - middle)).max() < 1e-2
    assert np.abs(x - columns).max() > 5
