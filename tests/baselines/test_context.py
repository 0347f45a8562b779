"""Rows of our own networks: the run that learned context alone, and beside it one of the default's method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.baselines.context import SYSTEMS
from pipeline_lib.baselines.run import run_system
from pipeline_lib.baselines.system import Benchmark, Image, Part, Run, Training
from pipeline_lib.data.files import read_json, write_json
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from tests.search.support import embed, make_run, save_model, stored_vectors, with_params

ROWS = {system.name: system for system in SYSTEMS}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Own photos and sketches of some, with two finished runs on them: other weights, other sizes."""
    top = tmp_path_factory.mktemp("runs")
    run, other = make_run(top / "source"), make_run(top / "joint")
    other = with_params(other, embed__image_size=run.params.embed.largest + 32)
    save_model(other, seed=1)
    embed(other)
    for made in (run, other):
        write_json(made.data / "embeddings" / "system.json", {"seconds": 1.0})
    catalog = read_catalog(run.data / "catalog.parquet")
    gallery, queries = (
        catalog[catalog["role"] == role].sort_values("image_id").reset_index(drop=True) for role in ("gallery", "query")
    )
    source = open_source(run.params.catalog, run.root)
    joint = Run(other.params, other.data, other.root)
    training = Training(
        "own", run.params, source, catalog, run.data / "pairs", run.data / "model", catalog[:0], catalog[:0], joint
    )
    whole = Part("own", frozenset(gallery["image_id"]), frozenset(queries["image_id"]), unseen=True)
    return Benchmark("own", training, source, gallery, queries, (whole,))


def without_joint(benchmark: Benchmark) -> Benchmark:
    return replace(benchmark, training=replace(benchmark.training, joint=None))


@pytest.mark.parametrize(("name", "of_joint"), [("context_fc6", False), ("joint_fc6", True)])
def test_each_row_embeds_with_the_network_and_size_of_its_own_run(
    benchmark: Benchmark, name: str, of_joint: bool, tmp_path: Path
) -> None:
    training = benchmark.training
    assert training.joint is not None
    ROWS[name].fit(training, tmp_path)
    # The harness always hands over the params of the first run.
    function = ROWS[name].embedder(tmp_path, training.settings)
    images = [
        Image(image_id, "", "", training.source.load(path, "photo", image_id))
        for image_id, path in zip(benchmark.gallery["image_id"], benchmark.gallery["path"], strict=True)
    ]
    homes = [training.joint.data, training.model.parent]
    expected, others = (
        stored_vectors(data / "embeddings" / "photos.parquet") for data in (homes if of_joint else homes[::-1])
    )
    found = function(images, "photo")
    for image, vector in zip(images, found, strict=True):
        assert np.allclose(vector, expected[image.image_id], atol=1e-3 * np.abs(vector).max())
    assert not np.allclose(found[0], others[images[0].image_id], atol=1e-2 * np.abs(found[0]).max())


def test_without_a_run_of_the_default_its_row_says_so_and_the_others_stay(benchmark: Benchmark, tmp_path: Path) -> None:
    bare = without_joint(benchmark)
    assert "no run of the default" in ROWS["joint_fc6"].inapplicable(bare)
    assert ROWS["context_fc6"].inapplicable(bare) == ""
    skipped = run_system(ROWS["joint_fc6"], bare, tmp_path)
    assert "no run of the default" in read_json(skipped / "skipped.json")["reason"]


def test_a_run_on_other_images_gives_no_row(benchmark: Benchmark) -> None:
    fewer = replace(benchmark, gallery=benchmark.gallery[1:].reset_index(drop=True))
    assert "embedded other photos" in ROWS["joint_fc6"].inapplicable(fewer)
    assert ROWS["joint_fc6"].inapplicable(benchmark) == ""


def test_a_new_run_of_the_default_voids_its_row_alone(benchmark: Benchmark, tmp_path: Path) -> None:
    joint = benchmark.training.joint
    assert joint is not None
    wider = joint.settings.model_copy(update={"embed": joint.settings.embed.model_copy(update={"image_size": 160})})
    changed = replace(benchmark, training=replace(benchmark.training, joint=replace(joint, settings=wider)))

    def key(name: str, given: Benchmark) -> str:
        return str(read_json(run_system(ROWS[name], given, tmp_path) / "system.json")["key"])

    assert key("context_fc6", benchmark) == key("context_fc6", changed)
    assert key("joint_fc6", benchmark) != key("joint_fc6", changed)
