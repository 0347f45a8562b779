from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.baselines.supervised.support import RECIPE, batches


def test_an_epoch_shows_every_photo_once(tmp_path: Path) -> None:
    order = batches(tmp_path).order(3)
    assert sorted(order.tolist()) == list(range(12))


def test_orders_differ_between_epochs_and_repeat_for_the_same(tmp_path: Path) -> None:
    found = batches(tmp_path)
    assert found.order(0).tolist() == found.order(0).tolist()
    assert found.order(0).tolist() != found.order(1).tolist()


def test_photos_of_one_class_come_together(tmp_path: Path) -> None:
    found = batches(tmp_path)
    classes = found.classes[found.order(0)]
    # 3 classes of 4 photos make 6 groups of 2: neighbours 0-1, 2-3, ... agree.
    assert (classes[::2] == classes[1::2]).all()


def test_sketches_of_a_batch_are_of_its_photos(tmp_path: Path) -> None:
    found = batches(tmp_path, RECIPE.model_copy(update={"shift": 0}))
    batch = found.batch(0, 1)
    photos = found.order(0)[4:8]
    assert batch.photos.shape == (4, 64, 64, 3)
    assert batch.sketches.shape == (8, 64, 64)
    assert np.bincount(batch.drawn).tolist() == [2, 2, 2, 2]
    assert batch.photo_classes.tolist() == (photos % 3).tolist()
    for sketch, place in zip(batch.sketches, batch.drawn, strict=True):
        known = found.sketches.images[found.drawn == photos[place]]
        mirrored = not any(np.array_equal(batch.photos[place], image) for image in found.photos.images)
        assert any(np.array_equal(sketch, image[:, ::-1] if mirrored else image) for image in known)


def test_images_move_by_at_most_the_shift(tmp_path: Path) -> None:
    found = batches(tmp_path)
    whole = found.batch(1, 0).photos
    rows = found.order(1)[:4]
    for moved, original in zip(whole, found.photos.images[rows], strict=True):
        sides = (original, original[:, ::-1])
        padded = [np.pad(side, [(3, 3), (3, 3), (0, 0)], mode="edge") for side in sides]
        places = [image[y : y + 64, x : x + 64] for image in padded for y in range(7) for x in range(7)]
        assert any(np.array_equal(moved, place) for place in places)
