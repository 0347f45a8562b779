from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import report as stage
from numpy.typing import NDArray
from PIL import Image, ImageColor

from pipeline_lib import params
from pipeline_lib.data.images import BadImage, square
from pipeline_lib.data.schemas import CATALOG, write_rows, write_table
from pipeline_lib.errors import PipelineError
from pipeline_lib.report.canvas import FRAME, GREEN, WIDTH, save_png
from pipeline_lib.report.pretext_grid import REGIONS, pretext_grid, read_examples
from pipeline_lib.report.retrieval_grid import GridRow, choose_queries, grid_rows, retrieval_grid
from pipeline_lib.report.training_curve import read_history, training_curve


def plain(colour: tuple[int, int, int], height: int = 60, width: int = 60) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, np.uint8)


def is_colour(image: NDArray[np.uint8], colour: str) -> NDArray[np.bool_]:
    return np.asarray((image == ImageColor.getrgb(colour)).all(axis=-1))


PHOTOS = [plain((200, 30, 40 * number)) for number in range(5)]


def test_the_grid_grows_by_rows() -> None:
    row = GridRow(plain((0, 0, 0)), PHOTOS, 2, 3)
    one, two = retrieval_grid([row], gallery=9), retrieval_grid([row, row], gallery=9)
    assert one.shape[1] == two.shape[1] == WIDTH
    assert two.shape[0] > one.shape[0]
    assert one.dtype == np.uint8


@pytest.mark.parametrize("meant", range(5))
def test_the_photo_that_was_drawn_stands_in_a_closed_green_frame(meant: int) -> None:
    image = retrieval_grid([GridRow(plain((0, 0, 0)), PHOTOS, meant, meant + 1)], gallery=5)
    lines, photo = is_colour(image, GREEN), (image == PHOTOS[meant][0, 0]).all(axis=-1)
    y, x = np.nonzero(photo)
    top, bottom, left, right = y.min(), y.max(), x.min(), x.max()
    for distance in range(1, FRAME + 1):
        assert lines[top - distance, left - distance : right + distance + 1].all()
        assert lines[bottom + distance, left - distance : right + distance + 1].all()
        assert lines[top - distance : bottom + distance + 1, left - distance].all()
        assert lines[top - distance : bottom + distance + 1, right + distance].all()
    assert photo[top : bottom + 1, left : right + 1].all()


def test_nothing_is_framed_where_the_photo_is_not_among_those_shown() -> None:
    framed = is_colour(retrieval_grid([GridRow(plain((0, 0, 0)), PHOTOS, 0, 1)], gallery=5), GREEN).sum()
    free = is_colour(retrieval_grid([GridRow(plain((0, 0, 0)), PHOTOS, None, 17)], gallery=50), GREEN).sum()
    # The legend is green in both.
    assert framed - free > 4 * FRAME * 100


@pytest.mark.parametrize(
    "row", [GridRow(plain((0, 0, 0)), [], None, None), GridRow(plain((0, 0, 0)), PHOTOS, None, None)]
)
def test_queries_without_a_photo_or_neighbours_are_drawn_all_the_same(row: GridRow) -> None:
    assert retrieval_grid([row], gallery=0).shape[1] == WIDTH


def test_no_queries_give_a_note() -> None:
    image = retrieval_grid([], gallery=10)
    assert image.shape[1] == WIDTH
    assert (image < 200).any()


def test_tiles_keep_the_shape_of_their_image() -> None:
    tile = np.asarray(square(plain((10, 20, 30), height=40, width=80), 100))
    inside = (tile == (10, 20, 30)).all(axis=-1)
    assert inside[50].all()
    assert abs(int(inside[:, 50].sum()) - 50) <= 1
    assert np.asarray(square(np.zeros((1, 5000), np.uint8), 100)).shape == (100, 100, 3)


def test_the_file_is_small_and_keeps_its_colours(tmp_path: Path) -> None:
    image = retrieval_grid([GridRow(plain((0, 0, 0)), PHOTOS, 1, 2)] * 8, gallery=5)
    save_png(tmp_path / "a" / "grid.png", image)
    stored = np.asarray(Image.open(tmp_path / "a" / "grid.png").convert("RGB"))
    assert stored.shape == image.shape
    assert np.abs(stored.astype(int) - image).max() <= 8
    assert (tmp_path / "a" / "grid.png").stat().st_size < 60_000


def rankings(count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": [f"s{number:02d}" for number in range(count)],
            "neighbours": [[f"p{(number + k) % count:02d}" for k in range(4)] for number in range(count)],
            "place": [1.0] * count,
        }
    )


def test_the_choice_depends_on_the_queries_and_the_seed_not_on_their_order() -> None:
    table = rankings(30)
    chosen = choose_queries(table, 8, 0)["image_id"].tolist()
    assert len(set(chosen)) == 8
    assert choose_queries(table.sample(frac=1, random_state=3), 8, 0)["image_id"].tolist() == chosen
    assert choose_queries(table, 8, 1)["image_id"].tolist() != chosen
    assert len(choose_queries(table, 100, 0)) == 30
    assert choose_queries(table.iloc[:0], 8, 0).empty


class Numbers:
    """A source whose images tell their number by their colour."""

    def load(self, path: str, domain: str, image_id: str) -> NDArray[np.uint8]:  # noqa: ARG002
        if path == "broken":
            raise BadImage("cut")
        return plain((int(path), 0, 255 if domain == "sketch" else 0))


def small_catalog() -> pd.DataFrame:
    return pd.DataFrame(
        [{"image_id": f"p{n:02d}", "path": str(n), "domain": "photo", "instance_id": f"p{n:02d}"} for n in range(6)]
        + [{"image_id": f"s{n:02d}", "path": str(n), "domain": "sketch", "instance_id": f"p{n:02d}"} for n in range(6)]
    )


def test_rows_hold_the_drawing_its_neighbours_and_which_of_them_was_meant() -> None:
    found = {"image_id": ["s02"], "neighbours": [["p05", "p02", "p01", "p00"]], "place": [2.0]}
    table = pd.DataFrame(found)
    (row,) = grid_rows(table, small_catalog(), Numbers(), 3)  # type: ignore[arg-type]
    assert row.sketch[0, 0].tolist() == [2, 0, 255]
    assert [photo[0, 0, 0] for photo in row.photos] == [5, 2, 1]
    assert (row.meant, row.place) == (1, 2)
    (row,) = grid_rows(table, small_catalog(), Numbers(), 1)  # type: ignore[arg-type]
    assert (row.meant, row.place) == (None, 2)


def test_a_query_whose_photo_is_unknown_has_no_place() -> None:
    table = rankings(6).iloc[[2]].assign(place=np.nan)
    catalog = small_catalog().replace({"instance_id": {"p02": ""}})
    (row,) = grid_rows(table, catalog, Numbers(), 3)  # type: ignore[arg-type]
    assert (row.meant, row.place) == (None, None)


def test_images_that_are_gone_are_named() -> None:
    with pytest.raises(PipelineError, match="p05"):
        grid_rows(rankings(6).iloc[[2]], small_catalog().query("image_id != 'p05'"), Numbers(), 4)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="broken: cut"):
        grid_rows(rankings(6).iloc[[2]], small_catalog().replace({"path": {"5": "broken"}}), Numbers(), 4)  # type: ignore[arg-type]


def test_examples_are_patches_of_the_images_they_stand_beside(pairs_folder: Path, patches_folder: Path) -> None:
    examples = read_examples(pairs_folder, patches_folder, 3, seed=1)
    assert len(examples) == 3
    for example in examples:
        for region, (x0, y0, x1, y1) in enumerate(example.boxes.tolist()):
            assert np.array_equal(example.photo_patches[region], example.photo[y0:y1, x0:x1])
            assert np.array_equal(example.edge_patches[region], example.edges[y0:y1, x0:x1])
    again = read_examples(pairs_folder, patches_folder, 3, seed=1)
    assert all(np.array_equal(a.photo, b.photo) for a, b in zip(examples, again, strict=True))


def test_the_grid_of_examples_shows_every_region_in_its_colour(pairs_folder: Path, patches_folder: Path) -> None:
    examples = read_examples(pairs_folder, patches_folder, 2, seed=0)
    image = pretext_grid(examples)
    assert image.shape[1] == WIDTH
    assert pretext_grid(examples[:1]).shape[0] < image.shape[0]
    for colour in REGIONS:
        assert is_colour(image, colour).sum() > 1000
    assert pretext_grid([]).shape[1] == WIDTH


def test_shards_that_do_not_fit_together_are_named(pairs_folder: Path, patches_folder: Path, tmp_path: Path) -> None:
    (pairs_folder / "part-00000.parquet").unlink()
    with pytest.raises(PipelineError, match="don't fit together"):
        read_examples(pairs_folder, patches_folder, 14, seed=0)
    with pytest.raises(PipelineError, match="no shards"):
        read_examples(pairs_folder, tmp_path / "nowhere", 14, seed=0)


HISTORY = "epoch,learning_rate,train_loss,train_accuracy,val_loss,val_accuracy\n"


def test_the_curve_follows_the_history(tmp_path: Path) -> None:
    path = tmp_path / "training.csv"
    path.write_text(HISTORY + "1,0.1,2.0,0.2,2.0,0.2\n2,0.1,1.0,0.5,1.2,0.4\n")
    rising = training_curve(read_history(path))
    path.write_text(HISTORY + "1,0.1,2.0,0.2,2.0,0.2\n2,0.1,1.9,0.2,2.1,0.2\n")
    flat = training_curve(read_history(path))
    assert rising.shape == flat.shape
    assert rising.shape[1] == WIDTH
    assert not np.array_equal(rising, flat)
    path.write_text(HISTORY)
    assert training_curve(read_history(path)).shape[1] == WIDTH


def test_a_history_that_is_missing_or_lacks_a_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "training.csv"
    with pytest.raises(PipelineError, match=r"training\.csv"):
        read_history(path)
    path.write_text("epoch,train_loss\n1,2\n")
    with pytest.raises(PipelineError, match="val_accuracy"):
        read_history(path)


@pytest.mark.usefixtures("pairs_folder", "patches_folder")
@pytest.mark.parametrize("count", [3, 0])
def test_pictures_of_own_photos_stay_out_of_the_metrics(
    count: int,
    tmp_path: Path,
    make_params: Callable[..., params.Params],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos, metrics = tmp_path / "photos", tmp_path / "metrics"
    photos.mkdir()
    metrics.mkdir()
    rows = []
    for number in range(4):
        Image.fromarray(plain((60 * number, 0, 0))).save(photos / f"{number}.png")
        for role, domain, name in (("gallery", "photo", f"p{number:02d}"), ("query", "sketch", f"s{number:02d}")):
            rows.append(
                {
                    "image_id": name,
                    "role": role,
                    "domain": domain,
                    "path": f"{number}.png",
                    "instance_id": f"p{number:02d}",
                    "dataset": "folder",
                }
            )
    write_rows(tmp_path / "catalog.parquet", rows, CATALOG)
    table = rankings(4).iloc[:count]
    write_table(tmp_path / "rankings.parquet", pa.Table.from_pandas(table, preserve_index=False))
    (metrics / "training.csv").write_text(HISTORY + "1,0.1,2.0,0.2,2.0,0.2\n")
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    monkeypatch.setattr(stage, "SCRATCH", tmp_path / ".scratch")
    chosen = make_params({"name": "mine", "catalog.dataset": "folder", "catalog.root": str(photos)})
    stage.main(chosen, tmp_path, metrics)
    assert [path.name for path in (metrics / "pictures").iterdir()] == ["training_curve.png"]
    private = tmp_path / "private" / "mine"
    assert sorted(path.name for path in private.iterdir()) == ["pretext_examples.png", "retrieval_grid.png"]
    assert ("No queries" in capsys.readouterr().out) == (count == 0)
