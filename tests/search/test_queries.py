"""What people search with, as they send it: photographed paper, boards, transparent pictures, SVG, colours, photos."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline_lib.data.images import BadImage, TooLarge, encode_jpeg, encode_png
from pipeline_lib.search.queries import Kind, Query, line_width, mirrored, of_pixels, read_query
from pipeline_lib.search.strokes import rasterise
from pipeline_lib.search.wire import Stroke
from tests.conftest import scene

Pixels = NDArray[np.uint8]
MOST = 10_000_000
SIDE = 600
KINDS: tuple[Kind, ...] = ("auto", "drawing", "photo")


def house(side: int = SIDE, thickness: int = 6) -> Pixels:
    """A drawing of lines, uint8[side, side], 0 where it is drawn and 255 on paper."""
    page = np.full((side, side), 255, np.uint8)

    def at(*places: tuple[float, float]) -> NDArray[np.int32]:
        return np.round(np.array(places) * side).astype(np.int32)

    walls, roof = at((0.3, 0.45), (0.7, 0.45), (0.7, 0.75), (0.3, 0.75)), at((0.25, 0.45), (0.5, 0.2), (0.75, 0.45))
    door = at((0.45, 0.75), (0.45, 0.58), (0.55, 0.58), (0.55, 0.75))
    for line, closed in ((walls, True), (roof, False), (door, False)):
        cv2.polylines(page, [line], closed, 0, thickness, cv2.LINE_AA)
    cv2.circle(page, at((0.5, 0.35))[0].tolist(), round(0.04 * side), 0, thickness, cv2.LINE_AA)
    return page


def inked(drawing: Pixels, paper: tuple[int, int, int], ink: tuple[int, int, int], strength: float = 1.0) -> Pixels:
    """A drawing in other colours, uint8[H, W, 3]."""
    part = (strength * (255 - drawing) / 255)[..., None]
    return np.asarray(np.array(paper) * (1 - part) + np.array(ink) * part, np.uint8)


def photographed(sheet: Pixels, *, shadow: float = 0.35, noise: float = 3.0) -> bytes:
    """A sheet as a camera sees it, as JPEG: light from one side, the soft shadow of a hand, noise."""
    height, width = sheet.shape[:2]
    light = np.linspace(1.05, 0.6, width)[None, :] * np.linspace(1.0, 0.85, height)[:, None]
    hand = np.zeros((height, width), np.float32)
    cv2.ellipse(hand, (width, height // 2), (width // 3, height // 3), 20, 0, 360, 1.0, cv2.FILLED)
    light = light * (1 - shadow * cv2.GaussianBlur(hand, (0, 0), 20))
    grain = np.random.default_rng(0).normal(0, noise, sheet.shape)
    seen = cv2.GaussianBlur(sheet, (0, 0), 0.7) * light[..., None] * np.array([1.0, 0.97, 0.88]) + grain
    return encode_jpeg(np.clip(seen, 0, 255).astype(np.uint8), 85)


def on_desk(sheet: Pixels, turn: float = 6.0) -> Pixels:
    """A sheet that lies, turned by some degrees, on a larger desk of dark wood."""
    rng = np.random.default_rng(1)
    height, width = (round(side * 1.5) for side in sheet.shape[:2])
    grain = cv2.resize(rng.normal(0, 14, (height // 4, 8)), (width, height), interpolation=cv2.INTER_CUBIC)
    desk = np.clip(np.array([120, 82, 55]) + grain[..., None], 0, 255).astype(np.uint8)
    middle = (sheet.shape[1] / 2, sheet.shape[0] / 2)
    move = cv2.getRotationMatrix2D(middle, turn, 1.0)
    move[:, 2] += (width / 2 - middle[0], height / 2 - middle[1])
    return np.asarray(
        cv2.warpAffine(sheet, move, (width, height), desk, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT), np.uint8
    )


def likeness(found: Query, drawing: Pixels) -> float:
    """Intersection over union of the ink of a query and of a drawing, each scaled to its own extent: 0..1."""

    def fitted(picture: Pixels) -> NDArray[np.bool_]:
        ink = picture < 160
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        part = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        small = cv2.resize(part, (96, 96), interpolation=cv2.INTER_AREA)
        return cv2.dilate((small < 200).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0

    first, second = fitted(found.pixels.min(axis=2)), fitted(drawing)
    return float((first & second).sum() / (first | second).sum())


def read(data: bytes, kind: Kind = "auto") -> Query:
    return read_query(data, max_pixels=MOST, kind=kind)


def rgba(colours: tuple[int, int, int], drawing: Pixels) -> bytes:
    """A PNG with lines of one colour on transparent ground."""
    picture = np.dstack([np.full((*drawing.shape, 3), colours, np.uint8), 255 - drawing])
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    return data.getvalue()


def svg(inside: str, more: str = 'viewBox="0 0 100 100"') -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg" {more}>{inside}</svg>'.encode()


HOUSE_SVG = (
    '<g fill="none" stroke="{}"><path d="M30 45H70V75H30ZM25 45L50 20 75 45M45 75V58H55V75"/>'
    '<circle cx="50" cy="35" r="4"/></g>'
)

PAPERS = {
    "pencil on white paper": lambda: inked(house(), (245, 244, 238), (70, 70, 75), 0.5),
    "a blue pen on yellow paper": lambda: inked(house(), (240, 225, 150), (30, 40, 130)),
    "a red marker on a whiteboard": lambda: inked(house(thickness=10), (232, 236, 240), (200, 30, 40)),
    "chalk on a blackboard": lambda: inked(house(thickness=8), (38, 44, 40), (225, 226, 220), 0.85),
    "a drawing that leaves most of the paper empty": lambda: inked(
        np.pad(house(300, 4), ((40, 360), (330, 70)), constant_values=255), (245, 244, 238), (60, 60, 70), 0.7
    ),
    "paper on a desk": lambda: on_desk(inked(house(), (245, 243, 236), (70, 70, 80), 0.6)),
}


@pytest.mark.parametrize("what", PAPERS)
def test_a_photographed_drawing_is_dark_lines_on_white(what: str) -> None:
    found = read(photographed(PAPERS[what]()))
    assert found.domain == "sketch"
    assert not found.blank
    assert (found.pixels == 255).mean() > 0.9  # neither light nor desk is left
    assert likeness(found, house()) > 0.5


SCREENS = {
    "black on white": lambda: encode_png(house()),
    "white on black": lambda: encode_png(np.asarray(255 - house(), np.uint8)),
    "yellow on white": lambda: encode_png(inked(house(), (255, 255, 255), (250, 220, 0))),
    "green on cream, as JPEG": lambda: encode_jpeg(inked(house(), (250, 240, 215), (20, 120, 60)), 80),
    "black on nothing": lambda: rgba((0, 0, 0), house()),
    "white on nothing": lambda: rgba((255, 255, 255), house()),
    "red on nothing": lambda: rgba((230, 20, 20), house()),
    "SVG": lambda: svg(HOUSE_SVG.format("black")),
    "SVG with white lines": lambda: svg(HOUSE_SVG.format("#ffffff")),
    "SVG with a prologue": lambda: b'<?xml version="1.0"?>\n<!-- drawn -->\n' + svg(HOUSE_SVG.format("teal")),
}


@pytest.mark.parametrize("what", SCREENS)
def test_a_drawing_made_on_a_screen_is_dark_lines_on_white(what: str) -> None:
    found = read(SCREENS[what]())
    assert (found.domain, found.blank) == ("sketch", False)
    assert likeness(found, house()) > 0.7


def test_a_clean_drawing_keeps_every_pixel() -> None:
    drawing = house(256, 3)
    assert np.array_equal(read(encode_png(drawing)).pixels, np.repeat(drawing[..., None], 3, axis=2))


@pytest.mark.parametrize("width", [0.014, 0.03, 0.045])
def test_lines_of_any_pen_stay_lines(width: float) -> None:
    drawing = house(512, round(512 * width))
    assert np.array_equal(read(encode_png(drawing)).pixels, of_pixels(drawing).pixels)


def test_of_coloured_areas_the_outlines_are_left() -> None:
    painted = np.full((400, 400, 3), 255, np.uint8)
    cv2.rectangle(painted, (60, 150), (330, 330), (250, 210, 40), cv2.FILLED)
    cv2.circle(painted, (200, 150), 70, (200, 30, 30), cv2.FILLED)
    cv2.rectangle(painted, (60, 150), (330, 330), (0, 0, 0), 4)
    found = read(encode_png(painted)).pixels.min(axis=2)
    assert found[250, 200] > 200  # within the yellow
    assert found[110, 200] > 200  # within the red
    assert found[148:154, 100].min() < 100  # the black line
    assert found[76:86, 200].min() < 128  # where red ends and paper begins
    assert found[20, 20] == 255


def test_pictures_are_turned_upright_before_they_are_read() -> None:
    drawing = inked(house(), (255, 255, 255), (0, 0, 0))
    data = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(drawing))).save(data, "JPEG", quality=95, exif=exif)
    assert likeness(read(data.getvalue()), house()) > 0.8


@pytest.mark.parametrize("seed", range(6))
def test_a_photo_is_told_from_a_drawing(seed: int) -> None:
    photo = scene(seed, (300, 400))
    noise = np.random.default_rng(seed).normal(0, 4, photo.shape)
    found = read(encode_jpeg(np.clip(photo + noise, 0, 255).astype(np.uint8), 90))
    assert (found.domain, found.blank) == ("photo", False)


def test_what_a_picture_is_taken_for_can_be_said() -> None:
    drawing, photo = encode_png(house()), encode_jpeg(scene(1, (300, 400)), 90)
    assert read(drawing, "photo").domain == "photo"
    assert read(photo, "drawing").domain == "sketch"
    assert read(drawing, "drawing").domain == "sketch"
    assert read(photo, "photo").pixels.shape == (300, 400, 3)
    assert of_pixels(house()).domain == "sketch"
    assert of_pixels(house(), "photo").domain == "photo"


PAPER = np.full((400, 500, 3), (240, 238, 230), np.uint8)
BLANKS = {
    "white paper": lambda: encode_png(np.full((300, 300), 255, np.uint8)),
    "a black picture": lambda: encode_png(np.zeros((300, 300, 3), np.uint8)),
    "transparent": lambda: rgba((0, 0, 0), np.full((200, 200), 255, np.uint8)),
    "an SVG without anything": lambda: svg(""),
    "an SVG with a dot": lambda: svg('<circle cx="50" cy="50" r="1"/>'),
    "a photo of empty paper": lambda: photographed(PAPER),
    "a photo of empty paper on a desk": lambda: photographed(on_desk(PAPER)),
}


@pytest.mark.parametrize("what", BLANKS)
def test_a_picture_with_nothing_drawn_is_blank(what: str) -> None:
    assert read(BLANKS[what]()).blank


@pytest.mark.parametrize("width", [0.01, 0.03, 0.08])
def test_strokes_are_blank_until_there_is_more_than_a_dot(width: float) -> None:
    dot = Stroke(points=[(0.4, 0.4)], width=width)
    line = Stroke(points=[(0.1, 0.1), (0.8, 0.7)], width=width)
    rubber = Stroke(points=[(0.0, 0.0), (1.0, 0.9)], width=1.0, erase=True)
    assert of_pixels(rasterise([])).blank
    assert of_pixels(rasterise([dot])).blank
    assert not of_pixels(rasterise([line])).blank
    assert of_pixels(rasterise([line, rubber])).blank


THICK = [(0.1, 0.2), (0.9, 0.2), (0.9, 0.8)]


@pytest.mark.parametrize("width", [0.03, 0.06])
def test_thick_lines_are_thinned_to_what_networks_know(width: float) -> None:
    found = of_pixels(rasterise([Stroke(points=THICK, width=width)])).pixels[..., 0]
    assert line_width(found) == pytest.approx(0.013 * len(found), rel=0.2)
    assert found[round(0.2 * len(found)), len(found) // 2] < 128  # the middle of the line


def test_a_fine_line_beside_thick_ones_does_not_vanish() -> None:
    fine = Stroke(points=[(0.2, 0.4), (0.6, 0.7)], width=0.008)
    found = of_pixels(rasterise([Stroke(points=THICK, width=0.05), fine])).pixels[..., 0]
    assert found[round(0.55 * len(found)), round(0.4 * len(found))] < 128


def test_lines_of_a_small_drawing_are_as_thin_as_they_will_be_shown() -> None:
    small = [Stroke(points=[(0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.1, 0.1)], width=0.02)]
    found = of_pixels(rasterise(small)).pixels[..., 0]
    assert line_width(found) < 0.5 * 0.013 * len(found)


def shrunk(drawing: Pixels, side: int) -> Pixels:
    """A drawing of fewer pixels."""
    return np.asarray(cv2.resize(drawing, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def blurred(drawing: Pixels, side: int) -> Pixels:
    """A drawing that was merely enlarged."""
    return np.asarray(cv2.resize(drawing, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_a_small_drawing_of_few_pixels_has_clear_lines() -> None:
    page = np.full((256, 256), 255, np.uint8)
    page[:128, 128:] = small = shrunk(house(256, 3), 128)
    found = of_pixels(page).pixels[:256, 256:, 0]
    sharp = [float((picture[picture < 200] < 50).mean()) for picture in (blurred(small, 256), found)]
    assert sharp[0] < 0.5  # enlarging alone would leave lines pale along their borders
    assert sharp[1] > 0.75


@pytest.mark.parametrize("width", [0.006, 0.012, 0.015])
def test_thin_lines_stay_as_they_are(width: float) -> None:
    drawn = rasterise([Stroke(points=[(0.1, 0.2), (0.9, 0.2), (0.9, 0.8)], width=width)])
    assert np.array_equal(of_pixels(drawn).pixels[..., 0], drawn)


def test_a_flat_photo_is_blank() -> None:
    assert read(encode_png(np.full((200, 300, 3), (40, 90, 200), np.uint8)), "photo").blank


def test_a_mirrored_query_is_flipped_from_left_to_right() -> None:
    query = of_pixels(house())
    found = mirrored(query)
    assert np.array_equal(found.pixels, query.pixels[:, ::-1])
    assert (found.domain, found.blank) == (query.domain, query.blank)


REFUSED = {
    "broken": (b'<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0', "broken"),
    "no size": (svg("<path/>", 'width="0" height="0"'), "can't be drawn"),
    "a script": (svg("<script>alert(1)</script>"), "<script>"),
    "a file": (svg('<image href="/etc/hostname" width="9" height="9"/>'), "<image>"),
    "another file's parts": (svg('<use href="other.svg#part"/>'), "outside of itself"),
    "another address": (svg('<rect fill="url(http://localhost/a)" width="9" height="9"/>'), "outside of itself"),
    "an imported style": (svg('<style>@import "a.css";</style>'), "imports"),
    "entities": (b'<!DOCTYPE svg [<!ENTITY a "b">]>' + svg("<text>&a;</text>"), "entities"),
    "a circle": (svg('<g id="a"><use href="#a"/></g>'), "circle"),
    "too deep": (svg("<g>" * 500 + "</g>" * 500), "nested"),
    "a marker": (svg('<marker id="a"><path d="M0 0H9"/></marker>'), "<marker>"),
    "a pattern by style": (svg('<style>*{fill:url(#p)}</style><pattern id="p"/>'), "style sheet"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_svg_that_asks_for_more_than_drawing_is_refused(what: str) -> None:
    data, words = REFUSED[what]
    with pytest.raises(BadImage, match=words):
        read(data)


def test_an_svg_of_few_bytes_that_draws_millions_of_lines_is_refused_before_it_is_drawn() -> None:
    groups = ['<g id="g0"><path d="M0 0L9 9"/></g>']
    groups += [f'<g id="g{n}">' + f'<use href="#g{n - 1}"/>' * 10 + "</g>" for n in range(1, 9)]
    with pytest.raises(BadImage, match="20000 elements"):
        read(svg(f"<defs>{''.join(groups)}</defs>" + '<use href="#g8"/>'))
    chain = [f'<g id="c{n}"><use href="#c{n + 1}"/></g>' for n in range(2000)]
    with pytest.raises(BadImage, match="chain"):
        read(svg("".join(chain)))


def test_a_long_svg_fits_the_page_and_an_endlessly_long_one_is_refused() -> None:
    found = read(svg('<path d="M0 0V400" stroke="black"/>', 'viewBox="0 0 10 400"'))
    assert max(found.pixels.shape) <= 1024
    with pytest.raises(TooLarge):
        read(svg('<path d="M0 0V10000" stroke="black"/>', 'viewBox="0 0 1 10000"'))


def test_pictures_that_are_too_large_are_refused() -> None:
    with pytest.raises(BadImage):
        read_query(encode_png(house(200)), max_pixels=100)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_pictures_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    whole = data.draw(
        st.sampled_from([encode_png(house(64, 2)), encode_jpeg(scene(0, (60, 80)), 80), SCREENS["SVG"]()])
    )
    place = data.draw(st.integers(0, len(whole) - 1))
    broken = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    kind: Kind = data.draw(st.sampled_from(KINDS))
    try:
        found = read(broken[: data.draw(st.integers(1, len(broken)))], kind)
    except BadImage:
        return
    assert found.pixels.dtype == np.uint8
    assert found.pixels.shape[2] == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_pictures_of_any_size_are_read(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    for kind in KINDS:
        found = read(encode_png(pixels), kind)
        assert min(found.pixels.shape[:2]) >= 1
