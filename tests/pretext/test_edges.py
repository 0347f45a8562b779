from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline_lib import params
from pipeline_lib.data.images import decode_encoded
from pipeline_lib.errors import PipelineError
from pipeline_lib.pretext.edges import edge_map, make_pairs
from pipeline_lib.pretext.patches import make_patches
from tests.conftest import catalog_frame, scene

SKETCHES = Path(__file__).resolve().parents[3] / "shared/data/sketchy/256x256/sketch/tx_000000000000"


def test_edge_map_equals_opencv_canny_with_the_l2_gradient(make_params: Callable[..., params.Params]) -> None:
    settings = make_params({"edges.blur": 0.0, "edges.line_width": 1}).edges
    image = scene(0)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    expected = 255 - cv2.Canny(grey, settings.low, settings.high, L2gradient=True)
    np.testing.assert_array_equal(edge_map(image, settings), expected)


def test_edges_of_a_square_are_dark_lines_on_white_where_the_square_ends(
    make_params: Callable[..., params.Params],
) -> None:
    image = np.full((80, 80, 3), 255, np.uint8)
    image[20:60, 20:60] = 0
    lines = edge_map(image, make_params({"edges.blur": 0.0, "edges.line_width": 1}).edges)
    assert set(np.unique(lines)) == {0, 255}
    ys, xs = np.nonzero(lines == 0)
    distance = np.minimum.reduce([abs(ys - 19.5), abs(ys - 59.5), abs(xs - 19.5), abs(xs - 59.5)])
    assert len(ys) > 100
    assert distance.max() <= 1.5
    assert (lines == 255).mean() > 0.9


def test_polarity_and_line_width_do_what_they_say(make_params: Callable[..., params.Params]) -> None:
    image = scene(1)
    thin = edge_map(image, make_params({"edges.line_width": 1}).edges)
    inverted = edge_map(image, make_params({"edges.line_width": 1, "edges.polarity": "white_on_dark"}).edges)
    thick = edge_map(image, make_params({"edges.line_width": 3}).edges)
    np.testing.assert_array_equal(inverted, 255 - thin)
    assert ((thick == 0) | (thin == 255)).all()
    assert (thick == 0).sum() > 1.5 * (thin == 0).sum()


@pytest.mark.skipif(not SKETCHES.exists(), reason="needs the Sketchy part in ../shared/data")
def test_edge_maps_are_about_as_bright_as_sketches(make_params: Callable[..., params.Params]) -> None:
    photos = SKETCHES.parents[1] / "photo" / SKETCHES.name
    settings = make_params().edges

    def mean(paths: list[Path], *, draw: bool) -> float:
        values = []
        for path in paths:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            assert image is not None
            values.append(edge_map(image.astype(np.uint8), settings).mean() if draw else image.mean())
        return float(np.mean(values))

    sketches = mean(sorted(SKETCHES.glob("*/*.png"))[::125], draw=False)
    edges = mean(sorted(photos.glob("*/*.jpg"))[::125], draw=True)
    # Both are paper with little ink: within a seventh of the scale of one another, and far from the inverse.
    assert sketches > 220
    assert abs(sketches - edges) < 36


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "own photos"
    folder.mkdir()
    for number in range(6):
        assert cv2.imwrite(str(folder / f"{number}.png"), scene(number))
    return folder


def _settings(make_params: Callable[..., params.Params], folder: Path, **changes: object) -> params.Params:
    return make_params(
        {
            "catalog.dataset": "folder",
            "catalog.root": str(folder),
            "edges.short_side": 198,
            "machine.workers": 1,
            "patches.size": 40,
            "train.encoder": "vgg16",  # which takes patches of this size
            "edges.rows_per_shard": 4,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )


def _catalog(count: int = 6) -> object:
    return catalog_frame(
        [{"image_id": f"p{number}", "path": f"{number}.png", "content": str(number)} for number in range(count)]
    )


def test_pairs_are_aligned_scaled_and_complete(
    make_params: Callable[..., params.Params], photo_folder: Path, tmp_path: Path
) -> None:
    settings = _settings(make_params, photo_folder)
    stats = make_pairs(_catalog(), settings, tmp_path, tmp_path / "pairs", tmp_path / "scratch")  # type: ignore[arg-type]
    assert stats["rows"] == 6
    names = []
    for path in sorted((tmp_path / "pairs").iterdir()):
        for row in pq.read_table(path).to_pylist():
            names.append(row["image_id"])
            photo, lines = decode_encoded(row["photo"]), decode_encoded(row["edges"], grey=True)
            assert photo.shape[:2] == lines.shape == (198, 242)
    assert names == [f"p{number}" for number in range(6)]


def test_finished_shards_survive_a_failure_and_are_not_made_again(
    make_params: Callable[..., params.Params], photo_folder: Path, tmp_path: Path
) -> None:
    settings = _settings(make_params, photo_folder, edges__max_bad_fraction=0.0)
    (photo_folder / "5.png").rename(photo_folder / "gone")
    with pytest.raises(PipelineError, match=r"5\.png"):
        make_pairs(_catalog(), settings, tmp_path, tmp_path / "pairs", tmp_path / "scratch")  # type: ignore[arg-type]
    assert not (tmp_path / "pairs").exists()
    (shard,) = tmp_path.glob("scratch/*/part-00000.parquet")
    before = shard.stat().st_mtime_ns, shard.stat().st_ino
    relaxed = _settings(make_params, photo_folder, edges__max_bad_fraction=0.5)
    stats = make_pairs(_catalog(), relaxed, tmp_path, tmp_path / "pairs", tmp_path / "scratch")  # type: ignore[arg-type]
    after = (tmp_path / "pairs/part-00000.parquet").stat()
    assert (after.st_mtime_ns, after.st_ino) == before
    assert stats["rows"] == 5
    assert stats["bad"][0].startswith("5.png")


def test_an_image_that_is_back_is_drawn_by_the_next_run(
    make_params: Callable[..., params.Params], photo_folder: Path, tmp_path: Path
) -> None:
    settings = _settings(make_params, photo_folder, edges__max_bad_fraction=0.0)
    (photo_folder / "5.png").rename(photo_folder / "gone")
    with pytest.raises(PipelineError, match=r"1 of 6 images can't be used.*\n.*5\.png"):
        make_pairs(_catalog(), settings, tmp_path, tmp_path / "pairs", tmp_path / "scratch")  # type: ignore[arg-type]
    (photo_folder / "gone").rename(photo_folder / "5.png")
    stats = make_pairs(_catalog(), settings, tmp_path, tmp_path / "pairs", tmp_path / "scratch")  # type: ignore[arg-type]
    assert (stats["rows"], stats["bad"]) == (6, [])
    make_pairs(_catalog(), settings, tmp_path, tmp_path / "afresh", tmp_path / "other scratch")  # type: ignore[arg-type]
    for path in (tmp_path / "afresh").iterdir():
        assert path.read_bytes() == (tmp_path / "pairs" / path.name).read_bytes()


@pytest.mark.parametrize(("height", "width"), [(2, 600), (10, 2000), (2000, 10), (1, 50_000), (198, 9900)])
def test_a_strip_too_long_for_its_width_is_left_out_and_named(
    make_params: Callable[..., params.Params], photo_folder: Path, tmp_path: Path, height: int, width: int
) -> None:
    settings = _settings(make_params, photo_folder, edges__max_bad_fraction=0.5, edges__short_side=700)
    assert cv2.imwrite(str(photo_folder / "3.png"), np.zeros((height, width, 3), np.uint8))
    stats = make_pairs(_catalog(), settings, tmp_path, tmp_path / "pairs", tmp_path / "scratch")  # type: ignore[arg-type]
    (bad,) = stats["bad"]
    assert bad.startswith(f"3.png: {width} x {height} px")
    assert bad.endswith("too long and narrow for edges.short_side" if height == 198 else "as long as the other")
    assert (
        make_patches(tmp_path / "pairs", settings.patches, tmp_path / "patches", tmp_path / "scratch", 1)["images"] == 5
    )


def test_the_longest_image_that_is_taken_can_be_cut_into_patches(
    make_params: Callable[..., params.Params], photo_folder: Path, tmp_path: Path
) -> None:
    """Its boxes reach to the last number of 16 bits."""
    settings = _settings(make_params, photo_folder, patches__jitter=True, edges__short_side=656)
    strip = np.tile(scene(0, (656, 331)), (1, 99, 1))[:, :32767]
    assert cv2.imwrite(str(photo_folder / "3.png"), strip)
    stats = make_pairs(_catalog(), settings, tmp_path, tmp_path / "pairs", tmp_path / "scratch")  # type: ignore[arg-type]
    assert stats["bad"] == []
    make_patches(tmp_path / "pairs", settings.patches, tmp_path / "patches", tmp_path / "scratch", 1)
    boxes = [
        row["boxes"]
        for path in (tmp_path / "patches").iterdir()
        for row in pq.read_table(path).to_pylist()
        if row["image_id"] == "p3"
    ]
    assert 16384 < np.max(boxes) <= 32767
    assert np.min(boxes) >= 0


def test_pairs_that_cannot_be_published_are_not_drawn_again(
    make_params: Callable[..., params.Params], photo_folder: Path, tmp_path: Path
) -> None:
    settings, place = _settings(make_params, photo_folder), tmp_path / "data"
    place.touch()  # a file where the folder should be
    with pytest.raises(PipelineError, match=r"data/pairs: .* can't be moved there"):
        make_pairs(_catalog(), settings, tmp_path, place / "pairs", tmp_path / "scratch")  # type: ignore[arg-type]
    before = {path.name: path.stat().st_ino for path in tmp_path.glob("scratch/*/*.parquet")}
    place.unlink()
    make_pairs(_catalog(), settings, tmp_path, place / "pairs", tmp_path / "scratch")  # type: ignore[arg-type]
    assert {path.name: path.stat().st_ino for path in (place / "pairs").iterdir()} == before
