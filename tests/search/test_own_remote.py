"""One's own photos in an object store, or behind a web server: indexed, searched, changed and out of reach."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fastapi.testclient import TestClient
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from pipeline_lib.data.images import BadImage
from pipeline_lib.errors import PipelineError
from pipeline_lib.run import Run
from pipeline_lib.search.__main__ import main
from pipeline_lib.search.api import create_app
from pipeline_lib.search.engine import SearchEngine, open_engine
from pipeline_lib.search.gallery import EVERYWHERE, Among
from pipeline_lib.search.index_photos import update
from pipeline_lib.search.own_record import read_record
from pipeline_lib.search.service import Settings
from tests.conftest import scene
from tests.data.test_remote import served
from tests.search.test_own_photos import Counting

STORE = "memory://bucket/my photos"


def as_jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(scene(seed)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def store() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    for number in range(6):
        files.pipe_file(f"/bucket/my photos/{'summer/' * (number % 2)}{number}.jpg", as_jpeg(100 + number))
    files.pipe_file("/bucket/my photos/broken.jpg", b"\xff\xd8\xff no picture")
    files.pipe_file("/bucket/my photos/notes.txt", b"not looked at")
    yield files
    files.rm("/bucket", recursive=True)


def opened(run: Run) -> closing[SearchEngine]:
    return closing(open_engine(run, "own", 1))


def found_by(engine: SearchEngine, seed: int, among: Among = EVERYWHERE) -> list[str]:
    shown = engine.prepare(np.asarray(Image.open(io.BytesIO(as_jpeg(seed)))), "photo")
    aligned = engine.encoder.alignment.apply(engine.encoder.raw([shown]), "photo")
    ((rows, _),) = engine.faiss.search(aligned, 6, 0.0, engine.gallery.chosen(among))
    return [engine.gallery.image_ids[row] for row in rows]


@pytest.mark.usefixtures("store")
def test_every_photo_of_a_store_finds_itself(run: Run) -> None:
    done = update(run, [f"{STORE}/"], Counting(run))
    assert (done.photos, done.added) == (6, 6)
    assert list(done.bad) == [f"{STORE}/broken.jpg"]
    assert read_record(run).roots == (STORE,)
    with opened(run) as engine:
        for number in range(6):
            assert found_by(engine, 100 + number)[0] == f"{STORE}/{'summer/' * (number % 2)}{number}.jpg"
        row = list(engine.gallery.image_ids).index(f"{STORE}/summer/3.jpg")
        assert engine.gallery.file(row) is None
        assert str(engine.gallery.place(row)) == f"{STORE}/summer/3.jpg"
        assert engine.gallery.shown_path(row) == "my photos/summer/3.jpg"
        assert np.array_equal(engine.gallery.load(row), np.asarray(Image.open(io.BytesIO(as_jpeg(103)))))
        assert not engine.gallery.is_away(row)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("folder", ["summer", "my photos/summer", f"{STORE}/summer", f"{STORE}/summer/"])
def test_a_search_is_narrowed_to_a_folder_of_the_store(run: Run, folder: str) -> None:
    update(run, [STORE], Counting(run))
    with opened(run) as engine:
        found = found_by(engine, 100, Among(folder))
    assert sorted(found) == [f"{STORE}/summer/{number}.jpg" for number in (1, 3, 5)]


def test_an_update_embeds_what_is_new_or_changed_and_drops_what_is_gone(run: Run, store: Any) -> None:
    update(run, [STORE], Counting(run))
    assert update(run, [], Counting(run)).settings == ""
    store.pipe_file("/bucket/my photos/0.jpg", as_jpeg(200))
    store.mv("/bucket/my photos/2.jpg", "/bucket/my photos/summer/moved.jpg")
    store.rm("/bucket/my photos/summer/1.jpg")
    opener = Counting(run)
    done = update(run, [], opener)
    assert (done.photos, done.added, done.kept, done.removed) == (5, 1, 1, 2)
    assert sum(opener.seen) == 1
    with opened(run) as engine:
        assert found_by(engine, 102)[0] == f"{STORE}/summer/moved.jpg"


def test_a_photo_that_was_replaced_is_not_shown_until_it_is_indexed(run: Run, store: Any) -> None:
    update(run, [STORE], Counting(run))
    with opened(run) as engine:
        row = list(engine.gallery.image_ids).index(f"{STORE}/0.jpg")
        store.pipe_file("/bucket/my photos/0.jpg", as_jpeg(100))  # the same again, at another time
        assert engine.gallery.load(row).shape == scene(100).shape
        store.pipe_file("/bucket/my photos/0.jpg", as_jpeg(200))
        with pytest.raises(BadImage, match="has changed"):
            engine.gallery.load(row)
        store.rm("/bucket/my photos/0.jpg")
        with pytest.raises(BadImage):
            engine.gallery.load(row)


@pytest.mark.usefixtures("store")
def test_a_store_and_a_folder_are_searched_together(run: Run, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    Image.fromarray(scene(300)).save(tmp_path / "here/own.jpg")
    assert update(run, [STORE, tmp_path / "here"], Counting(run)).photos == 7
    with opened(run) as engine:
        gallery = engine.gallery
        assert found_by(engine, 103)[0] == f"{STORE}/summer/3.jpg"
        rows = {name: row for row, name in enumerate(gallery.image_ids)}
        assert gallery.load(rows[f"{STORE}/summer/3.jpg"]).shape == scene(103).shape
        own = rows[(tmp_path / "here/own.jpg").as_posix()]
        assert gallery.file(own) == tmp_path / "here/own.jpg"
        assert [gallery.shown_path(row) for row in (own, rows[f"{STORE}/0.jpg"])] == ["here/own.jpg", "my photos/0.jpg"]
        assert gallery.folders == ["my photos", "here"]


class Away:
    """Lets the store answer some requests, and then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 1 << 30
        for name in ("ls", "info", "isdir", "_open"):
            monkeypatch.setattr(MemoryFileSystem, name, self._counted(getattr(MemoryFileSystem, name)))

    def _counted(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **rest: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("endpoint could not be resolved")
            return answer(*args, **rest)

        return asked


@pytest.fixture
def away(store: Any, monkeypatch: pytest.MonkeyPatch) -> Away:  # noqa: ARG001
    return Away(monkeypatch)


@pytest.mark.parametrize("after", range(16))
def test_photos_of_a_store_out_of_reach_are_kept_whenever_it_is_lost(run: Run, away: Away, after: int) -> None:
    update(run, [STORE], Counting(run))
    away.left = after
    try:
        assert update(run, [], Counting(run)).removed == 0
    except PipelineError as failure:
        assert re.search("the index is left as it is|can't be listed", str(failure))  # noqa: PT017  where it is not lost in time, nothing fails
    away.left = 1 << 30
    opener = Counting(run)
    assert update(run, [], opener).photos == 6
    assert opener.seen == []
    with opened(run) as engine:
        assert found_by(engine, 103)[0] == f"{STORE}/summer/3.jpg"


def test_results_are_shown_by_small_pictures_while_the_store_is_out_of_reach(run: Run, away: Away) -> None:
    update(run, [STORE], Counting(run))
    away.left = 0
    with opened(run) as engine:
        assert found_by(engine, 103)[0] == f"{STORE}/summer/3.jpg"
        with TestClient(create_app(engine, Settings(), version="v1", hosts=("testserver",))) as client:
            answer = client.post("/api/search/image?kind=photo", content=as_jpeg(103))
            first = answer.json()["found"][0]
            assert first["folder"].startswith("my photos")
            assert "memory:" not in answer.text
            assert client.get(f"/{first['thumbnail']}").status_code == 200


@pytest.mark.usefixtures("store")
def test_the_commands_take_addresses(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["index", STORE, "--run", str(run.folder)]) == 0
    assert "6 photos in" in capsys.readouterr().out
    (tmp_path / "drawn.jpg").write_bytes(as_jpeg(103))
    asked = ["search", str(tmp_path / "drawn.jpg"), "--photo", "--run", str(run.folder), "--gallery", "own", "--json"]
    assert main(asked) == 0
    first = json.loads(capsys.readouterr().out)[0]["found"][0]
    assert first["path"] == f"{STORE}/summer/3.jpg"


@pytest.mark.parametrize("address", ["memory://nothing", "unheard-of://bucket"])
def test_an_address_that_can_not_be_opened_is_told(run: Run, address: str) -> None:
    with pytest.raises(PipelineError, match=rf"photos: {address}"):
        update(run, [address], Counting(run))


def test_photos_of_a_web_server_are_indexed(run: Run, tmp_path: Path) -> None:
    for number in range(4):
        place = tmp_path / "shown" / ("more" if number % 2 else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(100 + number)).save(place / f"{number}.jpg")
    with served(tmp_path / "shown") as address:
        assert update(run, [address], Counting(run)).photos == 4
        with opened(run) as engine:
            assert found_by(engine, 103)[0] == f"{address}/more/3.jpg"
            assert engine.gallery.load(0).shape == scene(100).shape
    with pytest.raises(PipelineError, match="out of reach; the index is left as it is"):
        update(run, [], Counting(run))
