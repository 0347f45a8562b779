from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pipeline_lib.search.strokes import EDGE, SIDE, rasterise, side_for, work
from pipeline_lib.search.wire import Stroke

places = st.floats(-1, 2)
strokes = st.lists(
    st.builds(
        Stroke,
        points=st.lists(st.tuples(places, places), min_size=1, max_size=8),
        width=st.floats(1e-6, 1.0, exclude_min=True),
        erase=st.booleans(),
    ),
    max_size=6,
)


def test_a_line_lies_where_pillow_draws_it() -> None:
    drawn = rasterise([Stroke(points=[(0.1, 0.2), (0.8, 0.7)], width=0.05)], 200)
    reference = Image.new("L", (800, 800), 255)
    pen = ImageDraw.Draw(reference)
    pen.line((80, 160, 640, 560), fill=0, width=40)
    for x, y in ((80, 160), (640, 560)):
        pen.ellipse((x - 20, y - 20, x + 20, y + 20), fill=0)
    wanted = np.asarray(reference.resize((200, 200), Image.Resampling.BOX), np.float64)
    assert np.abs(drawn - wanted).mean() < 2.0
    assert drawn.dtype == np.uint8


def test_one_point_is_a_dot_of_the_pens_width() -> None:
    drawn = rasterise([Stroke(points=[(0.5, 0.5)], width=0.2)], 200)
    area = (255.0 - drawn).sum() / 255
    assert area == pytest.approx(np.pi * 20**2, rel=0.06)


def test_the_eraser_takes_away_what_was_drawn_before_it_and_nothing_after() -> None:
    line = Stroke(points=[(0.1, 0.5), (0.9, 0.5)], width=0.05)
    rubber = Stroke(points=[(0.5, 0.3), (0.5, 0.7)], width=0.1, erase=True)
    assert rasterise([line, rubber], 100)[50, 50] == 255
    assert rasterise([line, rubber], 100)[50, 20] == 0
    assert rasterise([rubber, line], 100)[50, 50] == 0


def test_no_strokes_are_white_paper() -> None:
    assert (rasterise([], 64) == 255).all()


@settings(max_examples=60, deadline=None)
@given(strokes, st.integers(8, 96))
def test_any_strokes_give_a_picture_of_the_size_asked(lines: list[Stroke], side: int) -> None:
    drawn = rasterise(lines, side)
    assert drawn.shape == (side, side)
    if not any(line.erase is False for line in lines):
        assert (drawn == 255).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.sampled_from([64, 128, 512]))
def test_a_drawing_looks_alike_at_every_size(x: float, y: float, side: int) -> None:
    drawn = 255.0 - rasterise([Stroke(points=[(x, y), (0.5, 0.5)], width=0.1)], side)
    rows, columns = np.nonzero(drawn > 127)
    assert (columns.mean() + 0.5) / side == pytest.approx((x + 0.5) / 2, abs=0.02)
    assert (rows.mean() + 0.5) / side == pytest.approx((y + 0.5) / 2, abs=0.02)


def random_strokes(count: int, points: int, span: float, width: float, seed: int = 0) -> list[Stroke]:
    """Strokes that begin anywhere and whose steps are about `span` of the page long."""
    random = np.random.default_rng(seed)
    places = random.random((count, 1, 2)) + span * random.standard_normal((count, points, 2)).cumsum(axis=1)
    return [Stroke(points=list(map(tuple, line)), width=width) for line in places.clip(-1, 2)]


@pytest.mark.parametrize(
    ("lines", "side"),
    [
        (random_strokes(60, 80, 0.01, 0.03), SIDE),  # a drawing
        (random_strokes(2000, 50, 0.01, 0.014), SIDE),  # one that took hours
        (random_strokes(2000, 50, 0.05, 0.027), SIDE // 2),
        (random_strokes(2000, 50, 0.3, 0.027), SIDE // 4),  # lines all over the page
        (random_strokes(2000, 50, 1.0, 1.0), 0),
    ],
)
def test_the_time_that_strokes_take_is_bounded_before_any_is_drawn(lines: list[Stroke], side: int) -> None:
    assert side_for(lines) == side
    if side:
        started = time.process_time()
        rasterise(lines, side)
        assert time.process_time() - started < 1


def test_work_counts_each_stroke_by_its_own_lines_and_width() -> None:
    one, other = Stroke(points=[(0.0, 0.0), (0.5, 0.0)], width=0.1), Stroke(points=[(0.9, 0.9)], width=0.02)
    assert work([one], 100) == pytest.approx((50 + 2 * 2 * 10) * (10 + EDGE))
    assert work([other], 100) == pytest.approx(2 * 2 * (2 + EDGE))
    assert work([one, other], 100) == pytest.approx(work([one], 100) + work([other], 100))
