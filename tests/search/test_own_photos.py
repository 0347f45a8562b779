from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from pipeline_lib.data import images
from pipeline_lib.errors import PipelineError
from pipeline_lib.index.facts import told, written_rows
from pipeline_lib.registry import ALIGNMENTS
from pipeline_lib.run import EXPORTED, Run
from pipeline_lib.search import __main__ as command
from pipeline_lib.search import engine as engines
from pipeline_lib.search import own_shards
from pipeline_lib.search.api import create_app
from pipeline_lib.search.engine import Prepared, QueryEncoder, open_encoder, open_engine
from pipeline_lib.search.gallery import Gallery
from pipeline_lib.search.index_photos import update
from pipeline_lib.search.own_record import (
    Record,
    generations,
    own_folder,
    own_gallery,
    own_home,
    own_state,
    read_record,
)
from pipeline_lib.search.service import Settings
from tests.conftest import scene
from tests.data.photo_files import saved
from tests.pipeline.support import ROOT
from tests.search.support import embed, save_model, with_params
from tests.search.test_stacks import moved_by, view


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    for number in range(7):
        place = folder / ("summer" if number % 2 else ".")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(100 + number)).save(place / f"{number}.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


class Counting:
    """Opens the encoder of a run, and counts how often, and the images that go through it."""

    def __init__(self, run: Run, most: int = 1 << 30) -> None:
        """After `most` images the user is as if to interrupt."""
        self.run, self.most = run, most
        self.opened = 0
        self.seen: list[int] = []

    def __call__(self) -> QueryEncoder:
        counting = self

        class Encoder(QueryEncoder):
            def raw(self, prepared: Sequence[Prepared]) -> NDArray[np.float32]:
                if sum(counting.seen) >= counting.most:
                    raise KeyboardInterrupt
                counting.seen.append(len(prepared))
                return super().raw(prepared)

        self.opened += 1
        real = open_encoder(self.run, 1)
        return Encoder(real.embedder, real.alignment, real.settings)


def names_of(run: Run, photos: Path) -> list[str]:
    """Paths of the photos in the index, relative to their folder."""
    ids = pq.read_table(own_folder(run) / "index/photos.parquet")["image_id"].to_pylist()
    return sorted(Path(name).relative_to(photos).as_posix() for name in ids)


def change(path: Path, seed: int) -> None:
    """Another picture under the same name."""
    before = path.stat().st_mtime
    Image.fromarray(scene(seed)).save(path)
    os.utime(path, (before + 5, before + 5))


def vectors_of(run: Run) -> dict[str, NDArray[np.float32]]:
    tables = [pq.read_table(path) for path in sorted((own_folder(run) / "vectors").glob("*.parquet"))]
    pairs = [(t["image_id"].to_pylist(), np.array(t["vector"].to_pylist(), np.float32)) for t in tables]
    return {name: vector for names, vectors in pairs for name, vector in zip(names, vectors, strict=True)}


def test_every_photo_finds_itself_in_the_index_and_bad_files_are_listed(run: Run, photos: Path) -> None:
    opener = Counting(run)
    done = update(run, [photos], opener)
    assert (done.photos, done.added, done.removed, opener.opened) == (7, 7, 0, 1)
    assert list(done.bad) == [f"{photos.as_posix()}/broken.jpg"]
    assert "exact" in done.settings
    with closing(open_engine(run)) as engine:
        assert engine.facts.count == len(engine.gallery) == 7
        assert names_of(run, photos) == sorted(engine.gallery.paths)
        for row in range(7):
            prepared = engine.prepare(engine.gallery.load(row), "photo")
            aligned = engine.encoder.alignment.apply(engine.encoder.raw([prepared]), "photo")
            ((rows, scores),) = engine.faiss.search(aligned, 1)
            assert rows[0] == row
            assert scores[0] == pytest.approx(1, abs=1e-4)


def test_an_update_embeds_only_what_is_new_or_changed_and_drops_what_is_gone(run: Run, photos: Path) -> None:
    update(run, [photos], Counting(run))
    again = Counting(run)
    done = update(run, [photos], again)
    assert (done.photos, done.added, done.kept, done.removed, done.settings) == (7, 0, 0, 0, "")
    assert again.opened == 0

    Image.fromarray(scene(300)).save(photos / "new.png")
    change(photos / "2.jpg", 301)
    (photos / "summer/1.jpg").unlink()
    some = Counting(run)
    done = update(run, [], some)  # the folders of the index
    assert sum(some.seen) == done.added == 2
    assert (done.photos, done.removed) == (7, 1)  # what has changed is embedded again, and has not left
    left = ["0.jpg", "2.jpg", "4.jpg", "6.jpg", "new.png", "summer/3.jpg", "summer/5.jpg"]
    assert names_of(run, photos) == left

    before = vectors_of(run)
    update(run, [photos], Counting(run), afresh=True)
    after = vectors_of(run)
    assert before.keys() == after.keys()
    for name, vector in before.items():
        np.testing.assert_allclose(vector, after[name], rtol=2e-3, atol=1e-4)


def test_photos_that_were_moved_touched_or_copied_keep_their_vectors(run: Run, photos: Path) -> None:
    update(run, [photos], Counting(run))
    before = vectors_of(run)
    (photos / "0.jpg").chmod(0o600)
    os.utime(photos / "2.jpg", (1, 1))
    (photos / "4.jpg").rename(photos / "moved.jpg")
    shutil.copy(photos / "6.jpg", photos / "copy.jpg")
    opener = Counting(run)
    done = update(run, [photos], opener)
    assert (done.photos, done.added, done.kept, done.removed, opener.opened) == (8, 0, 4, 1, 0)
    after = vectors_of(run)
    top = photos.as_posix()
    for new, old in (("0.jpg", "0.jpg"), ("2.jpg", "2.jpg"), ("moved.jpg", "4.jpg"), ("copy.jpg", "6.jpg")):
        assert np.array_equal(after[f"{top}/{new}"], before[f"{top}/{old}"])
    with closing(open_engine(run)) as engine:
        row = engine.gallery.paths.index("moved.jpg")
        assert engine.gallery.thumbnail(row) is not None
    assert update(run, [photos], opener).settings == ""


def test_a_change_that_keeps_size_and_time_is_noticed(run: Run, photos: Path) -> None:
    file = photos / "0.png"
    image = scene(40)
    file.write_bytes(saved(image, "BMP"))
    os.utime(file, (1, 1))
    update(run, [photos], Counting(run))
    before = vectors_of(run)[file.as_posix()]
    time.sleep(0.02)
    file.write_bytes(saved(image[::-1].copy(), "BMP"))
    os.utime(file, (1, 1))
    assert update(run, [photos], Counting(run)).added == 1
    assert not np.allclose(vectors_of(run)[file.as_posix()], before)


def test_an_update_that_was_cut_off_goes_on_where_it_stopped(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_shards, "SHARD_ROWS", 3)
    with pytest.raises(KeyboardInterrupt):
        update(run, [photos], Counting(run, most=3))
    kept = sum(pq.read_metadata(path).num_rows for path in (own_folder(run) / "vectors").glob("*.parquet"))
    assert 0 < kept < 7
    assert own_state(run) == "unfinished"
    for which in ("own", "auto"):  # and nothing else is searched in its stead
        with pytest.raises(PipelineError, match=r"indexing was started and is not finished; run .drawfind index."):
            open_engine(run, which)
    rest = Counting(run)
    assert update(run, [photos], rest).photos == 7
    assert sum(rest.seen) == 7 - kept
    assert own_state(run) == "ready"


def test_without_an_index_there_is_none(run: Run) -> None:
    assert own_state(run) == "none"
    with pytest.raises(PipelineError, match="there is no index of your own photos yet"):
        read_record(run)
    open_engine(run).close()


def test_a_folder_without_a_readable_photo_leaves_an_index_that_is_not_finished(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(PipelineError, match=r"none of 1 files can be read as a photo; see .*bad\.json"):
        update(run, [tmp_path], Counting(run))
    assert own_state(run) == "unfinished"


def test_the_old_index_is_searched_until_one_made_afresh_is_whole(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(run, [photos], Counting(run))
    old = own_folder(run)
    monkeypatch.setattr(own_shards, "SHARD_ROWS", 3)
    with pytest.raises(KeyboardInterrupt):
        update(run, [photos], Counting(run, most=3), afresh=True)
    assert own_folder(run) == old
    open_engine(run).close()
    rest = Counting(run)
    assert update(run, [photos], rest, afresh=True).photos == 7
    assert sum(rest.seen) < 7  # it went on
    assert own_folder(run) != old
    assert generations(own_home(run)) == [own_folder(run)]
    assert names_of(run, photos) == sorted(p.relative_to(photos).as_posix() for p in photos.rglob("[0-9].jpg"))


def test_two_updates_at_once_are_refused(run: Run, photos: Path) -> None:
    own_home(run).mkdir(parents=True)
    with (
        FileLock(own_home(run) / ".lock"),
        pytest.raises(PipelineError, match="being updated by another process; wait"),
    ):
        update(run, [photos], Counting(run))


def test_a_second_update_is_told_who_works_where_and_since_when(run: Run, photos: Path) -> None:
    def at_work() -> QueryEncoder:
        who = rf"process {os.getpid()} on \S+ \(since 20\S+\)"
        with pytest.raises(PipelineError, match=rf"{own_home(run)}: is being updated by {who}; wait"):
            update(run, [photos], Counting(run))
        return Counting(run)()

    update(run, [photos], at_work)
    assert not (own_home(run) / ".holder").exists()


def test_a_server_whose_index_was_updated_finds_no_wrong_photos(run: Run, photos: Path) -> None:
    update(run, [photos], Counting(run))
    with closing(open_engine(run)) as engine:
        prepared = [engine.prepare(engine.gallery.load(0))]
        before = engine.search(prepared, 7)
        (photos / "0.jpg").unlink()
        update(run, [photos], Counting(run))
        assert engine.search(prepared, 7) == before
        assert engine.faiss.pid is not None
        os.kill(engine.faiss.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(PipelineError, match=r"index: has changed since the server started; start it again"):
                engine.search(prepared, 7)


def test_an_index_that_is_updated_while_it_is_opened_is_refused(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(run, [photos], Counting(run))

    def own_gallery_and_then_an_update(record: Record, folder: Path, *rest: int) -> Gallery:
        gallery = own_gallery(record, folder, *rest)
        (photos / "0.jpg").unlink()
        update(run, [photos], Counting(run))
        return gallery

    monkeypatch.setattr(engines, "own_gallery", own_gallery_and_then_an_update)
    with pytest.raises(PipelineError, match="index: has changed while it was opened; start again"):
        open_engine(run)
    monkeypatch.undo()
    open_engine(run).close()


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"roots": 1}', None])
def test_a_record_that_is_damaged_names_the_way_out(run: Run, photos: Path, damage: bytes | None) -> None:
    update(run, [photos], Counting(run))
    record = own_folder(run) / "record.json"
    record.write_bytes(record.read_bytes()[:30] if damage is None else damage)
    for act in (lambda: open_engine(run), lambda: update(run, [photos], Counting(run))):
        with pytest.raises(PipelineError, match=r"record\.json: is damaged; .*AFRESH=1"):
            act()
    assert update(run, [photos], Counting(run), afresh=True).photos == 7
    open_engine(run).close()


def test_an_index_of_an_earlier_version_is_told_and_replaced(run: Run, photos: Path) -> None:
    home = run.folder / "own_index"
    (home / "vectors").mkdir(parents=True)
    (home / "record.json").write_text(json.dumps({"root": str(photos), "model": "x", "alignment": "", "state": "y"}))
    assert own_state(run) == "unfinished"
    for act in (lambda: open_engine(run), lambda: update(run, [photos], Counting(run))):
        with pytest.raises(PipelineError, match=r"written by an earlier version; .*--afresh"):
            act()
    assert update(run, [photos], Counting(run), afresh=True).photos == 7
    assert own_state(run) == "ready"
    assert not (home / "vectors").exists()


def test_a_changed_model_is_noticed_and_the_way_out_is_told(run: Run, photos: Path) -> None:
    update(run, [photos], Counting(run))
    run = save_model(run, seed=5)
    embed(run)
    with pytest.raises(PipelineError, match=r"model.*changed.*AFRESH=1"):
        update(run, [photos], Counting(run))
    with pytest.raises(PipelineError, match=r"model.*changed.*AFRESH=1.*GALLERY=pipeline"):
        open_engine(run)
    open_engine(run, "pipeline").close()
    assert update(run, [photos], Counting(run), afresh=True).added == 7
    open_engine(run).close()


def test_an_index_of_another_model_is_refused_though_its_record_agrees(run: Run, photos: Path, tmp_path: Path) -> None:
    update(run, [photos], Counting(run))
    kept = shutil.copytree(own_folder(run) / "index", tmp_path / "index")
    embed(save_model(run, seed=5))
    other = Run.open(run.folder, run.root)
    update(other, [photos], Counting(other), afresh=True)
    shutil.rmtree(own_folder(other) / "index")
    shutil.copytree(kept, own_folder(other) / "index")
    with pytest.raises(PipelineError, match=r"model.*changed.*AFRESH=1"):
        open_engine(other)


def test_another_folder_is_refused_until_the_index_is_made_afresh(run: Run, photos: Path, tmp_path: Path) -> None:
    update(run, [photos], Counting(run))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(PipelineError, match=r"other: holds no photos"):
        update(run, [other], Counting(run))
    Image.fromarray(scene(1)).save(other / "one.jpg")
    with pytest.raises(PipelineError, match=r"is the index of .*my photos, not of .*other; name all.*AFRESH=1"):
        update(run, [other], Counting(run))
    assert update(run, [other], Counting(run), afresh=True).photos == 1
    assert names_of(run, other) == ["one.jpg"]


def test_several_folders_make_one_index_and_a_further_one_joins_it(run: Run, photos: Path, tmp_path: Path) -> None:
    update(run, [photos], Counting(run))
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(scene(1)).save(other / "0.jpg")  # a name that the first folder has too
    opener = Counting(run)
    # A folder within another is part of it.
    done = update(run, [photos / "summer", other, photos], opener)
    assert (done.photos, done.added, sum(opener.seen)) == (8, 1, 1)
    assert read_record(run).roots == (str(other), str(photos))
    with closing(open_engine(run)) as engine:
        gallery = engine.gallery
        assert gallery.name == "other, my photos"
        files = [gallery.file(row) for row in range(8)]
        assert {str(file) for file in files} == set(gallery.paths)
        row = files.index(other / "0.jpg")
        assert gallery.root(row) == other
        assert gallery.root(files.index(photos / "summer/1.jpg")) == photos
        assert np.abs(gallery.load(row).astype(int) - scene(1)).mean() < 8
    photos.rename(tmp_path / "unplugged")
    done = update(run, [], Counting(run))
    assert (done.photos, done.removed, done.offline) == (8, 0, {str(photos): 7})
    done = update(run, [], Counting(run), prune=True)
    assert (done.photos, done.removed, done.offline) == (1, 7, {})
    assert read_record(run).roots == (str(other),)
    (tmp_path / "unplugged").rename(photos)
    assert update(run, [other, photos], Counting(run)).added == 7


def test_what_is_excluded_stays_so_until_other_patterns_are_given(run: Run, photos: Path) -> None:
    assert update(run, [photos], Counting(run), exclude=["summer"]).photos == 4
    assert update(run, [photos], Counting(run)).photos == 4
    assert update(run, [], Counting(run)).photos == 4
    done = update(run, [photos], Counting(run), exclude=["[0-1].jpg"])
    assert (done.photos, done.added, done.removed) == (5, 2, 1)
    assert update(run, [photos], Counting(run), exclude=[""]).photos == 7


def test_an_index_may_lie_anywhere_even_among_the_photos(run: Run, photos: Path) -> None:
    place = photos / "index of these"
    for _ in range(2):
        assert update(run, [photos], Counting(run), index=place).photos == 7
    assert own_state(run) == "none"
    assert own_state(run, place) == "ready"
    assert own_folder(run, place).is_relative_to(place)
    read_record(run, place)


def test_the_index_of_an_exported_model_lies_with_the_users_data(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for name, value in {"XDG_DATA_HOME": home, "LOCALAPPDATA": home, "HOME": home, "USERPROFILE": home}.items():
        monkeypatch.setenv(name, str(value))
    assert own_home(run) == run.folder / "own_index"
    (run.model / EXPORTED).write_bytes(b"a network")
    assert own_home(run).is_relative_to(home)
    assert own_home(run).parts[-2:] == ("drawfind", run.name)
    for platform, part in (("darwin", "Library/Application Support"), ("win32", "drawfind"), ("linux", "drawfind")):
        monkeypatch.setattr(sys, "platform", platform)
        assert part in own_home(run).as_posix()
        assert own_home(run).is_relative_to(home)


def test_an_empty_or_missing_folder_leaves_the_index_as_it_is(run: Run, photos: Path) -> None:
    update(run, [photos], Counting(run))
    before = names_of(run, photos)
    away = photos.rename(photos.with_name("away"))
    with pytest.raises(PipelineError, match="is not a folder"):
        update(run, [photos], Counting(run))
    photos.mkdir()
    (photos / "x.jxl").touch()
    for afresh in (False, True):
        with pytest.raises(
            PipelineError, match=r"holds no photos that can be read \(1 JPEG XL.*index is left as it is"
        ):
            update(run, [photos], Counting(run), afresh=afresh)
    photos.joinpath("x.jxl").unlink()
    photos.rmdir()
    away.rename(photos)
    assert names_of(run, photos) == before
    assert update(run, [photos], Counting(run)).added == 0


def test_files_that_could_not_be_read_are_tried_again(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(scene(8, (400, 500))).save(photos / "large.png")
    monkeypatch.setattr(own_shards, "OWN_PIXELS", 100_000)
    done = update(run, [photos], Counting(run))
    top = photos.as_posix()
    assert done.bad.keys() == {f"{top}/broken.jpg", f"{top}/large.png"}
    assert json.loads((own_folder(run) / "bad.json").read_text()) == done.bad
    # The file is the same; what kept it out is gone.
    monkeypatch.undo()
    done = update(run, [photos], Counting(run))
    assert (done.added, list(done.bad)) == (1, [f"{top}/broken.jpg"])
    Image.fromarray(scene(9)).save(photos / "broken.jpg")
    done = update(run, [photos], Counting(run))
    assert (done.added, done.bad) == (1, {})
    (photos / "2.jpg").write_bytes(b"\xff\xd8\xff no picture")
    done = update(run, [photos], Counting(run))
    assert (done.photos, done.added, done.removed, list(done.bad)) == (8, 0, 1, [f"{top}/2.jpg"])


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "rabitq"])
def test_every_kind_of_index_serves_own_photos(run: Run, photos: Path, kind: str) -> None:
    changed = with_params(run, index__kind=kind, index__dimension=16)
    done = update(changed, [photos], Counting(changed))
    assert "16 numbers of 32" in done.settings
    with closing(open_engine(changed)) as engine:
        (hits,) = engine.search([engine.prepare(engine.gallery.load(0))], 5)
        assert hits
    # Another kind needs no photo to be embedded again.
    other = with_params(run, index__kind="exact")
    rest = Counting(other)
    assert "exact" in update(other, [photos], rest).settings
    assert rest.opened == 0


def test_copies_and_bursts_are_stacked_behind_the_best_of_them(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "trip"
    folder.mkdir()
    photo = view(1)
    moved = moved_by(photo, 0.03)
    for name, image, second in (
        ("first", photo, 10),
        ("burst", moved, 13),
        ("later", moved, 55),
        ("other", view(2), 11),
    ):
        exif = Image.Exif()
        exif[0x0110] = "Camera"
        exif.get_ifd(0x8769)[0x9003] = f"2024:05:06 07:08:{second:02d}"
        (folder / f"{name}.jpg").write_bytes(saved(image, "JPEG", exif=exif))
    (folder / "sent.jpg").write_bytes(saved(Image.fromarray(photo).resize((320, 240)), "JPEG", quality=50))
    update(run, [folder], Counting(run))
    with closing(open_engine(run)) as engine:
        gallery = engine.gallery
        rows = [gallery.paths.index(f"{name}.jpg") for name in ("other", "first", "later", "sent", "burst")]
        assert gallery.stacked(rows) == [[0], [1, 3, 4], [2]]
        assert gallery.stacked([]) == []


def test_pictures_of_the_pipeline_stand_alone(run: Run) -> None:
    with closing(open_engine(run, "pipeline")) as engine:
        assert engine.gallery.stacked([2, 0]) == [[0], [1]]
        assert engine.gallery.thumbnail(0) is None


def test_small_pictures_are_made_while_indexing_and_say_nothing_of_the_place(run: Run, photos: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    (photos / "turned.jpg").write_bytes(saved(scene(60, (900, 1200)), "JPEG", exif=exif))
    update(run, [photos], Counting(run))
    folder = own_folder(run) / "thumbnails"
    assert len(list(folder.glob("*/*.jpg"))) == 8
    with closing(open_engine(run)) as engine:
        row = engine.gallery.paths.index("turned.jpg")
        path = engine.gallery.file(row)
        assert path == photos / "turned.jpg"
        path.unlink()
        small = engine.gallery.thumbnail(row)
        assert small is not None
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (192, 256)  # upright
        assert not image.getexif()
    update(run, [photos], Counting(run))
    assert len(list(folder.glob("*/*.jpg"))) == 7  # that of a photo which is gone goes


def test_photos_are_decoded_once_and_no_larger_than_needed(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "large.jpg").write_bytes(saved(scene(60, (1200, 1600)), "JPEG"))
    shapes = []
    real = images.decode

    def decode(data: bytes, *, max_pixels: int, short_side: int) -> NDArray[np.uint8]:
        shapes.append((image := real(data, max_pixels=max_pixels, short_side=short_side)).shape)
        return image

    monkeypatch.setattr(own_shards, "decode", decode)
    update(run, [photos], Counting(run))
    assert sorted(shapes) == [(180, 220, 3)] * 7 + [(600, 800, 3)]


def test_the_command_tells_what_it_did(run: Run, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "x.JXL").touch()
    arguments = ["index", str(photos), "--run", str(run.folder)]
    assert command.main(arguments) == 0
    said = capsys.readouterr().out
    assert f"skipped {photos.as_posix()}/broken.jpg" in said
    assert "passed over 1 JPEG XL (.jxl), such as" in said
    assert "7 photos in" in said
    assert "7 embedded, 0 removed, 1 skipped" in said
    assert command.main(["index", "--run", str(run.folder), "--exclude", "summer"]) == 0
    assert "4 photos in" in capsys.readouterr().out
    assert command.main(["index", str(photos / "none"), "--run", str(run.folder)]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_a_long_work_says_how_far_it_has_got(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own_shards, "SAYING", 3)
    update(run, [photos], Counting(run))
    assert "3 of 8 photos are read; about 1 min are left" in capsys.readouterr().out


def test_nothing_new_loads_no_network(run: Run, photos: Path) -> None:
    update(run, [photos], Counting(run))
    code = (
        "import sys\n"
        "from pipeline_lib.search.__main__ import main\n"
        f"assert main(['index', '--run', {str(run.folder)!r}]) == 0\n"
        "loaded = {'torch', 'onnxruntime', 'scipy', 'sklearn', 'skimage', 'matplotlib', 'fastapi'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the index is as it was" in done.stdout


def test_a_folder_whose_name_is_not_utf8_is_refused_in_one_sentence(run: Run, photos: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9"))
    try:
        photos.rename(odd)
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")
    arguments = [sys.executable, "-m", "pipeline_lib.search", "index", str(odd), "--run", str(run.folder)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr.decode().endswith("\\xe9t\\xe9: the name is not UTF-8; rename the folder\n")
    assert b"Traceback" not in done.stderr
    assert own_state(run) == "none"


@pytest.mark.parametrize(("value", "forgets"), [("1", True), ("0", False), ("", False)])
def test_make_forgets_the_index_that_is_there_only_when_it_is_told_to(value: str, forgets: bool) -> None:
    told = subprocess.run(
        ["make", "--dry-run", "index", "PHOTOS=/photos", f"AFRESH={value}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "pipeline_lib.search index" in told
    assert ("--afresh" in told) is forgets


def test_links_that_lead_out_of_the_folder_are_indexed_only_if_asked_and_that_is_kept(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    Image.fromarray(scene(300)).save(tmp_path / "secret" / "secret.jpg")
    (photos / "link").symlink_to(tmp_path / "secret")
    (photos / "file.jpg").symlink_to(tmp_path / "secret" / "secret.jpg")
    done = update(run, [photos], Counting(run))
    assert done.photos == 7
    assert f"{photos.as_posix()}/link" in done.bad
    assert update(run, [photos], Counting(run), links=True).photos == 9
    assert update(run, [], Counting(run), exclude=["nothing"]).photos == 9
    assert update(run, [], Counting(run), links=False).photos == 7


def test_a_photo_that_was_replaced_is_not_shown_before_it_is_indexed(run: Run, photos: Path, tmp_path: Path) -> None:
    update(run, [photos], Counting(run))
    secret = tmp_path / "secret.jpg"
    Image.fromarray(scene(300)).save(secret)

    def statuses() -> list[int]:
        return [client.get(f"/photos/v1/{row}{kind}").status_code for kind in ("", "/original", "/input")]

    with closing(open_engine(run)) as engine:
        row = engine.gallery.paths.index("2.jpg")
        app = create_app(engine, Settings(), version="v1", hosts=("testserver",))
        with TestClient(app) as client:
            thumbnail = client.get(f"/photos/v1/{row}/thumbnail").content
            assert statuses() == [200, 200, 200]
            os.utime(photos / "2.jpg", (1, 1))  # touched
            shutil.copy(photos / "2.jpg", photos / "copy")
            (photos / "copy").replace(photos / "2.jpg")
            assert statuses() == [200, 200, 200]
            replacements: list[Callable[[], object]] = [
                lambda: change(photos / "2.jpg", 301),
                lambda: (photos / "2.jpg").symlink_to(secret),
                lambda: os.mkfifo(photos / "2.jpg"),
                lambda: None,  # it is gone
            ]
            for replace in replacements:
                replace()
                answers = [client.get(f"/photos/v1/{row}{kind}") for kind in ("", "/original")]
                assert [answer.status_code for answer in answers] == [404, 404]
                assert client.post(f"/api/search/photo/{row}").status_code == 404
                assert client.get(f"/photos/v1/{row}/thumbnail").content == thumbnail
                (photos / "2.jpg").unlink(missing_ok=True)


def test_answers_on_own_photos_tell_no_more_than_the_name_of_their_folder(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(scene(300)).save(other / "9.jpg")
    for folders in ([photos], [photos, other]):
        update(run, folders, Counting(run))
        with (
            closing(open_engine(run)) as engine,
            TestClient(create_app(engine, Settings(), version="v1", hosts=("testserver",))) as client,
        ):
            answer = client.post("/api/search/photo/0")
            texts = [answer.text, client.get("/api/model").text, client.get("/photos/v1/0/original").headers]
            assert not any(str(tmp_path) in str(text) for text in texts)
            paths = {photo["path"] for hit in answer.json()["found"] for photo in (hit, *hit["stack"])}
            assert "my photos/summer/1.jpg" in paths
            assert ("other/9.jpg" in paths) == (len(folders) == 2)
            assert client.get("/api/model").json()["folders"] == [folder.name for folder in folders]


def test_a_photo_that_takes_too_much_memory_is_shown_by_the_small_picture_that_was_kept(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(scene(300)).save(photos / "large.png")
    update(run, [photos], Counting(run))
    monkeypatch.setattr(engines, "SHOWN_PIXELS", 100)
    with (
        closing(open_engine(run)) as engine,
        TestClient(create_app(engine, Settings(), version="v1", hosts=("testserver",))) as client,
    ):
        row = engine.gallery.paths.index("large.png")
        photo, thumbnail = (client.get(f"/photos/v1/{row}{kind}") for kind in ("", "/thumbnail"))
        assert [photo.status_code, thumbnail.status_code] == [200, 200]
        sizes = [Image.open(io.BytesIO(answer.content)).size for answer in (photo, thumbnail)]
        assert sizes[0] == sizes[1]
        assert client.post(f"/api/search/photo/{row}").json()["found"][0]["number"] == row


def test_a_bit_that_flips_in_the_footer_of_an_indexs_names_is_found_or_changes_nothing(run: Run, photos: Path) -> None:
    """A footer holds the digest of the vectors and the name of the alignment."""
    update(run, [photos], Counting(run))
    folder = own_folder(run) / "index"
    path = folder / "photos.parquet"
    whole, before = path.read_bytes(), written_rows(folder)
    place = whole.index(b"pretext_whitened")
    for bit in range(8):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        try:
            rows = written_rows(folder)
        except PipelineError:
            continue
        assert rows.equals(before)
        assert told(rows) == told(before) or told(rows)["alignment"] not in ALIGNMENTS


def test_a_shard_that_is_cut_is_told_when_its_index_is_searched(run: Run, photos: Path) -> None:
    """Its photos would be shown without their small pictures, dates and marks, and nobody would know why."""
    update(run, [photos], Counting(run))
    shard = next((own_folder(run) / "vectors").glob("shard*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(PipelineError, match=r"shard\.parquet: can't be read .*drawfind index"):
        open_engine(run)
