"""How much of a drawing and of a photo the network is shown."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.embedding.framing import TYPICAL, frame, ink_box

Made = Callable[..., params.Params]
Pixels = NDArray[np.uint8]
SIDE = 256


@pytest.fixture
def cut(make_params: Made) -> params.Embed:
    """Settings under which drawings are cut out."""
    return make_params({"embed.cut_ink": 0.6}).embed


def ring(height: int, width: int, box: tuple[int, int, int, int]) -> Pixels:
    """A page with the outline of an ellipse that fills a box: left, top, right and bottom, px."""
    page = np.full((height, width, 3), 255, np.uint8)
    left, top, right, bottom = box
    centre, radii = ((left + right) // 2, (top + bottom) // 2), ((right - left) // 2, (bottom - top) // 2)
    cv2.ellipse(page, centre, radii, 0, 0, 360, (0, 0, 0), 1)
    return page


def place(drawing: Pixels) -> tuple[float, float, float, float]:
    """The width, height and centre (x, y) of a drawing's ink, as parts of its page, which is square."""
    assert drawing.shape[0] == drawing.shape[1]
    box = ink_box(drawing)
    assert box is not None
    left, top, right, bottom = (value / len(drawing) for value in box)
    return right - left, bottom - top, (left + right) / 2, (top + bottom) / 2


@pytest.mark.parametrize("box", [(20, 60, 220, 190), (60, 2, 120, 180), (0, 0, 255, 255)])
def test_a_drawing_of_full_size_on_a_square_page_stays_as_it_is(
    cut: params.Embed, box: tuple[int, int, int, int]
) -> None:
    drawing = ring(SIDE, SIDE, box)
    assert np.array_equal(frame(drawing, "sketch", cut), drawing)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("x", "y"), [(4, 4), (150, 8), (90, 140)])
def test_a_small_drawing_is_cut_out_as_large_as_drawings_are(cut: params.Embed, x: int, y: int, grey: bool) -> None:
    drawing = ring(SIDE, SIDE, (x, y, x + 100, y + 80))
    width, height, *centre = place(frame(drawing[..., 0] if grey else drawing, "sketch", cut))
    assert width == pytest.approx(TYPICAL, abs=0.02)
    assert height == pytest.approx(0.8 * TYPICAL, abs=0.02)
    assert centre == pytest.approx([0.5, 0.5], abs=0.02)


def test_a_small_drawing_looks_the_same_wherever_it_stands(cut: params.Embed) -> None:
    here, there = (frame(ring(512, 400, (x, y, x + 120, y + 90)), "sketch", cut) for x, y in ((3, 380), (250, 40)))
    assert np.array_equal(here, there)


@pytest.mark.parametrize(("height", "width"), [(SIDE, 342), (SIDE, 456), (342, SIDE)])
def test_a_square_drawing_in_the_middle_of_a_long_page_is_the_same_as_on_a_square_one(
    cut: params.Embed, height: int, width: int
) -> None:
    drawing = ring(SIDE, SIDE, (3, 30, 250, 240))
    page = np.full((height, width, 3), 255, np.uint8)
    y, x = (height - SIDE) // 2, (width - SIDE) // 2
    page[y : y + SIDE, x : x + SIDE] = drawing
    assert place(frame(page, "sketch", cut)) == pytest.approx(place(drawing), abs=0.1)
