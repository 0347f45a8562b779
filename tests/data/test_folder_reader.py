from __future__ import annotations

import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline_lib.data import formats
from pipeline_lib.data.folder import FolderSource, image_files, list_images
from pipeline_lib.errors import PipelineError

Form = Literal["NFC", "NFD"]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def depicts(root: Path, sketches: str) -> dict[str, str]:
    entries = FolderSource(root, 1000, sketches).entries()
    return {entry.path: entry.instance_id for entry in entries if entry.role == "query"}


def test_images_are_found_at_any_depth_under_any_name(tmp_path: Path) -> None:
    names = ["a b.jpg", "zoo/été/猫 🐈.PNG", "zoo/été/x.tiff", "zoo/deep/er/1.webp", "x.avif"]
    touch(tmp_path, *names, "notes.txt", "Thumbs.db", ".hidden.jpg", ".hidden/x.jpg", "zoo/._x.jpg")
    assert sorted(image_files(tmp_path)) == sorted(names)
    assert list(image_files(tmp_path)) == list(image_files(tmp_path))


def test_an_image_under_another_name_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    (tmp_path / "photo.bak").write_bytes(b"RIFF\x10\0\0\0WEBPVP8 ")
    (tmp_path / "letter.doc").write_bytes(b"dear reader")
    os.mkfifo(tmp_path / "pipe")
    assert list(image_files(tmp_path)) == ["photo", "photo.bak"]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without the extras."""
    for package in ("pillow_heif", "rawpy"):
        monkeypatch.setitem(sys.modules, package, None)
    formats.obstacle.cache_clear()
    yield
    monkeypatch.undo()
    formats.obstacle.cache_clear()


@pytest.mark.usefixtures("bare")
def test_pictures_that_nothing_reads_are_listed_by_what_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "a.HIF", "b.jxl", "c/d.CR3", "c/e.nef", "f.psd", "film.mp4", "film.MOV", "notes.txt", "x.pdf")
    (tmp_path / "no extension").write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n")
    (tmp_path / "clip.bin").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
    # The content decides: phones and messengers rename files.
    (tmp_path / "really a jpeg.heic").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    (tmp_path / "renamed.dat").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    listing = list_images(tmp_path)
    assert listing.images == ["really a jpeg.heic"]
    assert Counter(kind.name for kind in listing.unsupported.values()) == {
        "HEIC": 2, "JPEG XL": 2, "raw": 2, "Photoshop": 1,
    }  # fmt: skip
    left = list(FolderSource(tmp_path, 1000, "").excluded())
    assert {row.path for row in left} == set(listing.unsupported)
    assert {row.reason for row in left} == {"format"}
    assert any("sketch-context-retrieval[heic]" in row.detail for row in left)


def test_with_the_extras_their_formats_are_photos(tmp_path: Path) -> None:
    touch(tmp_path, "a.heic", "b.HIF", "c.CR3", "d.dng")
    assert list(image_files(tmp_path)) == ["a.heic", "b.HIF", "c.CR3", "d.dng"]


def test_what_systems_keep_for_themselves_is_no_photo(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.jpg", "@eaDir/a.jpg", "x/@eaDir/SYNOPHOTO_THUMB_M.jpg", "#recycle/b.jpg", "@Recycle/c.jpg",
        "$RECYCLE.BIN/d.jpg", "System Volume Information/e.jpg", "lost+found/f.jpg", "clip.THM", "a.jpg~", "x/~a.jpg",
    )  # fmt: skip
    (tmp_path / "clip.THM").write_bytes(b"\xff\xd8\xff\xe0 160 x 120")
    assert list(image_files(tmp_path)) == ["a.jpg", "x/~a.jpg"]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["Screenshots"], ["a.jpg", "b/c.png", "b/d.jpg"]),
        (["screen*", "*.PNG"], ["a.jpg", "b/d.jpg"]),
        (["b/*"], ["Screenshots/x.jpg", "a.jpg"]),
        (["/b/c.png/"], ["Screenshots/x.jpg", "a.jpg", "b/d.jpg"]),
        (["?.jpg"], ["b/c.png"]),
        (["[ab].jpg"], ["Screenshots/x.jpg", "b/c.png", "b/d.jpg"]),
    ],
)
def test_patterns_leave_out_more(tmp_path: Path, patterns: list[str], left: list[str]) -> None:
    touch(tmp_path, "a.jpg", "b/c.png", "b/d.jpg", "Screenshots/x.jpg")
    assert sorted(list_images(tmp_path, patterns).images) == left


def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "locked/b.jpg", "z/c.jpg")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_images(tmp_path)
    assert listing.images == ["a.jpg", "z/c.jpg"]
    assert listing.skipped == {"locked": "can't be listed (Permission denied)"}
    source = FolderSource(tmp_path, 1000, "")
    assert [(row.path, row.reason) for row in source.excluded()] == [("locked", "unreadable")]
    with pytest.raises(PipelineError, match=r"locked: can't be listed \(Permission denied\)"):
        list_images(tmp_path / "locked")


def test_link_loops_end_and_every_folder_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/b/2.jpg")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/b/self").symlink_to("self")
    (tmp_path / "a/top").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / "a/b")
    (tmp_path / "linked.jpg").symlink_to(tmp_path / "a/1.jpg")
    found = list(image_files(tmp_path))
    assert sorted(Path(name).name for name in found) == ["1.jpg", "2.jpg", "linked.jpg"]


def test_links_that_lead_out_of_the_folder_are_followed_only_if_asked(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/in/b.jpg", "secret/c.jpg", "photos2/d.jpg")
    photos = tmp_path / "photos"
    (photos / "folder").symlink_to(tmp_path / "secret")
    (photos / "file.jpg").symlink_to("../secret/c.jpg")
    (photos / "beside").symlink_to(tmp_path / "photos2")  # whose name begins alike
    (photos / "in/top").symlink_to(photos)
    (photos / "again.jpg").symlink_to("in/b.jpg")
    (photos / "gone.jpg").symlink_to("../secret/nothing.jpg")
    (tmp_path / "alias").symlink_to(photos)
    for top in (photos, tmp_path / "alias"):
        listing = list_images(top, links=False)
        assert listing.images == ["a.jpg", "again.jpg", "in/b.jpg"]
        assert sorted(listing.skipped) == ["beside", "file.jpg", "folder", "gone.jpg"]
        assert all("--links" in why for why in listing.skipped.values())
        followed = list_images(top).images
        assert {"beside/d.jpg", "file.jpg", "folder/c.jpg"} <= set(followed)


def test_names_that_are_not_utf8_are_listed_not_dropped(tmp_path: Path) -> None:
    touch(tmp_path, "good.jpg")
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")
    source = FolderSource(tmp_path, 1000, "")
    assert {entry.path for entry in source.entries()} == {"good.jpg"}
    (left_out,) = source.excluded()
    assert (left_out.path, left_out.reason) == (r"caf\xe9.jpg", "unreadable")
    assert "rename" in left_out.detail


def test_every_photo_is_searched_and_trained_on_under_its_own_ids(tmp_path: Path) -> None:
    touch(tmp_path, "pretext/x.jpg", "x.jpg", "photo/x.jpg")
    entries = list(FolderSource(tmp_path, 1000, "").entries())
    assert sorted((entry.role, entry.path) for entry in entries) == sorted(
        (role, path) for role in ("gallery", "pretext") for path in ("pretext/x.jpg", "x.jpg", "photo/x.jpg")
    )
    assert len({entry.image_id for entry in entries}) == 6


def test_a_folder_without_photos_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    touch(tmp_path, "drawings/a.png", "readme.txt")
    with pytest.raises(PipelineError, match=r"catalog\.root: .* holds no photos"):
        list(FolderSource(tmp_path, 1000, "drawings").entries())


def test_sketches_of_a_folder_are_matched_by_name(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    touch(
        tmp_path,
        "cat 1.jpg",
        f"{composed}.JPG",
        "a/same.jpg",
        "b/same.jpg",
        "drawn/cat 1.png",
        f"drawn/deep/{decomposed.upper()}.png",
        "drawn/b/same.png",
        "drawn/same.png",
        "drawn/nobody.png",
    )
    found = depicts(tmp_path, "drawn")
    assert found == {
        "drawn/cat 1.png": "photo/cat 1.jpg",
        f"drawn/deep/{decomposed.upper()}.png": f"photo/{composed}.JPG",
        "drawn/b/same.png": "photo/b/same.jpg",
        "drawn/same.png": "photo/same.* (2 such photos)",
        "drawn/nobody.png": "photo/nobody.* (0 such photos)",
    }
    photos = {entry.path for entry in FolderSource(tmp_path, 1000, "drawn").entries() if entry.domain == "photo"}
    assert photos == {"cat 1.jpg", f"{composed}.JPG", "a/same.jpg", "b/same.jpg"}
    assert depicts(tmp_path, str(tmp_path / "drawn")) == found


def test_a_csv_says_which_sketch_depicts_which_photo(tmp_path: Path) -> None:
    touch(tmp_path, "p/1.jpg", "p/2.jpg", "s/x y.png", "s/ü.png")
    (tmp_path / "pairs.csv").write_text(
        '\ufeffphoto,sketch,who\np/1.jpg,"s/x y.png",me\n./p/2.jpg , s/ü.png,\np/9.jpg,s/gone.png,\n', encoding="utf-8"
    )
    assert depicts(tmp_path, "pairs.csv") == {
        "s/gone.png": "photo/p/9.jpg",
        "s/x y.png": "photo/p/1.jpg",
        "s/ü.png": "photo/p/2.jpg",
    }
    gallery = [e.path for e in FolderSource(tmp_path, 1000, "pairs.csv").entries() if e.role == "gallery"]
    assert gallery == ["p/1.jpg", "p/2.jpg"]


@pytest.mark.parametrize(("typed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_csv_may_write_accents_in_another_form_than_the_disk(tmp_path: Path, typed: Form, stored: Form) -> None:
    first, second = unicodedata.normalize(typed, "é"), unicodedata.normalize(stored, "é")
    touch(tmp_path, f"caf{second}.jpg", f"s/caf{second}.png", "p.jpg")
    (tmp_path / "pairs.csv").write_text(f"sketch,photo\ns/caf{first}.png,caf{first}.jpg\n", encoding="utf-8")
    assert depicts(tmp_path, "pairs.csv") == {f"s/caf{second}.png": f"photo/caf{second}.jpg"}
    entries = FolderSource(tmp_path, 1000, "pairs.csv").entries()
    assert {entry.path for entry in entries if entry.domain == "photo"} == {f"caf{second}.jpg", "p.jpg"}


def test_of_two_names_that_differ_in_form_alone_a_csv_means_the_one_it_writes(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    touch(tmp_path, f"{composed}.jpg", f"{decomposed}.jpg", "s/1.png", "s/2.png")
    if len(list(tmp_path.glob("*.jpg"))) < 2:
        pytest.skip("this file system takes both forms for one name")
    (tmp_path / "pairs.csv").write_text(
        f"sketch,photo\ns/1.png,{composed}.jpg\ns/2.png,{decomposed}.jpg\n", encoding="utf-8"
    )
    assert depicts(tmp_path, "pairs.csv") == {
        "s/1.png": f"photo/{composed}.jpg",
        "s/2.png": f"photo/{decomposed}.jpg",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "must begin with the line sketch,photo"),
        ("", "must begin with the line sketch,photo"),
        ("sketch,photo\n../x.png,p.jpg\n", "line 2: '../x.png' must be the path"),
        ("sketch,photo\ns.png,/etc/p.jpg\n", "line 2: '/etc/p.jpg' must be the path"),
        ("sketch,photo\ns.png\n", "line 2: None must be the path"),
        ("sketch,photo\ns.png,p.jpg\ns.png,q.jpg\n", "line 3: s.png depicts two photos"),
    ],
)
def test_a_csv_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "p.jpg")
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match=message) as failure:
        depicts(tmp_path, "pairs.csv")
    assert "pairs.csv" in str(failure.value)


def test_a_csv_in_another_encoding_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "p.jpg")
    (tmp_path / "pairs.csv").write_bytes("sketch,photo\nü.png,p.jpg\n".encode("latin-1"))
    with pytest.raises(PipelineError, match="UTF-8"):
        depicts(tmp_path, "pairs.csv")


@pytest.mark.parametrize("sketches", ["nowhere", ".", "../beside"])
def test_sketches_must_lie_below_the_root(tmp_path: Path, sketches: str) -> None:
    touch(tmp_path, "root/p.jpg", "beside/p.png")
    with pytest.raises(PipelineError, match=r"catalog\.sketches"):
        depicts(tmp_path / "root", sketches)
