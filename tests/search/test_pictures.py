from __future__ import annotations

import numpy as np
import pytest

from pipeline_lib.search.gallery import _emoji_name
from pipeline_lib.search.guard import host_name
from pipeline_lib.search.pictures import ByteCache, fit


def test_the_cache_keeps_what_was_used_last_within_its_bytes() -> None:
    cache, made = ByteCache(10), []

    def make(row: int) -> bytes:
        made.append(row)
        return bytes(4)

    for row in (1, 2, 1, 3, 1, 2):
        assert cache.get(("thumbnail", row), lambda row=row: make(row)) == bytes(4)  # type: ignore[misc]
        assert cache.size <= 10
    assert made == [1, 2, 3, 2]  # 1 was used in between, so 2 made room for 3


def test_what_is_larger_than_the_cache_is_made_and_not_kept() -> None:
    cache = ByteCache(3)
    assert cache.get(("photo", 1), lambda: b"large") == b"large"
    assert cache.size == 0


@pytest.mark.parametrize("shape", [(400, 100, 3), (100, 400, 3), (400, 400)])
def test_pictures_shrink_to_their_longer_side_and_never_grow(shape: tuple[int, ...]) -> None:
    image = np.zeros(shape, np.uint8)
    assert max(fit(image, 200).shape[:2]) == 200
    assert fit(image, 500) is image


def test_even_a_line_of_pixels_keeps_one() -> None:
    assert fit(np.zeros((1, 5000, 3), np.uint8), 100).shape == (1, 100, 3)


def test_emoji_go_by_their_unicode_names() -> None:
    assert _emoji_name("1F98A") == "fox face"
    assert _emoji_name("1F468-200D-1F33E") == "man, ear of rice"
    assert _emoji_name("E011") == ""
    assert _emoji_name("photo 1") == ""


@pytest.mark.parametrize(
    ("header", "name"),
    [("localhost:8000", "localhost"), ("[::1]:80", "::1"), ("LocalHost", "localhost"), ("", ""), ("a:b:c", "a")],
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    assert host_name(header) == name
