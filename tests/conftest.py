from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray

from pipeline_lib import params

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "stages"))


@pytest.fixture(scope="session")
def defaults() -> dict[str, Any]:
    """The default params as a plain mapping."""
    loaded = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def make_params(defaults: dict[str, Any]) -> Callable[..., params.Params]:
    """Default params, fc6 alone, with some leaf keys changed, given as `{"train.epochs": 2}`."""

    def make(changes: dict[str, Any] | None = None) -> params.Params:
        values: dict[str, Any] = yaml.safe_load(yaml.safe_dump(defaults))
        values["embed"]["layers"] = "fc6"  # short vectors; tests of maps ask for them
        for key, value in (changes or {}).items():
            *sections, leaf = key.split(".")
            place = values
            for section in sections:
                place = place[section]
            assert leaf in place, key
            place[leaf] = value
        return params.parse(values)

    return make


def scene(seed: int, size: tuple[int, int] = (180, 220)) -> NDArray[np.uint8]:
    """A photo-like picture: boxes on a background whose colours tell left from right and top from bottom."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = np.empty((height, width, 3), np.float64)
    image[..., 0] = np.linspace(0, 255, width)[None, :]
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    image[..., 2] = rng.uniform(0, 255)
    for _ in range(6):
        x, y = rng.integers(0, width - 20), rng.integers(0, height - 20)
        w, h = rng.integers(8, 40, size=2)
        image[y : y + h, x : x + w] = rng.uniform(0, 255, 3)
    return image.astype(np.uint8)


@pytest.fixture
def pairs_folder(tmp_path: Path, make_params: Callable[..., params.Params]) -> Path:
    """Two shards of pairs with 14 images in all, of 180 x 220 px."""
    from pipeline_lib.data.images import encode_jpeg, encode_png
    from pipeline_lib.data.schemas import PAIRS, write_rows
    from pipeline_lib.pretext.edges import edge_map

    settings = make_params({"edges.blur": 1.0, "edges.line_width": 1}).edges
    folder = tmp_path / "pairs"
    rows = []
    for number in range(14):
        image = scene(number)
        rows.append(
            {
                "image_id": f"image/{number:02d}",
                "photo": encode_jpeg(image, 95),
                "edges": encode_png(edge_map(image, settings)),
            }
        )
    write_rows(folder / "part-00000.parquet", rows[:9], PAIRS)
    write_rows(folder / "part-00001.parquet", rows[9:], PAIRS)
    return folder


@pytest.fixture
def tiny_patches(make_params: Callable[..., params.Params]) -> params.Patches:
    """A layout that fits the images of `pairs_folder`."""
    settings = {"edges.short_side": 180, "patches.size": 64, "patches.draws": 3, "patches.gap": 6}
    return make_params(settings).patches


@pytest.fixture
def patches_folder(pairs_folder: Path, tiny_patches: params.Patches, tmp_path: Path) -> Path:
    """Patch shards of `pairs_folder`."""
    from pipeline_lib.pretext.patches import make_patches

    make_patches(pairs_folder, tiny_patches, tmp_path / "patches", tmp_path / "scratch", 1)
    return tmp_path / "patches"


def catalog_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A catalog with the columns that matter filled in and the rest left at defaults."""
    base = {
        "dataset": "test",
        "role": "pretext",
        "domain": "photo",
        "class_name": "",
        "instance_id": "",
        "split": "train",
        "width": 220,
        "height": 180,
        "fingerprint": "0" * 16,
        "group_id": "",
        "content": "",
    }
    return pd.DataFrame([{**base, **row} for row in rows])
