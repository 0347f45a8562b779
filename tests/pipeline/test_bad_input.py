"""What users do wrong and what breaks on its own: a sentence that names file or key, and a rerun that goes on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_lib.errors import PipelineError
from pipeline_lib.files import replacing, temporary
from tests.conftest import scene
from tests.pipeline.support import Case, processes_of, run, set_params, small_case


def refusal(said: str) -> str:
    """The message of a stage that gave up: it stands at the end, and there is no traceback."""
    assert "Traceback" not in said
    assert said.count("error: ") == 1
    return said[said.index("error: ") :].strip()


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patches.sise": 64}, "patches.sise: unknown key"),
        ({"edges.jpeg_quality": 101}, "edges.jpeg_quality: Input should be less than or equal to 100"),
        ({"train.epochs": "many"}, "train.epochs: Input should be a valid integer"),
        ({"patches.size": 90}, "raise edges.short_side or lower patches.size"),
    ],
)
def test_a_param_that_cannot_be_used_is_named(fresh: Case, changes: dict[str, Any], words: str) -> None:
    set_params(fresh.tree, changes)
    said = refusal(fresh.stage("patches", succeeds=False))
    assert words in said
    assert str(fresh.tree / "params.yaml") in said
    assert not (fresh.tree / "data").exists()


@pytest.mark.parametrize(
    ("content", "words"), [(b"patches: [1, 2\n", "expected ',' or ']'"), ("data: café\n".encode("latin-1"), "UTF-8")]
)
def test_a_params_file_that_is_no_yaml_is_named(fresh: Case, content: bytes, words: str) -> None:
    (fresh.tree / "params.yaml").write_bytes(content)
    said = refusal(fresh.stage("patches", succeeds=False))
    assert str(fresh.tree / "params.yaml") in said
    assert words in said


def test_a_stage_without_its_input_names_it(fresh: Case) -> None:
    assert "catalog.parquet" in refusal(fresh.stage("edges", succeeds=False))


def test_an_empty_and_a_missing_photo_folder_name_the_key(fresh: Case) -> None:
    shutil.rmtree(fresh.photos)
    assert "catalog.root: " in refusal(fresh.stage("catalog", succeeds=False))
    fresh.photos.mkdir()
    assert f"catalog.root: {fresh.photos} holds no photos" in refusal(fresh.stage("catalog", succeeds=False))


def spoil(folder: Path) -> tuple[set[str], set[str]]:
    """Adds odd but good files, and bad ones, to a folder of photos; returns the names of both."""
    picture = Image.fromarray(scene(90, (200, 240)))
    good = folder / "Ünïcödé 猫 photos"
    good.mkdir()
    picture.convert("CMYK").save(good / "cmyk.jpg")
    picture.convert("L").save(good / "grey, really.jpg")
    Image.fromarray(scene(91, (200, 240))[..., 0].astype(np.uint16) * 257).save(good / "sixteen bits.png")
    seen = picture.convert("RGBA")
    seen.putalpha(128)
    seen.save(good / "transparent (half).webp", lossless=True)
    picture.save(good / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    picture.save(good / "really a png.jpg", "PNG")
    picture.resize((40, 30)).save(good / "smaller than a patch.png")

    whole = (folder / "photo 00.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    (folder / "words.jpg").write_text("not a picture", encoding="utf-8")
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "loop").symlink_to(folder)
    (good / "up").symlink_to("..")
    return {path.name for path in good.iterdir() if path.is_file()}, {
        "cut.jpg", "empty.png", "words.jpg", "self.jpg", "gone.jpg",
    }  # fmt: skip


def test_odd_files_are_taken_bad_ones_listed_and_too_many_named(fresh: Case) -> None:
    good, bad = spoil(fresh.photos)
    said = refusal(fresh.stage("catalog", succeeds=False))
    assert "5 of 24 images can't be read, more than catalog.max_bad_fraction 0.01" in said
    assert all(f"  {name}: " in said for name in bad)
    assert not (fresh.tree / "data/catalog.parquet").exists()

    set_params(fresh.tree, {"catalog.max_bad_fraction": 0.25})
    fresh.stage("catalog")
    summary = json.loads((fresh.tree / "data/catalog.json").read_text(encoding="utf-8"))
    assert summary["bad"] == 5
    assert {words.split(": ")[0] for words in summary["bad_images"]} == bad
    assert set(pq.read_table(fresh.tree / "data/excluded.parquet")["path"].to_pylist()) == bad

    said = fresh.stage("edges")
    assert "19 pairs, 0 bad images" in said
    ids = [
        name for path in sorted(fresh.tree.glob("data/pairs/*")) for name in pq.read_table(path)["image_id"].to_pylist()
    ]
    assert len(ids) == len(set(ids)) == 19
    assert {Path(name).name for name in ids} >= good


def test_dvc_follows_no_loop_and_names_a_link_that_leads_nowhere(fresh: Case) -> None:
    """DVC hashes the photos before the catalog sees them, and has a way of its own with links."""
    fresh.run("git", "init", "--quiet")
    (fresh.photos / "loop").symlink_to(".")
    fresh.run("dvc", "repro", "catalog")
    assert (fresh.tree / "data/catalog.parquet").exists()
    (fresh.photos / "gone.jpg").symlink_to("nowhere.jpg")
    said = fresh.run("dvc", "repro", "catalog", succeeds=False)
    assert "failed to reproduce 'catalog'" in said
    assert str(fresh.photos / "gone.jpg") in said
    assert "Traceback" not in said


def cut_in_half(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


def test_a_shard_cut_in_half_between_stages_is_named_and_repro_mends_it(case: Case) -> None:
    whole = digests(case.tree / "data/pairs"), digests(case.tree / "data/patches")
    pairs, patches = case.tree / "data/pairs/part-00001.parquet", case.tree / "data/patches/part-00002.parquet"
    cut_in_half(pairs)
    assert str(pairs) in refusal(case.stage("patches", succeeds=False))
    assert digests(case.tree / "data/patches") == whole[1]
    cut_in_half(patches)
    assert str(patches) in refusal(case.stage("train", succeeds=False))
    case.run("dvc", "repro", "patches")
    assert (digests(case.tree / "data/pairs"), digests(case.tree / "data/patches")) == whole


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Case, dict[str, str]]]:
    """A tree with pairs of 22 photos in 8 shards, the last a smaller one; and the bytes of patches cut in peace."""
    case = small_case(tmp_path_factory.mktemp("cutting"), photos=22, sketches=0)
    set_params(case.tree, {"edges.rows_per_shard": 3, "patches.draws": 40, "machine.workers": 2})
    for name in ("catalog", "edges", "patches"):
        case.stage(name)
    yield case, digests(case.tree / "data/patches")
    for process in processes_of(case.env):
        process.kill()


@pytest.fixture
def uncut(undisturbed: tuple[Case, dict[str, str]]) -> Case:
    """That tree without its patches."""
    case = undisturbed[0]
    shutil.rmtree(case.tree / "data/patches", ignore_errors=True)
    shutil.rmtree(case.tree / ".scratch", ignore_errors=True)
    return case


def finished_shards(case: Case) -> dict[str, int]:
    """Shards of patches that wait in the scratch folder with their stats, and when they were written."""
    return {
        path.stem: path.with_suffix(".parquet").stat().st_mtime_ns
        for path in case.tree.glob(".scratch/patches-*/part-*.json")
    }


def kept(case: Case) -> dict[str, int]:
    """Published shards of patches, and when they were written."""
    return {path.stem: path.stat().st_mtime_ns for path in (case.tree / "data/patches").iterdir()}


def test_a_killed_stage_takes_its_workers_along_and_a_rerun_ends_in_the_same_bytes(
    uncut: Case, undisturbed: tuple[Case, dict[str, str]]
) -> None:
    command = [sys.executable, str(uncut.tree / "stages/patches.py")]
    with subprocess.Popen(command, env=uncut.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        wait_until(lambda: len(finished_shards(uncut)) >= 2 or running.poll() is not None)
        running.send_signal(signal.SIGKILL)
    wait_until(lambda: processes_of(uncut.env) == [])
    before = finished_shards(uncut)
    assert 2 <= len(before) < len(undisturbed[1])
    assert not (uncut.tree / "data/patches").exists()
    # What a worker was writing when it died, in case that none was caught at it.
    (folder,) = uncut.tree.glob(".scratch/patches-*")
    unfinished = next(name for name in undisturbed[1] if Path(name).stem not in before)
    temporary(folder / unfinished).write_bytes(b"half")

    uncut.stage("patches")
    assert digests(uncut.tree / "data/patches") == undisturbed[1]
    assert before.items() <= kept(uncut).items()


def wait_until(done: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_full_disk_names_the_file_and_a_rerun_goes_on(uncut: Case, undisturbed: tuple[Case, dict[str, str]]) -> None:
    """A limit on the size of files stands for the full disk: the smallest shard fits, the others do not."""
    uncut.stage("patches")
    smallest = min((uncut.tree / "data/patches").iterdir(), key=lambda path: path.stat().st_size)
    limit = smallest.stat().st_size
    shutil.rmtree(uncut.tree / "data/patches")

    script = str(uncut.tree / "stages/patches.py")
    code = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
    code += f"import sys; sys.argv = [{script!r}]; sys.path[0] = {str(Path(script).parent)!r}; "
    command = [sys.executable, "-c", code + f"runpy.run_path({script!r}, run_name='__main__')"]
    status, said = run(command, uncut.tree.parent, env=uncut.env)
    assert status == 1
    assert "7 of 8 shards failed; finished ones are kept, run the stage again" in refusal(said)
    assert re.search(r"part-0000\d\.parquet: can't be written, the disk is full or a quota is reached", said)
    before = finished_shards(uncut)
    assert set(before) == {smallest.stem}
    assert not list(uncut.tree.rglob("*.tmp"))

    uncut.stage("patches")
    assert digests(uncut.tree / "data/patches") == undisturbed[1]
    assert before.items() <= kept(uncut).items()


@pytest.mark.parametrize(
    ("failure", "free"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1 << 40),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1 << 40),
        (RuntimeError("write_index: (No space left on device)"), 1 << 40),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"), 4096),
    ],
)
def test_whatever_library_meets_the_full_disk_the_file_is_named(
    failure: Exception, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(PipelineError, match=r"weights\.safetensors: can't be written, the disk is full"):
        _fail_while_writing(path, failure)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_other_failures_while_writing_stay_what_they_are(tmp_path: Path) -> None:
    for failure in (RuntimeError("a mistake in the program"), PermissionError(errno.EACCES, "Permission denied")):
        with pytest.raises(type(failure), match=str(failure.args[-1])):
            _fail_while_writing(tmp_path / "x", failure)
    assert list(tmp_path.iterdir()) == []


def _fail_while_writing(path: Path, failure: Exception) -> None:
    with replacing(path) as aside:
        aside.write_bytes(b"half")
        raise failure
