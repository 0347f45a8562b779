from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.baselines.hog import export_hog, fine, hog_vector, hog_vectors, photo_lines
from pipeline_lib.data.source import Entry, Excluded
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.errors import PipelineError

SMALL = params.Baselines(image_size=64, hog_size=64, hog_cell=16, hog_blur=1.0)
SHAPES = {
    "triangle": [(64, 20), (110, 105), (18, 105)],
    "house": [(64, 15), (105, 55), (105, 110), (23, 110), (23, 55)],
    "bar": [(10, 55), (118, 55), (118, 73), (10, 73)],
    "post": [(55, 10), (73, 10), (73, 118), (55, 118)],
    "slope": [(15, 20), (40, 20), (115, 110), (90, 110)],
    "arrow": [(10, 50), (70, 50), (70, 25), (118, 64), (70, 103), (70, 78), (10, 78)],
}


def picture(name: str) -> NDArray[np.uint8]:
    image = np.full((128, 128, 3), 20, np.uint8)
    cv2.fillPoly(image, [np.array(SHAPES[name], np.int32)], (230, 180, 90))
    return image


def drawing(name: str, move: int = 0) -> NDArray[np.uint8]:
    image = np.full((128, 128, 3), 255, np.uint8)
    cv2.polylines(image, [np.array(SHAPES[name], np.int32) + move], isClosed=True, color=(0, 0, 0), thickness=4)
    return image


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_vectors_have_length_1_and_do_not_depend_on_polarity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = (rng.random((80, 100)) > 0.05).astype(np.uint8) * 255
    vector = hog_vector(lines, SMALL)
    assert vector.dtype == np.float32
    assert vector.shape == (3 * 3 * 36,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    # Not equal to the last bit: a gradient on the border of two orientations may fall to either side.
    assert vector @ hog_vector(255 - lines, SMALL) > 0.999


def test_contrast_does_not_matter() -> None:
    faint = (255 - (255 - drawing("house")[..., 0].astype(int)) // 3).astype(np.uint8)
    assert hog_vector(faint, SMALL) @ hog_vector(drawing("house")[..., 0], SMALL) > 0.999


def test_the_resolution_of_the_input_hardly_matters() -> None:
    large = cv2.resize(drawing("house"), (256, 256), interpolation=cv2.INTER_NEAREST)
    assert hog_vector(np.asarray(large, np.uint8), SMALL) @ hog_vector(drawing("house"), SMALL) > 0.99


def test_grey_and_colour_inputs_agree() -> None:
    assert np.array_equal(hog_vector(drawing("bar"), SMALL), hog_vector(drawing("bar")[..., 0], SMALL))


def test_directions_matter() -> None:
    assert hog_vector(drawing("bar"), SMALL) @ hog_vector(drawing("post"), SMALL) < 0.7


def test_an_image_without_lines_has_no_direction() -> None:
    vector = hog_vector(np.full((90, 70), 255, np.uint8), SMALL)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert len(np.unique(vector)) == 1


def test_moved_drawings_find_their_pictures(make_params: Callable[..., params.Params]) -> None:
    chosen = make_params()
    names = list(SHAPES)
    photos = hog_vectors([photo_lines(picture(name), fine(chosen)) for name in names], chosen.baselines)
    sketches = hog_vectors([drawing(name, move=4) for name in names], chosen.baselines)
    assert (sketches @ photos.T).argmax(axis=1).tolist() == list(range(len(names)))


def test_cells_that_do_not_fit_name_their_key() -> None:
    with pytest.raises(PipelineError, match=r"baselines\.hog_cell 40"):
        hog_vector(drawing("bar"), SMALL.model_copy(update={"hog_cell": 40}))


class Shapes:
    """A source that draws its images; `photo/blank` is a photo without any edge."""

    recognises = False
    trains_on_gallery = False

    def entries(self) -> Iterable[Entry]:
        return ()

    reserved = entries

    def excluded(self) -> Iterable[Excluded]:
        return ()

    def signature(self, path: str) -> str:
        return path

    content = signature

    def load(self, path: str, domain: str, image_id: str) -> NDArray[np.uint8]:  # noqa: ARG002
        if path == "blank":
            return np.zeros((128, 128, 3), np.uint8)
        return picture(path) if domain == "photo" else drawing(path, move=3)


def test_the_export_writes_four_tables_that_can_be_ranked(
    tmp_path: Path, pairs_folder: Path, make_params: Callable[..., params.Params]
) -> None:
    drawn_as_stored = {"edges.blur": 1.0, "edges.line_width": 1}
    chosen = make_params({"edges.short_side": 120, "patches.size": 40, "train.encoder": "vgg16", **drawn_as_stored})
    rows = [
        {"image_id": f"photo/{name}", "role": "gallery", "domain": "photo", "path": name, "class_name": "shape"}
        for name in (*SHAPES, "blank")
    ]
    rows += [
        {"image_id": f"sketch/{name}", "role": "query", "domain": "sketch", "path": name, "class_name": "shape"}
        for name in SHAPES
    ]
    rows += [
        {"image_id": f"image/{n:02d}", "role": "pretext", "domain": "photo", "path": "", "class_name": ""}
        for n in range(14)
    ]
    catalog = pd.DataFrame(rows)
    catalog["instance_id"] = catalog["image_id"].str.replace("sketch/", "photo/")
    out = tmp_path / "hog"
    assert export_hog(out, catalog, Shapes(), pairs_folder, chosen) > 0
    tables = {path.stem: EmbeddingTable.open(path) for path in out.glob("*.parquet")}
    assert set(tables) == {"photos", "sketches", "pretext_photos", "pretext_edges"}
    photos, sketches = tables["photos"].read(), tables["sketches"].read()
    nearest = tables["photos"].labels.image_ids[(sketches @ photos.T).argmax(axis=1)]
    assert nearest.tolist() == tables["sketches"].labels.instance_ids.tolist()
    # Stored edge maps and those drawn anew from the stored photos are nearly the same drawing.
    assert len(tables["pretext_photos"]) == len(tables["pretext_edges"]) == 14
    alike = (tables["pretext_photos"].read() * tables["pretext_edges"].read()).sum(axis=1)
    assert alike.min() > 0.8
