"""Views: two pictures of about the same part of a photo, in an order that seed and number alone decide."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib import params
from pipeline_lib.data.ahead import read_ahead
from pipeline_lib.errors import PipelineError
from pipeline_lib.pretext.views import Views, ViewShards, cut_out, make_views, recolour
from tests.conftest import scene

Make = Callable[..., params.Params]
IDS = [f"image/{number:02d}" for number in range(14)]
STILL = {
    "contrast.crop": [1.0, 1.0],
    "contrast.shift": 0.0,
    "contrast.rotation": 0.0,
    "contrast.warp": 0.0,
    "contrast.erase": 0.0,
    "contrast.drop_strokes": 0.0,
    "contrast.colour": 0.0,
    "contrast.grey": 0.0,
}
# AlexNet would need larger views.
SMALL = {"contrast.batch_images": 4, "contrast.image_size": 48, "train.encoder": "vgg16"}


def test_views_are_squares_of_the_asked_size(make_params: Make) -> None:
    photo, edges = make_views(scene(0), make_params({"contrast.image_size": 64}).contrast, np.random.default_rng(0))
    assert (photo.shape, edges.shape) == ((64, 64, 3), (64, 64))
    assert photo.dtype == edges.dtype == np.uint8


def test_photo_and_drawing_are_mirrored_together(make_params: Make) -> None:
    contrast = make_params(STILL).contrast
    picture = np.full((200, 200, 3), 30, np.uint8)
    picture[60:140, 20:70] = 220  # at the left
    sides = set()
    for seed in range(12):
        photo, edges = make_views(picture, contrast, np.random.default_rng(seed))
        half = photo.shape[1] // 2
        bright_left = photo[:, :half].mean() > photo[:, half:].mean()
        drawn_left = (edges[:, :half] < 128).sum() > (edges[:, half:] < 128).sum()
        assert bright_left == drawn_left
        sides.add(bright_left)
    assert sides == {True, False}


@settings(max_examples=60, deadline=None)
@given(st.floats(-50, 300), st.floats(-50, 300), st.floats(1, 400), st.floats(1, 400))
def test_a_part_is_never_empty_and_never_outside(x: float, y: float, width: float, height: float) -> None:
    photo = scene(1)
    part = cut_out(photo, np.array([x, y]), np.array([width, height]))
    assert min(part.shape[:2]) >= 8
    assert part.shape[0] <= photo.shape[0]
    assert part.shape[1] <= photo.shape[1]


def test_recolouring_by_nothing_changes_nothing(make_params: Make) -> None:
    contrast = make_params({"contrast.colour": 0.0, "contrast.grey": 0.0}).contrast
    view = scene(2)
    assert np.abs(recolour(view, contrast, np.random.default_rng(0)).astype(int) - view).max() <= 1


def test_a_grey_view_has_three_equal_channels(make_params: Make) -> None:
    grey = recolour(scene(2), make_params({"contrast.grey": 1.0}).contrast, np.random.default_rng(0))
    assert np.array_equal(grey[..., 0], grey[..., 1])
    assert np.array_equal(grey[..., 0], grey[..., 2])


def same(first: Views, second: Views) -> bool:
    return (
        first.image_ids == second.image_ids
        and np.array_equal(first.photos, second.photos)
        and np.array_equal(first.edges, second.edges)
    )


@pytest.mark.parametrize("both", [False, True])
def test_batch_n_is_the_same_wherever_reading_starts_and_whether_it_is_made_ahead(
    make_params: Make, pairs_folder: Path, both: bool
) -> None:
    settings = make_params({**SMALL, "contrast.mirror_negatives": both}).contrast
    shards, at_once = (ViewShards(pairs_folder, IDS, settings, ahead=ahead) for ahead in (True, False))
    whole = list(islice(shards.batches(7), 8))
    assert all(map(same, whole, islice(at_once.batches(7), 8)))
    assert all(map(same, shards.once(), at_once.once()))
    for start in (1, 3, 5):
        assert all(map(same, whole[start:], islice(shards.batches(7, start), 8 - start)))
    assert not same(whole[0], next(iter(shards.batches(8))))


def test_each_pass_shows_an_image_at_most_once_and_new_views_of_it(make_params: Make, pairs_folder: Path) -> None:
    shards = ViewShards(pairs_folder, IDS[:12], make_params(SMALL).contrast)
    assert shards.count == 12
    batches = list(islice(shards.batches(0), 6))
    first, second = ([name for batch in part for name in batch.image_ids] for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == IDS[:12]
    assert first != second
    views = {name: view for batch in batches[:3] for name, view in zip(batch.image_ids, batch.edges, strict=True)}
    again = {name: view for batch in batches[3:] for name, view in zip(batch.image_ids, batch.edges, strict=True)}
    assert not any(np.array_equal(views[name], again[name]) for name in views)


def test_with_mirrored_negatives_each_image_of_a_batch_stands_there_both_ways(
    make_params: Make, pairs_folder: Path
) -> None:
    changes = {**SMALL, **STILL, "contrast.batch_images": 8, "contrast.mirror_negatives": True}
    shards = ViewShards(pairs_folder, IDS, make_params(changes).contrast)
    batches = list(islice(shards.batches(0), 3))
    for views in batches:
        assert views.mirrored is not None
        assert views.mirrored.tolist() == [False] * 4 + [True] * 4
        assert views.image_ids[:4] == views.image_ids[4:]
        assert len(set(views.image_ids)) == 4
        assert np.array_equal(views.photos[4:], views.photos[:4, :, ::-1])
        # Blur, density and width are drawn anew, so the drawings are alike and not the same.
        assert not np.array_equal(views.edges[4:], views.edges[:4, :, ::-1])
    # Nothing but what is trained on stands there twice.
    assert [len(views.image_ids) for views in shards.once()] == [4, 4, 4, 2]
    assert len({name for views in batches for name in views.image_ids}) == 12


def test_every_image_is_seen_once_and_alike_where_all_are_asked_for(make_params: Make, pairs_folder: Path) -> None:
    shards = ViewShards(pairs_folder, IDS[3:12], make_params(SMALL).contrast)
    first, second = list(shards.once()), list(shards.once())
    assert [len(batch.image_ids) for batch in first] == [4, 4, 1]
    assert [name for batch in first for name in batch.image_ids] == IDS[3:12]
    assert all(map(same, first, second))


def test_a_cut_shard_is_named(make_params: Make, pairs_folder: Path) -> None:
    path = next(iter(sorted(pairs_folder.glob("*.parquet"))))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PipelineError, match=path.name):
        ViewShards(pairs_folder, IDS, make_params(SMALL).contrast)


def test_what_the_reader_raises_reaches_the_consumer() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise PipelineError("the third shard is cut")

    found: list[int] = []
    with pytest.raises(PipelineError, match="third shard"):
        found.extend(read_ahead(items, "reader"))
    assert found == [1]
    assert list(islice(read_ahead(items, "reader"), 1)) == [1]


def test_the_reader_stops_with_its_consumer() -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    reader = read_ahead(endless, "endless-reader")
    assert next(reader) == 0
    reader.close()
    assert not any(thread.name == "endless-reader" for thread in threading.enumerate())
