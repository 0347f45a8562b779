from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from pipeline_lib.data.images import decode_encoded, encode_jpeg
from pipeline_lib.search.stacks import MARK_BYTES, SECONDS, Marks, mark_of

Pixels = NDArray[np.uint8]


def view(seed: int, height: int = 480, width: int = 640) -> Pixels:
    """A photo-like picture: light and dark of every size, as in nature."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24, 48):
        layer = rng.normal(0, 1 / cells, (cells, cells * 4 // 3, 3)).astype(np.float32)
        image += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 160 * image, 0, 255).astype(np.uint8)


def moved_by(image: Pixels, part: float, degrees: float = 1.0) -> Pixels:
    """The same view a moment later, by another hand."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.02)
    matrix[:, 2] += (part * width, part * height / 2)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


def on_white(seed: int) -> Pixels:
    """A small thing in the middle of a white page."""
    page = np.full((480, 640, 3), 255, np.uint8)
    page[160:320, 220:420] = view(seed, 160, 200)
    return page


def marks(*photos: Pixels, taken: tuple[int, ...] = ()) -> Marks:
    bits = np.frombuffer(b"".join(mark_of(photo) for photo in photos), np.uint8).reshape(-1, MARK_BYTES)
    return Marks(bits, np.array(taken or [0] * len(photos), np.int64))


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: decode_encoded(encode_jpeg(image, 40)),
        lambda image: np.asarray(Image.fromarray(image).resize((213, 160))),
        lambda image: np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.15)),
        lambda image: np.asarray(Image.fromarray(image).convert("L").convert("RGB")),
        lambda image: image[5:-5, 6:-6],
    ],
    ids=["compressed", "smaller", "brighter", "grey", "cut by two percent"],
)
def test_copies_of_a_photo_are_one_stack_whenever_they_were_taken(copy: object) -> None:
    assert callable(copy)
    for seed in range(5):
        photo = view(seed)
        found = marks(photo, np.ascontiguousarray(copy(photo)), view(seed + 100), taken=(1000, 999_999, 1001))
        assert found.stacked([0, 2, 1]) == [[0, 2], [1]]


def test_a_burst_is_a_stack_only_if_it_was_taken_within_seconds() -> None:
    photo = view(1)
    later = moved_by(photo, 0.04, 1.5)
    assert marks(photo, later, taken=(1000, 1000 + SECONDS)).stacked([0, 1]) == [[0, 1]]
    assert marks(photo, later, taken=(1000, 1001 + SECONDS)).stacked([0, 1]) == [[0], [1]]
    for taken in ((0, 5), (5, 0), (0, 0)):  # a time that is not known is near none
        assert marks(photo, later, taken=taken).stacked([0, 1]) == [[0], [1]]


def test_different_photos_stay_apart_even_if_taken_at_once() -> None:
    photos = [view(seed) for seed in range(30)]
    assert marks(*photos, taken=(7,) * 30).stacked(range(30)) == [[place] for place in range(30)]


def test_things_on_a_plain_background_are_told_apart_and_blank_photos_are_no_stack() -> None:
    assert marks(on_white(1), on_white(2), on_white(1)).stacked([0, 1, 2]) == [[0, 2], [1]]
    blank = np.full((480, 640, 3), 250, np.uint8)
    assert marks(blank, blank - 5).stacked([0, 1]) == [[0], [1]]


def test_a_stack_holds_what_is_like_its_first_photo() -> None:
    """Not what is like another behind it: a slow pan would become one stack from end to end."""
    photo = view(3, 480, 2000)
    pan = [np.ascontiguousarray(photo[:, start : start + 640]) for start in range(0, 200, 20)]
    found = marks(*pan, taken=tuple(range(100, 110))).stacked(range(10))
    assert len(found) > 1
    assert found[0][0] == 0
    assert 9 not in found[0]
    assert sorted(place for stack in found for place in stack) == list(range(10))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3000), (3000, 5)])
def test_a_picture_of_any_shape_has_a_mark(shape: tuple[int, int]) -> None:
    assert len(mark_of(np.zeros((*shape, 3), np.uint8))) == MARK_BYTES
