"""Several networks together: their similarities add up, and only those of the same images."""

from pathlib import Path

import numpy as np
import pytest

from experiments.together import measure
from pipeline_lib.embedding.alignment import fit_pretext
from pipeline_lib.errors import PipelineError
from tests.support import write_embeddings

CLASSES = [name for name in ("ant", "bear", "cat", "dog") for _ in range(5)]
IDS = [f"p{number:02d}" for number in range(20)]


def network(folder: Path, content: np.ndarray, seed: int, noise: float, ids: list[str] = IDS) -> None:
    rng = np.random.default_rng(seed)
    drawn = content + noise * rng.standard_normal(content.shape)
    write_embeddings(folder / "photos.parquet", ids, content, classes=CLASSES)
    write_embeddings(folder / "sketches.parquet", [f"s{name}" for name in ids], drawn, classes=CLASSES, instances=ids)
    for side in ("photos", "edges"):
        pairs = rng.standard_normal((40, content.shape[1]))
        write_embeddings(folder / f"pretext_{side}.parquet", [f"x{number}" for number in range(40)], pairs)
    fit_pretext(folder).save(folder / "alignment.safetensors")


def test_two_networks_whose_errors_differ_find_more_than_either(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        content = np.random.default_rng(10 + seed).standard_normal((20, 12))
        network(tmp_path / name / "embeddings", content, seed, noise=2.5)
    found = list(measure(["one", "two", "one+two"], tmp_path))
    hits = {row["names"]: row["instance_hit_at_1"] for row in found if row["dataset"] == "sketchy"}
    assert hits["one+two"] > max(hits["one"], hits["two"])
    dims = {row["names"]: row["dim"] for row in found}
    assert dims == {"one": 12, "two": 12, "one+two": 24}


def test_a_network_alone_counted_twice_ranks_as_once(tmp_path: Path) -> None:
    content = np.random.default_rng(0).standard_normal((20, 8))
    network(tmp_path / "one" / "embeddings", content, 0, noise=1.0)
    once, twice = (
        {key: value for key, value in row.items() if key not in ("names", "dim")}
        for row in measure(["one", "one+one"], tmp_path)
        if row["dataset"] == "sketchy" and row["alignment"] == "pretext_whitened"
    )
    assert once == twice


def test_a_run_that_is_not_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"there is no finished run; make it first, with make run RECIPE=one"):
        list(measure(["one"], tmp_path))


def test_networks_of_other_images_are_refused(tmp_path: Path) -> None:
    content = np.random.default_rng(0).standard_normal((20, 8))
    network(tmp_path / "one" / "embeddings", content, 0, noise=1.0)
    network(tmp_path / "two" / "embeddings", content, 0, noise=1.0, ids=[f"q{name}" for name in IDS])
    with pytest.raises(PipelineError, match=r"holds other images than one's; make two again"):
        list(measure(["one+two"], tmp_path))
