"""The retrieval study: rows are settings of the pipeline, and settings are chosen without the reporting half."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments import cell, judge
from experiments.grid import GRID, ROOT, changed, read_grid
from experiments.study import STUDY
from pipeline_lib.data.files import write_text
from pipeline_lib.params import parse
from pipeline_lib.retrieval.alignment import normalise
from pipeline_lib.retrieval.fitting import fit_pretext, fit_tables
from pipeline_lib.retrieval.vectors import EmbeddingTable, Labels
from tests.retrieval.support import write_embeddings

CLASSES = ("ant", "bear", "cat", "dog", "eel")


def test_every_row_has_a_hypothesis_and_changes_keys_of_the_params() -> None:
    study = read_grid(STUDY)
    for name in study.order:
        assert study.params_of(name).catalog.dataset == "voc_sketchy"
        assert study.rows[name].note, name


@pytest.mark.parametrize(("target", "row"), [("fast", "all-photos"), ("best", "best")])
def test_a_target_of_make_trains_and_embeds_as_its_row_does(target: str, row: str) -> None:
    command = ["make", "-n", target, "ROOT=/x"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    told = dict(re.findall(r"-S ((?:catalog\.dataset|patches|train|contrast|embed)[\w.]*)=(\S+)", shown))
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    made = parse(changed(values, {key: yaml.safe_load(value) for key, value in told.items()}, target), source=target)
    sections = {"patches", "train", "contrast", "embed"}
    ours, theirs = (params.model_dump(include=sections) for params in (made, read_grid(STUDY).params_of(row)))
    # Rows run on one thread, so that two of them share a machine.
    for params in (ours, theirs):
        del params["train"]["threads"], params["embed"]["threads"]
    assert told["catalog.dataset"] == "voc_sketchy"
    assert ours == theirs


def labels(prefix: str, per_class: int) -> Labels:
    names = [name for name in CLASSES for _ in range(per_class)]
    ids = [f"{prefix}{number}" for number in range(len(names))]
    return Labels.of(ids, names, ids)


def test_settings_are_chosen_on_the_classes_at_even_places_alone() -> None:
    photos, sketches = labels("p", 3), labels("s", 2)
    chosen = judge.parts(photos, sketches, final=False)
    assert list(chosen) == ["sketchy_even"]
    assert set(photos.class_names[chosen["sketchy_even"][0]]) == {"bear", "dog"}
    assert set(sketches.class_names[chosen["sketchy_even"][1]]) == {"bear", "dog"}


def test_final_rows_are_measured_on_the_rest_and_on_the_whole() -> None:
    photos, sketches = labels("p", 3), labels("s", 2)
    parts = judge.parts(photos, sketches, final=True)
    assert set(sketches.class_names[parts["sketchy_odd"][1]]) == {"ant", "cat", "eel"}
    even, odd, whole = (set(parts[name][0].tolist()) for name in ("sketchy_even", "sketchy_odd", "sketchy"))
    assert even | odd == whole == set(range(15))
    assert not even & odd


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """Photos and drawings of 5 classes that lie close together, and pretext pairs."""
    rng = np.random.default_rng(0)
    content = rng.standard_normal((20, 8))
    folder = tmp_path / "embeddings"
    names = [CLASSES[number // 4] for number in range(20)]
    ids = [f"p{number}" for number in range(20)]
    write_embeddings(folder / "photos.parquet", ids, content, classes=names)
    write_embeddings(
        folder / "sketches.parquet",
        [f"s{number}" for number in range(20)],
        content + 0.1 * rng.standard_normal((20, 8)) + 1,
        classes=names,
        instances=ids,
    )
    for side, shift in (("photos", 0), ("edges", 1)):
        pairs = rng.standard_normal((30, 8)) + shift
        write_embeddings(folder / f"pretext_{side}.parquet", [f"x{number}" for number in range(30)], pairs)
    fit_pretext(folder).save(folder / "alignment.safetensors")
    return tmp_path


def test_a_row_is_measured_under_every_alignment_on_the_gallery_of_its_part(embeddings: Path) -> None:
    rows = {(row["dataset"], row["alignment"]): row for row in judge.measure(embeddings, final=True)}
    assert {alignment for _, alignment in rows} == {
        "none",
        "pretext_mean",
        "pretext_whitened",
        "pretext_csls",
        "transductive_mean",
    }
    assert [rows["sketchy_even", "none"][name] for name in ("gallery", "queries")] == [8, 8]
    assert rows["sketchy", "pretext_mean"]["instance_hit_at_1"] > 0.7
    assert all(row["transductive"] == (kind == "transductive_mean") for (_, kind), row in rows.items())


def test_photos_are_precise_where_their_classes_lie_apart(embeddings: Path) -> None:
    folder = embeddings / "embeddings"
    photos = EmbeddingTable.open(folder / "photos.parquet")
    chance = judge.photo_precision(normalise(photos.read()), photos.labels)
    apart = (np.repeat(np.eye(5, 8), 4, axis=0) * 20 + photos.read()).astype(np.float32)
    found = judge.photo_precision(normalise(apart), photos.labels)
    assert chance < 0.5
    assert found == pytest.approx(3 / 5)  # of five neighbours only the other three of a class of four can be right


def test_a_transductive_mean_sees_its_own_part_alone(embeddings: Path) -> None:
    photos, sketches = (EmbeddingTable.open(embeddings / "embeddings" / f"{n}.parquet") for n in ("photos", "sketches"))
    whole = fit_tables(photos, sketches)
    before = judge.measure(embeddings, final=False)
    # What lies outside the part is moved far away: the part's figures stay as they are.
    even = np.isin(photos.labels.class_names, ("bear", "dog"))
    moved = np.where(even[:, None], photos.read(), 50 + photos.read())
    ids, names = photos.labels.image_ids.tolist(), photos.labels.class_names.tolist()
    write_embeddings(embeddings / "embeddings" / "photos.parquet", ids, moved, classes=names)
    assert judge.measure(embeddings, final=False) == before
    assert not np.allclose(fit_tables(EmbeddingTable.open(photos.path), sketches).photo_mean, whole.photo_mean)


def test_rows_side_by_side_make_the_images_they_share_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = threading.Lock()
    made: list[str] = []

    def slow(name: str, _params: object, data: Path) -> None:
        assert busy.acquire(blocking=False), f"two stages at once: {name} of {data}"
        time.sleep(0.01)
        made.append(f"{data.name}/{name}")
        busy.release()
        write_text(tmp_path / data / f".{name}.done", "")

    monkeypatch.setattr(cell, "ROOT", tmp_path)
    monkeypatch.setattr(cell, "stage", slow)
    grid = read_grid(GRID)
    rows = ("cross-conv5-bn-s0", "gap-0", "cross-none-bn-s0")
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(cell.prepare, [grid.params_of(name) for name in rows]))
    assert folders[0] == folders[2] != folders[1]
    assert len(made) == len(set(made)) == 6
