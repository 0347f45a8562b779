from __future__ import annotations

import hashlib
import os
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline_lib import registry
from pipeline_lib.data.images import BadImage, encode_png
from pipeline_lib.data.source import Entry, FileSource, open_source
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import resolve_path
from pipeline_lib.params import Catalog, parse

REPOSITORY = Path(__file__).resolve().parents[2]


def catalog(**changes: object) -> Catalog:
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    values["catalog"].update(changes)
    return parse(values).catalog


def test_a_relative_root_is_resolved_from_the_repository(tmp_path: Path) -> None:
    assert resolve_path("../shared/data", tmp_path / "main", "catalog.root") == tmp_path / "shared" / "data"
    assert resolve_path("/elsewhere/x", tmp_path, "catalog.root") == Path("/elsewhere/x")


@pytest.mark.parametrize("copy", [".dvc/tmp/exps/standalone/tmpab", ".dvc/tmp/exps/tmpab"])
def test_an_experiment_copy_reads_its_own_files_and_the_real_repositorys_neighbours(tmp_path: Path, copy: str) -> None:
    real = tmp_path / "main"
    here = real / copy
    here.mkdir(parents=True)
    (here / "requirements-data.txt").write_text("x", encoding="utf-8")
    (real / "requirements-data.txt").write_text("y", encoding="utf-8")
    (real / "private").mkdir()
    # A folder that happens to lie where the relative root would lead from the copy.
    (here.parent / "shared").mkdir()
    assert resolve_path("requirements-data.txt", here, "catalog.root") == here / "requirements-data.txt"
    assert resolve_path("private", here, "catalog.root") == real / "private"
    assert resolve_path("../shared", here, "catalog.root") == tmp_path / "shared"


def test_a_missing_root_names_the_key(tmp_path: Path) -> None:
    for dataset in ("voc_sketchy", "folder"):
        with pytest.raises(PipelineError, match=r"catalog\.root: .*nowhere is not a folder"):
            open_source(catalog(dataset=dataset, root="nowhere"), tmp_path)


@pytest.mark.parametrize("root", ["~", "~/photos", "~someone/photos"])
def test_a_home_folder_that_dvc_would_not_find_is_refused(tmp_path: Path, root: str) -> None:
    with pytest.raises(PipelineError, match=r"catalog\.root.*DVC does not expand ~; write the home folder out"):
        open_source(catalog(dataset="folder", root=root), tmp_path)


def test_the_right_reader_is_opened_and_survives_the_way_to_a_worker(tmp_path: Path) -> None:
    for dataset in ("voc_sketchy", "folder"):
        source = open_source(catalog(dataset=dataset, root=str(tmp_path)), REPOSITORY)
        assert pickle.loads(pickle.dumps(source)) == source
        assert source.recognises
        assert source.trains_on_gallery == (dataset == "folder")


@dataclass(frozen=True)
class Toy(FileSource):
    def entries(self) -> Iterator[Entry]:
        yield from (Entry(f"toy/{file.stem}", "toy", "gallery", "photo", file.name) for file in self.root.iterdir())


def test_a_new_data_set_is_a_class_and_a_line_of_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toy_reader", sys.modules[__name__])
    monkeypatch.setitem(registry.DATASETS, "toy", "toy_reader:Toy")
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((5, 7, 3), np.uint8)))
    source = open_source(catalog(dataset="toy", root=str(tmp_path)), REPOSITORY)
    (entry,) = source.entries()
    assert source.load(entry.path, entry.domain, entry.image_id).shape == (5, 7, 3)


def test_files_that_cannot_be_read_are_bad_images(tmp_path: Path) -> None:
    source = FileSource(tmp_path, 1000)
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name in ("empty.jpg", "folder.jpg", "loop.jpg", "dangling.jpg", "pipe.jpg", "missing.jpg"):
        with pytest.raises(BadImage):
            source.load(name, "photo", name)


def test_a_file_far_too_big_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(BadImage, match="max_pixels"):
        FileSource(tmp_path, 1000).load("huge.png", "photo", "huge")


def test_content_is_the_digest_of_the_bytes_and_the_signature_follows_changes(tmp_path: Path) -> None:
    data = encode_png(np.zeros((5, 7, 3), np.uint8))
    (tmp_path / "a.jpg").write_bytes(data)  # the content decides, not the extension
    source = FileSource(tmp_path, 1000)
    assert source.load("a.jpg", "photo", "a").shape == (5, 7, 3)
    assert source.content("a.jpg") == hashlib.sha256(data).hexdigest()
    before = source.signature("a.jpg")
    assert source.signature("a.jpg") == before
    os.utime(tmp_path / "a.jpg", ns=(1, 1))
    assert source.signature("a.jpg") != before
    assert source.signature("b.jpg") == "missing"


def test_a_signature_notices_a_change_that_keeps_size_and_time(tmp_path: Path) -> None:
    file, source = tmp_path / "a.jpg", FileSource(tmp_path, 1000)
    file.write_bytes(b"first")
    os.utime(file, ns=(1, 1))
    before = source.signature("a.jpg")
    time.sleep(0.02)  # file systems tell times apart in steps of up to 10 ms
    file.write_bytes(b"other")
    os.utime(file, ns=(1, 1))
    changed = source.signature("a.jpg")
    assert changed != before
    time.sleep(0.02)
    (tmp_path / "b").write_bytes(b"third")
    os.utime(tmp_path / "b", ns=(1, 1))
    (tmp_path / "b").replace(file)
    assert source.signature("a.jpg") not in {before, changed}
