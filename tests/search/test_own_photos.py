from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline_lib.errors import PipelineError
from pipeline_lib.run import Run
from pipeline_lib.search import engine as engines
from pipeline_lib.search import index_photos
from pipeline_lib.search.engine import QueryEncoder, open_encoder, open_engine
from pipeline_lib.search.gallery import Gallery
from pipeline_lib.search.index_photos import Update, main, update
from pipeline_lib.search.own_record import Record, own_folder, own_gallery
from tests.conftest import scene
from tests.pipeline.support import ROOT
from tests.search.support import embed, save_model, with_params


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


class Counting(QueryEncoder):
    """The encoder, with a count of the images that went through it."""

    seen: list[int]

    def raw(self, prepared: list[Tensor]) -> NDArray[np.float32]:  # type: ignore[override]
        self.seen.append(len(prepared))
        return super().raw(prepared)


def counted(run: Run) -> Counting:
    real = open_encoder(run, 1)
    encoder = Counting(real.networks, real.alignment)
    object.__setattr__(encoder, "seen", [])
    return encoder


def ids_of(run: Run) -> list[str]:
    return sorted(pq.read_table(own_folder(run) / "index/photos.parquet")["image_id"].to_pylist())


def change(path: Path, seed: int) -> None:
    before = path.stat().st_mtime
    Image.fromarray(scene(seed)).save(path)
    os.utime(path, (before + 5, before + 5))


def test_every_photo_finds_itself_in_the_index_and_bad_files_are_listed(run: Run, photos: Path) -> None:
    done = update(run, photos, counted(run))
    assert (done.photos, done.added, done.removed) == (7, 7, 0)
    assert list(done.bad) == ["broken.jpg"]
    assert "exact" in done.settings
    engine = open_engine(run)
    try:
        assert engine.facts.count == len(engine.gallery) == 7
        assert ids_of(run) == sorted(engine.gallery.image_ids)
        for row in range(7):
            (vector,) = engine.encoder.raw([engine.prepare(engine.gallery.load(row))])
            aligned = engine.encoder.alignment.apply(vector[None], "photo")
            ((rows, scores),) = engine.faiss.search(aligned, 1)
            assert rows[0] == row
            assert scores[0] == pytest.approx(1, abs=1e-4)
    finally:
        engine.close()


def test_an_update_embeds_only_what_is_new_or_changed_and_drops_what_is_gone(run: Run, photos: Path) -> None:
    update(run, photos, counted(run))
    again = counted(run)
    done = update(run, photos, again)
    assert again.seen == []
    assert done == Update(7, 0, 0, done.bad, "")

    Image.fromarray(scene(300)).save(photos / "new.png")
    change(photos / "2.jpg", 301)
    (photos / "summer/1.jpg").unlink()
    some = counted(run)
    done = update(run, photos, some)
    assert sum(some.seen) == done.added == 2
    assert (done.photos, done.removed) == (7, 1)  # what has changed is embedded again, and has not left
    assert ids_of(run) == ["0.jpg", "2.jpg", "4.jpg", "6.jpg", "new.png", "summer/3.jpg", "summer/5.jpg"]

    shutil.copytree(own_folder(run), run.root / "kept")
    update(run, photos, counted(run), afresh=True)
    before, after = (_vectors(folder) for folder in (run.root / "kept", own_folder(run)))
    assert before.keys() == after.keys()
    for name, vector in before.items():
        np.testing.assert_allclose(vector, after[name], rtol=1e-4, atol=1e-4)


def _vectors(own: Path) -> dict[str, NDArray[np.float32]]:
    tables = [pq.read_table(path) for path in sorted((own / "vectors").glob("*.parquet"))]
    pairs = [(t["image_id"].to_pylist(), np.array(t["vector"].to_pylist(), np.float32)) for t in tables]
    return {name: vector for names, vectors in pairs for name, vector in zip(names, vectors, strict=True)}


def test_an_update_that_was_cut_off_goes_on_where_it_stopped(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_photos, "SHARD_ROWS", 3)
    killed = counted(run)

    def raw(prepared: list[Tensor]) -> NDArray[np.float32]:
        if sum(killed.seen) >= 3:
            raise KeyboardInterrupt
        return Counting.raw(killed, prepared)

    object.__setattr__(killed, "raw", raw)
    with pytest.raises(KeyboardInterrupt):
        update(run, photos, killed)
    finished = sum(pq.read_metadata(path).num_rows for path in (own_folder(run) / "vectors").glob("*.parquet"))
    assert 0 < finished < 7
    with pytest.raises(PipelineError, match=r"not finished.*make index PHOTOS="):
        open_engine(run, "own")
    rest = counted(run)
    assert update(run, photos, rest).photos == 7
    assert sum(rest.seen) == 7 - finished


def test_a_server_whose_index_was_updated_finds_no_wrong_photos(run: Run, photos: Path) -> None:
    update(run, photos, counted(run))
    with closing(open_engine(run)) as engine:
        prepared = [engine.prepare(engine.gallery.load(0))]
        before = engine.search(prepared, 7)
        (photos / "0.jpg").unlink()
        update(run, photos, counted(run))
        assert engine.search(prepared, 7) == before
        assert engine.faiss.pid is not None
        os.kill(engine.faiss.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(PipelineError, match=r"index: has changed since the server started; start it again"):
                engine.search(prepared, 7)


def test_an_index_that_is_updated_while_it_is_opened_is_refused(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(run, photos, counted(run))

    def own_gallery_and_then_an_update(record: Record, folder: Path, max_pixels: int) -> Gallery:
        gallery = own_gallery(record, folder, max_pixels)
        (photos / "0.jpg").unlink()
        update(run, photos, counted(run))
        return gallery

    monkeypatch.setattr(engines, "own_gallery", own_gallery_and_then_an_update)
    with pytest.raises(PipelineError, match="index: has changed while it was opened; start again"):
        open_engine(run)
    monkeypatch.undo()
    open_engine(run).close()


def test_a_record_that_is_cut_names_the_way_out(run: Run, photos: Path) -> None:
    update(run, photos, counted(run))
    record = own_folder(run) / "record.json"
    record.write_bytes(record.read_bytes()[:30])
    for act in (lambda: open_engine(run), lambda: update(run, photos, counted(run))):
        with pytest.raises(PipelineError, match=r"record\.json: is damaged; .*AFRESH=1"):
            act()
    assert update(run, photos, counted(run), afresh=True).photos == 7
    open_engine(run).close()


def test_a_changed_model_is_noticed_and_the_way_out_is_told(run: Run, photos: Path) -> None:
    update(run, photos, counted(run))
    run = save_model(run, seed=5)
    embed(run)
    with pytest.raises(PipelineError, match=r"model.*changed.*AFRESH=1"):
        update(run, photos, counted(run))
    with pytest.raises(PipelineError, match=r"model.*changed.*AFRESH=1.*GALLERY=pipeline"):
        open_engine(run)
    open_engine(run, "pipeline").close()
    assert update(run, photos, counted(run), afresh=True).added == 7
    open_engine(run).close()


def test_another_folder_is_refused_until_the_index_is_made_afresh(run: Run, photos: Path, tmp_path: Path) -> None:
    update(run, photos, counted(run))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(PipelineError, match=r"other: holds no photos|is the index of"):
        update(run, other, counted(run))
    Image.fromarray(scene(1)).save(other / "one.jpg")
    with pytest.raises(PipelineError, match=r"is the index of .*my photos.*AFRESH=1"):
        update(run, other, counted(run))
    assert update(run, other, counted(run), afresh=True).photos == 1
    assert ids_of(run) == ["one.jpg"]


def test_an_empty_or_missing_folder_leaves_the_index_as_it_is(run: Run, photos: Path) -> None:
    update(run, photos, counted(run))
    before = ids_of(run)
    away = photos.rename(photos.with_name("away"))
    with pytest.raises(PipelineError, match="is not a folder"):
        update(run, photos, counted(run))
    photos.mkdir()
    for afresh in (False, True):
        with pytest.raises(PipelineError, match="holds no photos; the index is left as it is"):
            update(run, photos, counted(run), afresh=afresh)
    photos.rmdir()
    away.rename(photos)
    assert ids_of(run) == before
    assert update(run, photos, counted(run)).added == 0


def test_a_folder_whose_name_is_not_utf_8_is_refused_in_words(run: Run, photos: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9"))
    photos.rename(odd)
    command = [sys.executable, "-m", "pipeline_lib.search.index_photos", str(odd)]
    command += ["--run", str(run.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr.decode().endswith("\\xe9t\\xe9: the name is not UTF-8; rename the folder\n")
    assert b"Traceback" not in done.stderr
    assert not own_folder(run).exists()


def test_files_that_could_not_be_read_are_tried_again(run: Run, photos: Path) -> None:
    Image.fromarray(scene(8, (400, 500))).save(photos / "large.png")
    small = with_params(run, catalog__max_pixels=100_000)
    done = update(small, photos, counted(small))
    assert done.bad.keys() == {"broken.jpg", "large.png"}
    assert json.loads((own_folder(run) / "bad.json").read_text()) == done.bad
    # The file is the same; what kept it out is gone.
    done = update(run, photos, counted(run))
    assert (done.added, list(done.bad)) == (1, ["broken.jpg"])
    Image.fromarray(scene(9)).save(photos / "broken.jpg")
    done = update(run, photos, counted(run))
    assert (done.added, done.bad) == (1, {})
    change(photos / "2.jpg", 10)
    (photos / "2.jpg").write_bytes(b"\xff\xd8\xff no picture")
    done = update(run, photos, counted(run))
    assert (done.photos, done.added, done.removed, list(done.bad)) == (8, 0, 1, ["2.jpg"])


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "pq"])
def test_every_kind_of_index_serves_own_photos(run: Run, photos: Path, kind: str) -> None:
    changed = with_params(run, index__kind=kind, index__dimension=16)
    done = update(changed, photos, counted(changed))
    assert "16 numbers of 32" in done.settings
    engine = open_engine(changed)
    try:
        (hits,) = engine.search([engine.prepare(engine.gallery.load(0))], 5)
        assert hits
    finally:
        engine.close()
    # Another kind needs no photo to be embedded again.
    other = with_params(run, index__kind="exact")
    rest = counted(other)
    assert "exact" in update(other, photos, rest).settings
    assert rest.seen == []


def test_the_command_tells_what_it_did(run: Run, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(photos), "--run", str(run.folder)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "skipped broken.jpg" in said
    assert "7 photos in" in said
    assert "7 embedded, 0 removed, 1 skipped" in said
    assert main([str(photos / "none"), *arguments[1:]]) == 1
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "forgets"), [("1", True), ("0", False), ("", False)])
def test_make_forgets_the_index_that_is_there_only_when_it_is_told_to(value: str, forgets: bool) -> None:
    command = ["make", "--dry-run", "index", "PHOTOS=/photos", f"AFRESH={value}"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pipeline_lib.search.index_photos" in told
    assert ("--afresh" in told) is forgets
