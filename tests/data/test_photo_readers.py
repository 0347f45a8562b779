from __future__ import annotations

import sys
import types
from collections import Counter
from pathlib import Path

import pytest

from pipeline_lib.data import li2014, sketchy, voc
from pipeline_lib.data.source import Entry
from pipeline_lib.data.voc_sketchy import VocSketchySource
from pipeline_lib.errors import PipelineError
from pipeline_lib.params import Rendering

TX = "tx_000000000000"
RENDERING = Rendering(photo=TX, sketch=TX)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def list_voc(root: Path, text: str) -> None:
    listing = root / "VOCdevkit/VOC2012/ImageSets/Main/trainval.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text(text, encoding="utf-8")


def test_voc_reads_the_listed_photos_and_no_others(tmp_path: Path) -> None:
    list_voc(tmp_path, "2008_000002  1\n2007_000001 -1\n\n2008_000002\n")
    touch(tmp_path, "VOCdevkit/VOC2012/JPEGImages/2011_000009.jpg")
    assert list(voc.entries(tmp_path)) == [
        Entry(f"voc/{name}", "voc", "pretext", "photo", f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg", "", "", "", name)
        for name in ("2007_000001", "2008_000002")
    ]


@pytest.mark.parametrize("text", [None, "", "\n\n"])
def test_voc_that_is_missing_or_empty_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        list_voc(tmp_path, text)
    with pytest.raises(PipelineError, match=r"trainval\.txt"):
        list(voc.entries(tmp_path))


def test_voc_download_without_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    datasets = types.ModuleType("torchvision.datasets")
    datasets.VOCDetection = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    with pytest.raises(PipelineError, match=r"not known.*VOCtrainval_11-May-2012\.tar"):
        voc.download(tmp_path)


@pytest.mark.parametrize("home", ["256x256", "sketchy/256x256"])
def test_sketchy_sketches_name_the_photo_they_depict(tmp_path: Path, home: str) -> None:
    touch(
        tmp_path,
        f"{home}/photo/{TX}/car_(sedan)/n02691156_58.jpg",
        f"{home}/sketch/{TX}/car_(sedan)/n02691156_58-1.png",
        f"{home}/sketch/{TX}/car_(sedan)/n02691156_58-12.png",
        f"{home}/sketch/{TX}/car_(sedan)/._n02691156_58-1.png",
        f"{home}/sketch/{TX}/hot-air_balloon/n1_2-x-1.png",
        f"{home}/sketch/{TX}/stray.png",
    )
    photo, *sketches = sketchy.entries(tmp_path, RENDERING)
    assert (photo.role, photo.domain, photo.class_name, photo.name) == (
        "gallery",
        "photo",
        "car_(sedan)",
        "n02691156_58",
    )
    assert photo.path == f"{home}/photo/{TX}/car_(sedan)/n02691156_58.jpg"
    assert [sketch.role for sketch in sketches] == ["query"] * 3
    assert [sketch.instance_id for sketch in sketches[:2]] == [photo.image_id] * 2
    assert sketches[2].instance_id == "sketchy/photo/hot-air_balloon/n1_2-x"
    assert len({entry.image_id for entry in (photo, *sketches)}) == 4


def test_a_sketchy_rendering_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    touch(tmp_path, f"256x256/photo/{TX}/a/1.jpg", "256x256/sketch/tx_000100000000/a/1-1.png")
    with pytest.raises(PipelineError, match=r"catalog\.rendering\.sketch: .*tx_000100000000"):
        list(sketchy.entries(tmp_path, RENDERING))
    other = Rendering(photo=TX, sketch="tx_000100000000")
    assert [entry.role for entry in sketchy.entries(tmp_path, other)] == ["gallery", "query"]


def test_sketchy_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="sketchy/256x256"):
        list(sketchy.entries(tmp_path, RENDERING))
    (tmp_path / "256x256/photo" / TX).mkdir(parents=True)
    with pytest.raises(PipelineError, match="holds no images"):
        list(sketchy.entries(tmp_path, RENDERING))


def test_li_reserves_whole_photos_only(tmp_path: Path) -> None:
    assert list(li2014.reserved(tmp_path)) == []
    touch(
        tmp_path,
        "li2014/images/car (sedan)/img/2008_000143.jpg",
        "li2014/images/car (sedan)/cropped/2008_000143.jpg",
        "li2014/images/car (sedan)/sketch/1.png",
    )
    (entry,) = li2014.reserved(tmp_path)
    assert (entry.name, entry.role, entry.class_name) == ("2008_000143", "reserved", "car (sedan)")


def test_more_photos_are_trained_on_and_recognised_by_known_names_only(tmp_path: Path) -> None:
    list_voc(tmp_path, "2007_000001\n")
    touch(
        tmp_path,
        "photos/trip 1/2008_000143.JPG",
        "photos/Zürich/1.jpeg",
        f"256x256/photo/{TX}/a/1.jpg",
        f"256x256/sketch/{TX}/a/1-1.png",
    )
    source = VocSketchySource(tmp_path, 1000, RENDERING)
    entries = list(source.entries())
    assert [(e.dataset, e.role, e.name) for e in entries] == [
        ("voc", "pretext", "2007_000001"),
        ("photos", "pretext", ""),
        ("photos", "pretext", "2008_000143"),
        ("sketchy", "gallery", "1"),
        ("sketchy", "query", ""),
    ]
    assert entries == list(source.entries())


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data beside the checkout")
def test_the_shared_real_data_is_found_whole() -> None:
    source = VocSketchySource(SHARED, 1000, RENDERING)
    entries = list(source.entries())
    assert Counter((entry.dataset, entry.role) for entry in entries) == {
        ("voc", "pretext"): 3608,
        ("photos", "pretext"): 1907,
        ("sketchy", "gallery"): 2500,
        ("sketchy", "query"): 2500,
    }
    gallery = {entry.image_id for entry in entries if entry.role == "gallery"}
    depicted = {entry.instance_id for entry in entries if entry.role == "query"}
    assert depicted <= gallery
    assert len(depicted) == 462
    assert len({entry.class_name for entry in entries if entry.role == "gallery"}) == 100
    reserved = list(source.reserved())
    assert len(reserved) == 840
    names = {entry.name for entry in reserved}
    assert sum(entry.name in names for entry in entries if entry.dataset == "voc") == 303
    assert all((SHARED / entry.path).is_file() for entry in [*entries[::97], *reserved[::97]])
