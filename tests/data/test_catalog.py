from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline_lib.data import measure, parts
from pipeline_lib.data.catalog import Built, build_catalog
from pipeline_lib.data.images import encode_jpeg, encode_png
from pipeline_lib.data.randomness import split_groups, stable_fraction
from pipeline_lib.data.schemas import CATALOG, EXCLUDED, read_table
from pipeline_lib.data.source import open_source
from pipeline_lib.errors import PipelineError
from pipeline_lib.params import Params

MakeParams = Callable[..., Params]
TX = "tx_000000000000"
VOC = "VOCdevkit/VOC2012/JPEGImages"


def scene(seed: int, size: tuple[int, int] = (96, 128)) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def save(path: Path, seed: int, quality: int = 95, size: tuple[int, int] = (96, 128)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = scene(seed, size)
    path.write_bytes(encode_png(image) if path.suffix == ".png" else encode_jpeg(image, quality))


def folder(root: Path, photos: int = 12) -> Path:
    for seed in range(photos):
        save(root / f"{seed:03d}.jpg", seed)
    return root


def build(
    make: MakeParams, root: Path, scratch: Path, dataset: str = "folder", workers: int = 1, **changes: object
) -> Built:
    keys = {"dataset": dataset, "root": str(root), "max_bad_fraction": 0.0, **changes}
    section = make({f"catalog.{key}": value for key, value in keys.items()}).catalog
    return build_catalog(open_source(section, root), section, scratch, workers)


def frame(built: Built) -> pd.DataFrame:
    return pd.DataFrame(built.table.to_pylist(), columns=CATALOG.names)


@pytest.fixture
def real_photos(tmp_path: Path) -> Path:
    """VOC, more photos, Sketchy and Li 2014 in small, with every kind of overlap."""
    root = tmp_path / "data"
    names = [f"2008_{n:06d}" for n in range(20)]
    for seed, name in enumerate(names):
        save(root / VOC / f"{name}.jpg", seed)
    listing = root / "VOCdevkit/VOC2012/ImageSets/Main/trainval.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("\n".join(names), encoding="utf-8")
    save(root / "li2014/images/cat/img/2008_000003.jpg", 903)  # known by its name alone
    save(root / "li2014/images/cat/img/2010_000001.jpg", 500, 80, (240, 320))
    save(root / "photos/li.jpg", 500)  # known by its fingerprint alone
    save(root / "photos/sub/voc 5.jpg", 5, 70, (192, 256))  # repeats a VOC photo
    save(root / "photos/voc 3.jpg", 3, 70)  # repeats the VOC photo that Li has
    save(root / "photos/own.jpg", 600)
    for number in range(3):
        save(root / f"256x256/photo/{TX}/cat/n00000001_{number}.jpg", 700 + number)
        save(root / f"256x256/sketch/{TX}/cat/n00000001_{number}-1.png", 800 + number)
    save(root / "photos/gallery.png", 701)
    save(root / f"256x256/sketch/{TX}/cat/n00000001_9-1.png", 809)  # depicts no photo
    return root


def test_leaks_are_excluded_and_repeats_stay_together(
    real_photos: Path, tmp_path: Path, make_params: MakeParams
) -> None:
    built = build(make_params, real_photos, tmp_path / "scratch", "voc_sketchy", val_fraction=0.5)
    excluded = {(row["path"], row["reason"]): row["detail"] for row in built.excluded.to_pylist()}
    assert excluded.keys() == {
        (f"{VOC}/2008_000003.jpg", "name"),
        ("photos/li.jpg", "fingerprint"),
        ("photos/voc 3.jpg", "fingerprint"),
        ("photos/gallery.png", "fingerprint"),
        (f"256x256/sketch/{TX}/cat/n00000001_9-1.png", "missing_photo"),
    }
    assert excluded["photos/li.jpg", "fingerprint"] == "li2014/images/cat/img/2010_000001.jpg"
    assert excluded["photos/voc 3.jpg", "fingerprint"] == "li2014/images/cat/img/2008_000003.jpg"
    assert excluded["photos/gallery.png", "fingerprint"] == f"256x256/photo/{TX}/cat/n00000001_1.jpg"
    rows = frame(built).set_index("image_id")
    pair = rows.loc[["voc/2008_000005", "photos/sub/voc 5.jpg"]]
    assert set(pair["group_id"]) == {"voc/2008_000005"}
    assert len(set(pair["split"])) == 1
    assert (rows.loc[rows["role"] == "query", "split"] == "test").all()
    assert rows.loc["sketchy/sketch/cat/n00000001_2-1", "instance_id"] == "sketchy/photo/cat/n00000001_2"
    assert rows.loc["voc/2008_000005", "instance_id"] == "voc/2008_000005"
    assert not (rows["dataset"] == "li2014").any()
    summary = built.summary
    assert summary["excluded"] == {
        "fingerprint": {"photos": 3},
        "missing_photo": {"sketchy": 1},
        "name": {"voc": 1},
    }
    assert summary["pretext_repeats"] == {"photos": 2}
    assert summary["images"]["sketchy"] == {"gallery": {"test": 3}, "query": {"test": 3}}
    assert sum(summary["images"]["voc"]["pretext"].values()) == 19
    assert str(tmp_path) not in json.dumps(summary)


def test_rows_tell_size_and_content(tmp_path: Path, make_params: MakeParams) -> None:
    root = folder(tmp_path / "p", 4)
    built = build(make_params, root, tmp_path / "s")
    assert built.table.schema.equals(CATALOG)
    assert built.excluded.schema.equals(EXCLUDED)
    rows = frame(built)
    assert len(rows) == 8
    for row in rows.itertuples():
        assert (row.width, row.height) == (128, 96)
        assert row.content == hashlib.sha256((root / str(row.path)).read_bytes()).hexdigest()
        assert len(str(row.fingerprint)) == 16
    assert rows["image_id"].is_unique


def test_own_photos_without_sketches_are_searched_and_trained_on(tmp_path: Path, make_params: MakeParams) -> None:
    built = build(make_params, folder(tmp_path / "p"), tmp_path / "s")
    images = built.summary["images"]["folder"]
    assert images["gallery"] == {"test": 12}
    assert sum(images["pretext"].values()) == 12
    assert built.excluded.num_rows == 0


def test_own_sketches_without_a_photo_are_listed(tmp_path: Path, make_params: MakeParams) -> None:
    root = folder(tmp_path / "p")
    save(root / "drawn/003.png", 50)
    save(root / "drawn/unknown.png", 51)
    built = build(make_params, root, tmp_path / "s", sketches="drawn")
    rows = frame(built).query("role == 'query'")
    assert rows[["image_id", "instance_id"]].to_numpy().tolist() == [["sketch/drawn/003.png", "photo/003.jpg"]]
    (left,) = built.excluded.to_pylist()
    assert (left["path"], left["reason"]) == ("drawn/unknown.png", "missing_photo")


def spoil(root: Path) -> set[str]:
    """Adds one of each kind of bad file; returns their names."""
    whole = (root / "000.jpg").read_bytes()
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.png").touch()
    (root / "words.jpg").write_text("not a picture", encoding="utf-8")
    (root / "dangling.jpg").symlink_to("nowhere")
    stream = io.BytesIO()
    Image.new("1", (2000, 2000)).save(stream, "PNG")
    (root / "vast.png").write_bytes(stream.getvalue())
    return {"cut.jpg", "empty.png", "words.jpg", "dangling.jpg", "vast.png"}


def test_bad_images_are_skipped_counted_and_listed_once(tmp_path: Path, make_params: MakeParams) -> None:
    root = folder(tmp_path / "p")
    bad = spoil(root)
    (root / "loop").symlink_to(root)
    built = build(make_params, root, tmp_path / "s", max_bad_fraction=0.5, max_pixels=1_000_000)
    assert built.summary["bad"] == 5
    assert {line.split(":")[0] for line in built.summary["bad_images"]} == bad
    assert {row["path"] for row in built.excluded.to_pylist()} == bad
    assert all(row["detail"] for row in built.excluded.to_pylist())
    assert set(frame(built)["path"]) == {f"{n:03d}.jpg" for n in range(12)}


def test_too_many_bad_images_stop_the_stage_with_names_and_key(tmp_path: Path, make_params: MakeParams) -> None:
    root = folder(tmp_path / "p", 15)
    spoil(root)
    with pytest.raises(PipelineError, match=r"5 of 20 images .*catalog\.max_bad_fraction 0\.24") as failure:
        build(make_params, root, tmp_path / "s", max_bad_fraction=0.24, max_pixels=1_000_000)
    assert "empty.png: the file is empty" in str(failure.value)
    assert build(make_params, root, tmp_path / "s", max_bad_fraction=0.25, max_pixels=1_000_000).summary["bad"] == 5


@pytest.mark.parametrize("allowed", [0.0, 0.5])
def test_an_image_that_is_mended_is_read_again_though_size_and_time_stay(
    tmp_path: Path, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch, allowed: float
) -> None:
    monkeypatch.setattr(parts, "ROWS", 2)
    root, photo = folder(tmp_path / "p"), tmp_path / "p/005.jpg"
    good, times = photo.read_bytes(), (photo.stat().st_atime_ns, photo.stat().st_mtime_ns)

    def put(data: bytes) -> None:
        photo.write_bytes(data)
        os.utime(photo, ns=times)

    def shards() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*.parquet")}

    put(bytes(len(good)))
    if allowed:
        assert build(make_params, root, tmp_path / "s", max_bad_fraction=allowed).summary["bad"] == 1
    else:
        with pytest.raises(PipelineError, match=r"1 of 12 images[\s\S]*005\.jpg"):
            build(make_params, root, tmp_path / "s", max_bad_fraction=allowed)
    before = shards()
    put(good)
    mended = build(make_params, root, tmp_path / "s", max_bad_fraction=allowed)
    assert mended.table.equals(build(make_params, root, tmp_path / "afresh").table)
    assert len(before) > 1
    assert len(before.items() - shards().items()) == 1  # the shard of the bad image


def test_the_summary_names_at_most_fifty_bad_images(tmp_path: Path, make_params: MakeParams) -> None:
    root = folder(tmp_path / "p", 3)
    for number in range(60):
        (root / f"bad {number}.jpg").touch()
    built = build(make_params, root, tmp_path / "s", max_bad_fraction=1.0)
    assert built.summary["bad"] == built.excluded.num_rows == 60
    assert len(built.summary["bad_images"]) == 50


def test_odd_but_good_files_are_taken(tmp_path: Path, make_params: MakeParams) -> None:
    root = folder(tmp_path / "p", 3)
    picture = Image.fromarray(scene(90))
    picture.convert("L").save(root / "grey.jpg")
    picture.convert("CMYK").save(root / "cmyk.jpg")
    picture.convert("RGBA").save(root / "wrong extension.jpg", "PNG")
    picture.save(root / "ünï 猫.webp")
    cv2.imwrite(str(root / "deep.png"), scene(91).astype(np.uint16) * 257)
    picture.save(root / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    picture.resize((3, 2)).save(root / "tiny.png")
    built = build(make_params, root, tmp_path / "s")
    assert built.excluded.num_rows == 0
    assert built.summary["images"]["folder"]["gallery"] == {"test": 10}


def test_byte_identical_photos_share_a_group_and_a_split(tmp_path: Path, make_params: MakeParams) -> None:
    root = folder(tmp_path / "p", 10)
    for number in range(10):
        shutil.copy(root / f"{number:03d}.jpg", root / f"copy {number}.jpg")
    rows = frame(build(make_params, root, tmp_path / "s", val_fraction=0.5)).query("role == 'pretext'")
    assert rows.groupby("content")["group_id"].nunique().max() == 1
    assert rows.groupby("content")["split"].nunique().max() == 1
    assert rows["split"].nunique() == 2


def test_ids_that_repeat_are_an_error(real_photos: Path, tmp_path: Path, make_params: MakeParams) -> None:
    save(real_photos / f"256x256/photo/{TX}/cat/n00000001_1.png", 5)
    with pytest.raises(PipelineError, match="sketchy/photo/cat/n00000001_1"):
        build(make_params, real_photos, tmp_path / "s", "voc_sketchy")


def test_one_photo_is_too_few_to_train_on(tmp_path: Path, make_params: MakeParams) -> None:
    root = folder(tmp_path / "p", 1)
    shutil.copy(root / "000.jpg", root / "again.jpg")
    with pytest.raises(PipelineError, match="add photos"):
        build(make_params, root, tmp_path / "s")


def test_a_folder_of_bad_files_only_says_so(tmp_path: Path, make_params: MakeParams) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/x.jpg").touch()
    with pytest.raises(PipelineError, match="no photo is left"):
        build(make_params, tmp_path / "p", tmp_path / "s", max_bad_fraction=1.0)


def test_the_limit_keeps_the_same_first_photos_however_large(tmp_path: Path, make_params: MakeParams) -> None:
    root = folder(tmp_path / "p")
    kept = {}
    for limit in (0, 3, 6, 100):
        built = build(make_params, root, tmp_path / "s", limit=limit)
        rows = frame(built)
        assert (rows["role"] == "gallery").sum() == 12
        kept[limit] = set(rows.loc[rows["role"] == "pretext", "image_id"])
        assert built.summary["pretext_beyond_limit"] == 12 - len(kept[limit])
    assert [len(kept[limit]) for limit in (3, 6, 100)] == [3, 6, 12]
    assert kept[3] < kept[6] < kept[100] == kept[0]


def test_photos_within_the_limit_are_held_out_as_often_as_all_photos(tmp_path: Path, make_params: MakeParams) -> None:
    root = folder(tmp_path / "p", 40)
    rows = frame(build(make_params, root, tmp_path / "s", limit=16, val_fraction=0.25))
    split = rows.loc[rows["role"] == "pretext", "split"]
    assert len(split) == 16
    assert 1 <= (split == "val").sum() <= 8


def test_what_is_finished_is_not_read_again_and_what_changed_is(
    tmp_path: Path, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROWS", 4)
    root = folder(tmp_path / "p", 16)
    opened: list[str] = []
    really = measure._measure_one

    def counting(source: Any, row: dict[str, Any]) -> dict[str, Any]:
        opened.append(row["path"])
        return really(source, row)

    monkeypatch.setattr(measure, "_measure_one", counting)
    first = build(make_params, root, tmp_path / "s")
    assert sorted(opened) == sorted(f"{n:03d}.jpg" for n in range(16))  # once each, though in two roles
    opened.clear()
    assert build(make_params, root, tmp_path / "s").table.equals(first.table)
    assert opened == []
    # A shard cut in half is noticed, and it alone is made anew.
    shard = min((tmp_path / "s").glob("part-*.parquet"))
    there = set(read_table(shard)["path"].to_pylist())
    os.truncate(shard, shard.stat().st_size // 2)
    assert build(make_params, root, tmp_path / "s").table.equals(first.table)
    assert set(opened) == there
    assert len(opened) == len(there) < 16
    opened.clear()
    save(root / "005.jpg", 77)
    shards = len(list((tmp_path / "s").glob("*.parquet")))
    changed = build(make_params, root, tmp_path / "s")
    assert "005.jpg" in opened
    assert len(opened) < 16
    assert not changed.table.equals(first.table)
    assert len(list((tmp_path / "s").glob("*.parquet"))) == shards


@pytest.mark.parametrize("name", ["000.jpg", "0155.jpg", "zzz.jpg"])
def test_a_photo_more_opens_two_shards_again_at_most_wherever_it_sorts(
    tmp_path: Path, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(parts, "ROWS", 4)
    root = folder(tmp_path / "p", 40)

    def shards() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*.parquet")}

    (root / "000.jpg").rename(root / "0000.jpg")
    build(make_params, root, tmp_path / "s")
    before = shards()
    assert len(before) > 5
    save(root / name, 90)
    built = build(make_params, root, tmp_path / "s")
    assert len(shards().items() - before.items()) <= 2
    assert built.table.equals(build(make_params, root, tmp_path / "afresh").table)


def test_two_processes_give_the_same_table_as_one(
    tmp_path: Path, make_params: MakeParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROWS", 3)
    root = folder(tmp_path / "p")
    one = build(make_params, root, tmp_path / "one")
    two = build(make_params, root, tmp_path / "two", workers=2)
    assert one.table.equals(two.table)
    assert one.summary == two.summary


groups = st.lists(st.text(max_size=3), min_size=2, max_size=60).filter(lambda names: len(set(names)) > 1)


@settings(max_examples=80, deadline=None)
@given(names=groups, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_no_group_straddles_the_split_and_both_sides_have_one(names: list[str], fraction: float, seed: int) -> None:
    held_out = split_groups(names, fraction, seed)
    sides = defaultdict(set)
    for name, side in zip(names, held_out.tolist(), strict=True):
        sides[name].add(side)
    assert all(len(side) == 1 for side in sides.values())
    assert held_out.any()
    assert not held_out.all()
    order = np.random.default_rng(0).permutation(len(names))
    assert np.array_equal(split_groups([names[n] for n in order], fraction, seed), held_out[order])


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_fraction_is_held_and_new_images_move_no_old_one(fraction: float) -> None:
    names = [f"image {n}" for n in range(4000)]
    held_out = split_groups(names, fraction, 0)
    assert abs(held_out.mean() - fraction) < 4 * (fraction * (1 - fraction) / 4000) ** 0.5
    assert np.array_equal(split_groups([*names, "new"], fraction, 0)[:-1], held_out)
    assert not np.array_equal(split_groups(names, fraction, 1), held_out)


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert stable_fraction(0, "image") == int.from_bytes(hashlib.sha256(b"0\0image").digest()[:6], "big") / 2**48
