"""What users do wrong and what breaks on its own: a sentence that names file or key, and a rerun that goes on."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_lib.data import files
from pipeline_lib.data.files import replacing
from pipeline_lib.errors import PipelineError
from tests.conftest import scene
from tests.pipeline.support import Case, processes_of, set_params, small_case


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


def test_a_params_file_that_is_no_yaml_is_named(fresh: Case) -> None:
    (fresh.tree / "params.yaml").write_text("patches: [1, 2\n", encoding="utf-8")
    assert str(fresh.tree / "params.yaml") in refusal(fresh.stage("patches", succeeds=False))


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
    summary = json.loads((fresh.tree / "metrics/catalog.json").read_text(encoding="utf-8"))
    assert summary["bad"] == 5
    assert {words.split(": ")[0] for words in summary["bad_images"]} == bad
    assert set(pq.read_table(fresh.tree / "data/excluded.parquet")["path"].to_pylist()) == bad

    said = fresh.stage("edges")
    assert "19 pairs, 0 bad images" in said
    ids = [name for path in sorted(fresh.tree.glob("data/pairs/*")) for name in pq.read_table(path)["image_id"].to_pylist()]
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


class TestAPairsFolder:
    """Patches are cut anew in a tree that has pairs."""

    @pytest.fixture(scope="class")
    def ready(self, tmp_path_factory: pytest.TempPathFactory) -> Case:
        """Pairs of 24 photos in 12 shards; many draws, so that cutting takes a while."""
        case = small_case(tmp_path_factory.mktemp("kill"), photos=24, sketches=0)
        set_params(case.tree, {"edges.rows_per_shard": 2, "patches.draws": 60, "patches.workers": 2})
        case.stage("catalog")
        case.stage("edges")
        return case

    @pytest.fixture
    def expected(self, ready: Case) -> dict[str, str]:
        """Bytes of the patches of a run that nothing disturbs; all that it made is removed."""
        ready.stage("patches")
        made = digests(ready.tree / "data/patches")
        shutil.rmtree(ready.tree / "data/patches")
        shutil.rmtree(ready.tree / ".scratch")
        return made
