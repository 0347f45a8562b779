from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline_lib import params
from pipeline_lib.baselines.hog import SYSTEMS, cut_to_ink
from pipeline_lib.baselines.system import Domain, Image, Vectors
from tests.baselines.test_hog import SHAPES, drawing, picture

_, ROW = SYSTEMS


@pytest.fixture
def embed(tmp_path: Path, make_params: Callable[..., params.Params]) -> Callable[..., Vectors]:
    embedder = ROW.embedder(tmp_path, make_params())

    def vectors(domain: Domain, *pixels: np.ndarray) -> Vectors:
        return embedder([Image("", "", "", np.asarray(each, np.uint8)) for each in pixels], domain)

    return vectors


def on_paper(lines: np.ndarray, left: int, top: int) -> np.ndarray:
    """The drawing on a larger sheet."""
    sheet = np.full((400, 500, 3), 255, np.uint8)
    sheet[top : top + lines.shape[0], left : left + lines.shape[1]] = lines
    return sheet


def test_ink_is_cut_out_to_the_pixel() -> None:
    sheet = np.full((50, 60, 3), 255, np.uint8)
    sheet[10:21, 30:36] = 0
    sheet[15, 40] = 150
    assert cut_to_ink(sheet).shape == (11, 11)
    assert cut_to_ink(sheet).min() == 0
    assert cut_to_ink(sheet[..., 0]).shape == (11, 11)


def test_an_empty_sheet_stays_whole_and_has_a_vector(embed: Callable[..., Vectors]) -> None:
    sheet = np.full((50, 60, 3), 255, np.uint8)
    assert cut_to_ink(sheet).shape == (50, 60)
    assert np.linalg.norm(embed("sketch", sheet)[0]) == pytest.approx(1, abs=1e-5)


def test_where_on_the_sheet_a_sketch_stands_does_not_matter(embed: Callable[..., Vectors]) -> None:
    here, there = embed("sketch", on_paper(drawing("house"), 5, 9), on_paper(drawing("house"), 300, 200))
    assert np.array_equal(here, there)
    assert here.shape == (7 * 7 * 36,)


def test_sketches_on_large_sheets_find_photos_that_are_cut_to_the_object(embed: Callable[..., Vectors]) -> None:
    names = [name for name in SHAPES if name not in ("bar", "post")]  # stretched to a square, these two are one
    photos = []
    for name in names:
        x, y, width, height = cv2.boundingRect(np.array(SHAPES[name], np.int32))
        photos.append(picture(name)[max(y - 4, 0) : y + height + 4, max(x - 4, 0) : x + width + 4])
    found = embed("sketch", *(on_paper(drawing(name), 60, 80) for name in names)) @ embed("photo", *photos).T
    assert found.argmax(axis=1).tolist() == list(range(len(names)))
