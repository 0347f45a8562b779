from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.baselines.alexnet import SYSTEMS as ALEXNET_ROWS
from pipeline_lib.baselines.hog import SYSTEMS as HOG_ROWS
from pipeline_lib.baselines.siamese import SYSTEMS as NETWORKS
from pipeline_lib.baselines.siamese import PairNetwork
from pipeline_lib.baselines.subspace import choose
from pipeline_lib.baselines.subspace.choose import METHODS
from pipeline_lib.baselines.subspaces import SYSTEMS as SUBSPACES
from pipeline_lib.baselines.subspaces import Subspace
from pipeline_lib.baselines.supervised.recipe import Recipe
from pipeline_lib.baselines.system import Benchmark, Image, Training
from pipeline_lib.embedding.alignment import FILE_NAME
from pipeline_lib.files import read_json, write_text
from pipeline_lib.pretext.edges import edge_map
from pipeline_lib.run import Run
from tests.baselines.supervised.support import RECIPE
from tests.conftest import catalog_frame, scene


@dataclass(frozen=True)
class Scenes:
    """A source whose photos are scenes, and whose sketches are their edges. The path is the photo's number."""

    edges: params.Edges

    def load(self, path: str, domain: str, image_id: str) -> NDArray[np.uint8]:  # noqa: ARG002  as sources have it
        number, _, copy = path.partition("-")
        image = scene(int(number))
        if domain == "photo":
            return image
        lines = edge_map(np.roll(image, int(copy), axis=1), self.edges)
        return np.repeat(lines[..., None], 3, axis=2)


def rows(numbers: range, domain: str) -> pd.DataFrame:
    copies = ("",) if domain == "photo" else ("-0", "-3")
    return catalog_frame(
        [
            {
                "image_id": f"{domain}/{number}{copy}",
                "role": "gallery" if domain == "photo" else "query",
                "domain": domain,
                "path": f"{number}{copy}",
                "class_name": f"class{number % 4}",
                "instance_id": f"photo/{number}",
                "content": f"{number}{copy}",
            }
            for number in numbers
            for copy in copies
        ]
    )


@pytest.fixture
def training(make_params: Callable[..., params.Params], pairs_folder: Path) -> Training:
    settings = make_params(
        {
            "edges.blur": 1.0,
            "edges.line_width": 1,
            "baselines.hog_size": 64,
            "train.fc6": 32,
            "train.threads": 1,
            "embed.threads": 1,
        }
    )
    source = Scenes(settings.edges)
    run = Run(pairs_folder.parent, settings)
    # HOG brings the alignment of its own row along; a subspace makes no use of it.
    write_text(run.folder / "baselines" / "hog" / FILE_NAME, "")
    pretext = catalog_frame([{"image_id": f"image/{number:02d}"} for number in range(14)])
    return Training(
        "scenes",
        run,
        source,  # type: ignore[arg-type]  # it has what is asked of it
        pretext,
        rows(range(100, 132), "photo"),
        rows(range(100, 132), "sketch"),
    )


def images(training: Training, domain: str, numbers: range) -> list[Image]:
    found = rows(numbers, domain)
    columns = (found[name].tolist() for name in ("image_id", "class_name", "instance_id", "path"))
    return [
        Image(image_id, class_name, instance_id, training.source.load(path, domain, image_id))
        for image_id, class_name, instance_id, path in zip(*columns, strict=True)
    ]


@pytest.mark.parametrize("method", ["pls", "gmlda", "lcfs"])
def test_a_subspace_of_hog_is_learned_written_and_applied(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(choose, "DIMENSIONS", (10,))
    monkeypatch.setattr(choose, "SIZES", (2, 4))
    system = Subspace(
        f"{method}_hog", METHODS[method].supervision, paired=True, forms=("none",), base=HOG_ROWS[0], method=method
    )
    system.fit(training, tmp_path)
    record = read_json(tmp_path / "chosen.json")
    assert (record["photos"], record["sketches"]) == (32, 64)
    embed = system.embedder(tmp_path, training.run.params)
    few = images(training, "photo", range(3))
    plain = system.base.embedder(tmp_path / "base", training.run.params)(few, "photo")
    assert np.array_equal(system.projector(tmp_path)(plain, "photo"), embed(few, "photo"))
    photos = embed(images(training, "photo", range(100, 132)), "photo")
    sketches = embed(images(training, "sketch", range(100, 132))[::2], "sketch")
    assert photos.dtype == np.float32
    # On what it was trained on, photos are found far more often than by chance (5 of 32).
    units = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (photos, sketches)]
    scores = units[1] @ units[0].T
    assert float(((scores > np.diag(scores)[:, None]).sum(axis=1) < 5).mean()) > 0.4


def test_methods_of_one_file_share_the_vectors_that_they_learn_from(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    real = Scenes.load

    def load(self: Scenes, path: str, domain: str, image_id: str) -> NDArray[np.uint8]:
        loads.append(path)
        return real(self, path, domain, image_id)

    monkeypatch.setattr(Scenes, "load", load)
    for name in ("pls", "blm"):
        system = Subspace(name, "pairs", paired=True, forms=("none",), base=HOG_ROWS[0], method=name)
        (tmp_path / name).mkdir()
        system.fit(training, tmp_path / name)
    assert len(loads) <= 96


def test_a_network_is_trained_written_and_applied_and_leaves_no_cache(training: Training, tmp_path: Path) -> None:
    system = PairNetwork("tiny", "pairs", paired=True, forms=("none",), processes=1, recipe=RECIPE)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        system.fit(training, tmp_path / name)
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["network.safetensors", "training.json"]
    record = read_json(tmp_path / "first" / "training.json")
    assert record["recipe"]["loss"] == "triplet"
    assert record["classes"] == ["class0", "class1", "class2", "class3"]
    assert len(record["history"]) == RECIPE.epochs
    photos = images(training, "photo", range(5))
    first, second = (
        system.embedder(tmp_path / name, training.run.params)(photos, "photo") for name in ("first", "second")
    )
    assert first.shape == (5, RECIPE.embedding)
    assert np.array_equal(first, second)


def test_without_a_training_part_there_is_no_row(training: Training) -> None:
    nothing = training.photos.iloc[:0]
    empty = replace(training, photos=nothing, sketches=nothing)
    benchmark = Benchmark("e", empty, training.source, nothing, nothing, ())
    for system in (*NETWORKS, *SUBSPACES):
        assert "no training part" in system.inapplicable(benchmark)


def test_a_pipeline_that_started_from_nothing_lends_no_start(
    training: Training, make_params: Callable[..., params.Params]
) -> None:
    settings = make_params({"train.pretrained": "none", "train.frozen": "none"})
    other = replace(training, run=replace(training.run, params=settings))
    benchmark = Benchmark("n", other, training.source, training.photos, training.sketches, ())
    reasons = {system.name: system.inapplicable(benchmark) for system in NETWORKS}
    assert "no AlexNet with pretrained" in reasons["triplet_alexnet"]
    assert reasons["triplet_resnet18_scratch"] == ""


def test_rows_say_what_they_learned_from() -> None:
    assert {system.supervision for system in NETWORKS} == {"pairs"}
    said = {system.name: system.supervision for system in SUBSPACES}
    assert said["cca_hog"] == said["pls_hog"] == said["blm_hog"] == "pairs"
    assert said["gmlda_hog"] == said["gmmfa_hog"] == said["lcfs_hog"] == said["jfssl_hog"] == "classes"
    assert all(system.paired for system in (*NETWORKS, *SUBSPACES))


def test_subspaces_project_the_vectors_of_rows_that_run_anyway() -> None:
    # Unequal systems of one name would take turns in making each other's results void.
    assert {system.stored for system in SUBSPACES} == {HOG_ROWS[0], ALEXNET_ROWS[0]}


def test_a_recipe_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="margn"):
        Recipe.model_validate({"loss": "triplet", "start": "none", "margn": 0.3})
