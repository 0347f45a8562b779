"""Photos behind an address are read as those of a folder are."""

from __future__ import annotations

import http.server
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from pipeline_lib import params
from pipeline_lib.data.catalog import build_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.errors import PipelineError
from pipeline_lib.search.gallery import Gallery
from tests.pipeline.support import draw_photos

Make = Callable[..., params.Params]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = draw_photos(tmp_path / "photos", 3, 2)
    (folder / "more").mkdir()
    (folder / "photo 02.jpg").rename(folder / "more" / "nested.jpg")
    (folder / ".hidden.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def in_memory(photos: Path) -> Iterator[str]:
    store = fsspec.filesystem("memory")
    store.put(f"{photos}/", "/own/", recursive=True)
    yield "memory://own"
    store.rm("/own", recursive=True)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server of a folder; its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def over_http(photos: Path) -> Iterator[str]:
    with served(photos) as address:
        yield address


def source_at(make_params: Make, root: str, sketches: str = "sketches") -> Any:
    changes = {"catalog.dataset": "folder", "catalog.root": root, "catalog.sketches": sketches}
    return open_source(make_params(changes).catalog, Path("/"))


def test_a_store_is_listed_and_read_as_the_folder_that_it_holds(
    make_params: Make, photos: Path, in_memory: str
) -> None:
    here, there = source_at(make_params, str(photos)), source_at(make_params, in_memory)
    entries = list(here.entries())
    assert list(there.entries()) == entries
    assert len(entries) == 2 * 3 + 2
    assert list(there.excluded()) == list(here.excluded())
    for entry in entries:
        assert there.content(entry.path) == here.content(entry.path)
        same = [source.load(entry.path, entry.domain, entry.image_id) for source in (here, there)]
        assert np.array_equal(*same)


def test_a_changed_file_of_a_store_has_another_signature(make_params: Make, in_memory: str) -> None:
    source = source_at(make_params, in_memory)
    before = source.signature("photo 00.jpg")
    assert source.signature("photo 00.jpg") == before != source.signature("photo 01.jpg")
    fsspec.filesystem("memory").pipe_file("/own/photo 00.jpg", b"another")
    assert source.signature("photo 00.jpg") != before
    assert source.signature("gone.jpg") == "missing"


def test_photos_are_read_over_http(make_params: Make, photos: Path, over_http: str) -> None:
    (photos / "photo 00.jpg").rename(photos / "plain.jpg")
    source = pickle.loads(pickle.dumps(source_at(make_params, over_http, "")))
    here = source_at(make_params, str(photos), "")
    found = {entry.path for entry in source.entries()}
    assert {"plain.jpg", "more/nested.jpg"} <= found
    assert source.content("plain.jpg") == here.content("plain.jpg")
    assert np.array_equal(source.load("plain.jpg", "photo", ""), here.load("plain.jpg", "photo", ""))


def test_a_catalog_of_photos_behind_http_is_that_of_their_folder(
    make_params: Make, photos: Path, over_http: str, tmp_path: Path
) -> None:
    """By processes, each of which opens the address for itself."""
    for file in (*photos.glob("* *"), *(photos / "sketches").glob("* *")):
        file.rename(file.with_name(file.name.replace(" ", "-")))
    tables = []
    for name, root in (("here", str(photos)), ("there", over_http)):
        source = source_at(make_params, root)
        settings = make_params({"catalog.dataset": "folder", "catalog.root": root}).catalog
        tables.append(build_catalog(source, settings, tmp_path / name, workers=2).table)
    assert len(tables[0]) == 2 * 3 + 2
    assert tables[1].equals(tables[0])


def test_the_search_shows_photos_behind_an_address_and_offers_no_file(make_params: Make, in_memory: str) -> None:
    gallery = Gallery(
        "pipeline", ("photo/photo 00.jpg",), ("photo 00.jpg",), "photo", source_at(make_params, in_memory)
    )
    assert gallery.load(0).shape == (200, 240, 3)
    assert gallery.file(0) is gallery.root(0) is gallery.unchanged_file(0) is None
    assert gallery.shown_path(0) == "photo 00.jpg"


@pytest.mark.parametrize("root", ["memory://nothing", "unheard-of://bucket"])
def test_an_address_that_can_not_be_opened_is_told(make_params: Make, root: str) -> None:
    with pytest.raises(PipelineError, match=rf"catalog\.root: {root}"):
        source_at(make_params, root)
