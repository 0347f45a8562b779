from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline_lib import files
from pipeline_lib.data.folder import FolderSource
from pipeline_lib.data.images import BadImage, decode_encoded, encode_jpeg
from pipeline_lib.files import temporary
from pipeline_lib.search.gallery import Gallery, Kept, _emoji_name
from pipeline_lib.search.guard import host_name
from pipeline_lib.search.pictures import ByteCache, Pictures
from pipeline_lib.search.stacks import MARK_BYTES, Marks
from pipeline_lib.search.thumbnails import MOST_BYTES, SIDE, Thumbnails, fit
from tests.conftest import scene


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
    [
        ("localhost:8000", "localhost"),
        ("[::1]:80", "::1"),
        ("LocalHost", "localhost"),
        ("", ""),
        ("a:b:c", ""),
        ("[::1]evil.com", ""),
    ],
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """Two of one's own photos, of which the first has a small picture."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(encode_jpeg(scene(ord(name), (1500, 2000)), 90))
    thumbnails = Thumbnails(tmp_path / "thumbnails")
    thumbnails.keep("content-of-a", scene(7))
    names = ("a.jpg", "b.jpg")
    marks = Marks(np.zeros((2, MARK_BYTES), np.uint8), np.zeros(2, np.int64))
    kept = Kept(thumbnails, ("content-of-a", "content-of-b"), marks)
    source = FolderSource(tmp_path, 10_000_000, "")
    return Gallery("mine", tuple(str(tmp_path / name) for name in names), names, "photo", source, (tmp_path,), kept)


def test_a_small_picture_that_was_kept_is_served_as_it_is(gallery: Gallery) -> None:
    pictures = Pictures(gallery, 192, ByteCache(1 << 20))
    assert pictures.thumbnail(0) == gallery.thumbnail(0)
    assert decode_encoded(pictures.thumbnail(0)).shape == (180, 220, 3)
    assert gallery.thumbnail(1) is None
    assert decode_encoded(pictures.thumbnail(1)).shape == (144, 192, 3)
    assert decode_encoded(pictures.photo(1)).shape == (1200, 1600, 3)


def test_photos_to_show_are_decoded_no_larger_than_needed(gallery: Gallery) -> None:
    assert gallery.load(1).shape == (1500, 2000, 3)
    assert gallery.load(1, 192).shape == (750, 1000, 3)


def test_a_gallery_knows_the_files_of_its_photos(gallery: Gallery, tmp_path: Path) -> None:
    assert gallery.file(1) == tmp_path / "b.jpg"
    assert gallery.root(1) == tmp_path
    for ask in (gallery.file, gallery.root, gallery.load, gallery.thumbnail):
        for row in (-1, 2):
            with pytest.raises(IndexError):
                ask(row)
    drawn = Gallery("drawn", ("x",), ("x",), "photo", Drawn())  # type: ignore[arg-type]
    assert drawn.file(0) is None
    assert drawn.root(0) is None
    assert drawn.load(0, 100).shape == (4, 4, 3)
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(BadImage):
        gallery.load(1)


class Drawn:
    """A source that makes its pictures."""

    def load(self, *_: str) -> NDArray[np.uint8]:
        return np.zeros((4, 4, 3), np.uint8)


def test_kept_pictures_stay_small_whatever_they_show(tmp_path: Path) -> None:
    thumbnails = Thumbnails(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    for content, image in (
        ("noise", noise),
        ("scene", scene(1, (600, 800))),
        ("line", np.zeros((1, 9000, 3), np.uint8)),
    ):
        thumbnails.keep(content, image)
        data = thumbnails.read(content)
        assert data is not None
        assert len(data) <= MOST_BYTES
        assert max(decode_encoded(data).shape[:2]) == SIDE
    before = thumbnails.path("scene").stat().st_mtime_ns
    thumbnails.keep("scene", noise)  # the content is the same, so the picture is
    assert thumbnails.path("scene").stat().st_mtime_ns == before


def test_pictures_that_are_cut_or_of_photos_that_are_gone_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thumbnails = Thumbnails(tmp_path)
    for content in ("one", "two"):
        thumbnails.keep(content, scene(1))
    half = temporary(thumbnails.path("one"))
    half.write_bytes(b"half")
    thumbnails.keep_only(np.array([b"one"]))
    assert {path.name for path in tmp_path.glob("*/*")} == {"one.jpg", half.name}
    monkeypatch.setattr(files, "A_DAY", -1.0)  # as if it was over, so nobody writes it any more
    thumbnails.keep_only(np.array([b"one"]))
    assert [path.name for path in tmp_path.glob("*/*")] == ["one.jpg"]
    thumbnails.path("one").write_bytes(thumbnails.path("one").read_bytes()[:100])
    assert thumbnails.read("one") is None
    assert thumbnails.read("two") is None


def test_a_thumbnail_that_is_cut_or_damaged_is_none(tmp_path: Path) -> None:
    kept = Thumbnails(tmp_path)
    kept.keep("ab12", scene(1))
    data, path = kept.read("ab12"), kept.path("ab12")
    assert data is not None
    assert data.endswith(b"\xff\xd9")
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert kept.read("ab12") is None
    for length in range(0, len(whole) - 5, 97):
        path.write_bytes(whole[:length])
        assert kept.read("ab12") is None
    path.write_bytes(data)  # of before there were checksums
    assert kept.read("ab12") == data
