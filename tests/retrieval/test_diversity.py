from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline_lib.retrieval.alignment import normalise
from pipeline_lib.retrieval.diversity import diversify

Matrix = NDArray[np.float32]


def drawn(seed: int, sketches: int, photos: int) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    first, second = (normalise(rng.standard_normal((count, 5)).astype(np.float32)) for count in (sketches, photos))
    return first @ second.T, second


@given(st.integers(0, 50), st.integers(1, 30), st.floats(0, 2), st.integers(1, 12))
def test_a_list_keeps_its_scores_its_first_photo_and_what_lies_below_the_depth(
    seed: int, count: int, weight: float, depth: int
) -> None:
    scores, photos = drawn(seed, 4, count)
    found = diversify(scores, photos, weight, depth)
    np.testing.assert_array_equal(np.sort(found), np.sort(scores))
    before, after = (np.argsort(-values, axis=1, kind="stable") for values in (scores, found))
    np.testing.assert_array_equal(before[:, 0], after[:, 0])
    np.testing.assert_array_equal(before[:, depth:], after[:, depth:])
    np.testing.assert_array_equal(diversify(scores, photos, 0.0, depth), scores)


@given(st.integers(0, 50), st.floats(0.01, 1))
def test_the_order_is_that_of_the_definition_taken_literally(seed: int, weight: float) -> None:
    scores, photos = drawn(seed, 3, 12)
    found = np.argsort(-diversify(scores, photos, weight), axis=1, kind="stable")
    for row, order in zip(scores, found, strict=True):
        chosen: list[int] = []
        for _ in order:
            left = [photo for photo in range(12) if photo not in chosen]
            worth = {
                photo: float(row[photo])
                - weight * max([0.0, *(float(photos[photo] @ photos[other]) for other in chosen)])
                for photo in left
            }
            chosen.append(max(worth, key=lambda photo: worth[photo]))
        np.testing.assert_array_equal(order, chosen)


def test_a_photo_taken_twice_gives_way_to_another_guess() -> None:
    photos = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    scores = np.array([[0.9, 0.8, 0.7]], np.float32)
    np.testing.assert_array_equal(np.argsort(-diversify(scores, photos, 0.2)), [[0, 2, 1]])
    np.testing.assert_array_equal(np.argsort(-diversify(scores, photos, 0.05)), [[0, 1, 2]])
