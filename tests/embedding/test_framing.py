"""How much of a drawing and of a photo the network is shown."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.embedding.framing import LARGE, frame, guesses, ink_box

Made = Callable[..., params.Params]
Pixels = NDArray[np.uint8]
SIDE = 256


@pytest.fixture
def cut(make_params: Made) -> params.Embed:
    """Settings under which small drawings are also cut out."""
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
def test_a_drawing_of_full_size_is_searched_as_it_is_and_in_no_other_way(
    cut: params.Embed, box: tuple[int, int, int, int]
) -> None:
    drawing = ring(SIDE, SIDE, box)
    assert np.array_equal(frame(drawing, "sketch", cut), drawing)
    assert len(guesses(drawing, cut)) == 1


def test_nothing_is_guessed_where_the_params_do_not_ask_for_it(make_params: Made) -> None:
    assert len(guesses(ring(SIDE, SIDE, (10, 10, 60, 60)), make_params().embed)) == 1


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("x", "y"), [(4, 4), (150, 8), (90, 140)])
def test_a_small_drawing_is_searched_about_the_middle_and_so_that_it_fills_the_page(
    cut: params.Embed, x: int, y: int, grey: bool
) -> None:
    drawing = ring(SIDE, SIDE, (x, y, x + 100, y + 80))
    width, height, *centre = place(guesses(drawing[..., 0] if grey else drawing, cut)[-1])
    assert width == pytest.approx(LARGE, abs=0.02)
    assert height == pytest.approx(0.8 * LARGE, abs=0.02)
    assert centre == pytest.approx([0.5, 0.5], abs=0.02)


@pytest.mark.parametrize(("extent", "kept"), [(150, True), (60, True), (45, False), (20, False)])
def test_a_very_small_drawing_is_not_searched_as_it_stands(cut: params.Embed, extent: int, kept: bool) -> None:
    drawing = ring(SIDE, SIDE, (60, 60, 60 + extent, 60 + extent // 2))
    assert any(np.array_equal(guess, drawing) for guess in guesses(drawing, cut)) == kept


@pytest.mark.parametrize(("x", "y"), [(0, 0), (128, 0), (0, 128), (128, 128)])
def test_a_page_at_half_its_size_in_a_corner_is_one_of_the_guesses(cut: params.Embed, x: int, y: int) -> None:
    half = ring(128, 128, (6, 20, 110, 118))
    page = np.full((SIDE, SIDE, 3), 255, np.uint8)
    page[y : y + 128, x : x + 128] = half
    assert any(np.array_equal(guess, half) for guess in guesses(page, cut))


def test_every_guess_holds_the_whole_drawing(cut: params.Embed) -> None:
    drawing = ring(512, 400, (20, 380, 120, 460))
    ink = int((drawing[..., 0] < 200).sum())
    assert all(int((guess[..., 0] < 200).sum()) == ink for guess in guesses(drawing, cut))


def test_an_empty_page_is_shown_as_it_is(cut: params.Embed) -> None:
    assert [guess.shape for guess in guesses(np.full((300, 200), 255, np.uint8), cut)] == [(300, 300)]


def test_photos_are_padded_with_the_colour_of_their_border_where_asked_for(make_params: Made) -> None:
    photo = np.full((40, 60, 3), (10, 20, 30), np.uint8)
    assert np.array_equal(frame(photo, "photo", make_params().embed), photo)
    padded = frame(photo, "photo", make_params({"embed.fit": "pad"}).embed)
    assert padded.shape == (60, 60, 3)
    assert (padded == (10, 20, 30)).all()


@pytest.mark.parametrize(("height", "width"), [(SIDE, 342), (SIDE, 456), (342, SIDE)])
def test_a_square_drawing_in_the_middle_of_a_long_page_is_the_same_as_on_a_square_one(
    cut: params.Embed, height: int, width: int
) -> None:
    drawing = ring(SIDE, SIDE, (3, 30, 250, 240))
    page = np.full((height, width, 3), 255, np.uint8)
    y, x = (height - SIDE) // 2, (width - SIDE) // 2
    page[y : y + SIDE, x : x + SIDE] = drawing
    assert place(frame(page, "sketch", cut)) == pytest.approx(place(drawing), abs=0.1)
