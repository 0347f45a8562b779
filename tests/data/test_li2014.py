from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from pipeline_lib.data.li2014 import entries, read_ratings
from pipeline_lib.errors import PipelineError

PHOTOS, SKETCHES = 5, 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for class_name in ("cow", "table"):
        for side in ("img", "cropped", "sketch"):
            folder = tmp_path / "li2014" / "images" / class_name / side
            folder.mkdir(parents=True)
            for number in range(SKETCHES if side == "sketch" else PHOTOS):
                Image.new("RGB", (8, 8)).save(folder / f"2008_{number:06d}.png")
    (tmp_path / "li2014" / "ratings").mkdir()
    return tmp_path


def save(root: Path, tables: dict[str, np.ndarray]) -> None:
    cells = np.empty((len(tables), 2), object)
    for row, (name, values) in enumerate(tables.items()):
        cells[row] = values, np.array([name])
    scipy.io.savemat(str(root / "li2014" / "ratings" / "Ratings.mat"), {"rating": cells})


def test_four_columns_of_a_sketch_are_summed_for_each_photo(root: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3, (PHOTOS, 4 * SKETCHES)).astype(np.uint8)
    save(root, {"cow": values, "table": values[::-1]})
    cow, table = read_ratings(root)
    assert cow.values.shape == (SKETCHES, PHOTOS)
    for sketch in range(SKETCHES):
        for photo in range(PHOTOS):
            assert cow.values[sketch, photo] == values[photo, 4 * sketch : 4 * sketch + 4].sum()
    assert np.array_equal(table.values, cow.values[:, ::-1])
    assert cow.photos[1] == "li2014/photo/cow/2008_000001"


def test_both_sides_name_the_photos_alike_and_read_other_files(root: Path) -> None:
    cropped, whole = (list(entries(root, side)) for side in ("cropped", "img"))
    assert [entry.image_id for entry in cropped] == [entry.image_id for entry in whole]
    assert {entry.role for entry in whole} == {"gallery", "query"}
    assert cropped[0].path != whole[0].path


def test_ratings_that_do_not_fit_the_images_are_refused(root: Path) -> None:
    save(root, {"cow": np.zeros((PHOTOS + 1, 4 * SKETCHES), np.uint8), "table": np.zeros((PHOTOS, 8), np.uint8)})
    with pytest.raises(PipelineError, match="rates cow"):
        read_ratings(root)


def test_a_missing_benchmark_or_file_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"Ratings\.mat"):
        read_ratings(root)
    with pytest.raises(PipelineError, match="images"):
        list(entries(tmp_path / "nowhere", "img"))
