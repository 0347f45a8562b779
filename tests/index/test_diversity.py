from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline_lib.embedding.alignment import normalise
from pipeline_lib.index.diversity import DEPTH, Alike, diversify
from pipeline_lib.index.ranking import Ranked, TieBreak, rank

Matrix = NDArray[np.float32]


def alike_of(photos: Matrix) -> Alike:
    return lambda rows: photos[rows] @ photos[rows].T


def ranked(scores: Matrix) -> Ranked:
    return rank(scores, TieBreak.of(np.array([f"p{n:04d}" for n in range(scores.shape[1])])))


def drawn(seed: int, sketches: int, photos: int) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    first, second = (normalise(rng.standard_normal((count, 5)).astype(np.float32)) for count in (sketches, photos))
    return first @ second.T, second


@given(st.integers(0, 50), st.integers(1, 30), st.floats(0, 2), st.integers(1, 12))
def test_a_list_keeps_its_photos_with_their_scores_its_first_photo_and_what_lies_below_the_depth(
    seed: int, count: int, weight: float, depth: int
) -> None:
    scores, photos = drawn(seed, 4, count)
    before = ranked(scores)
    after = diversify(before, alike_of(photos), weight, depth)
    np.testing.assert_array_equal(np.sort(after.rows), np.sort(before.rows))
    np.testing.assert_array_equal(after.scores, np.take_along_axis(scores, after.rows, axis=1))
    np.testing.assert_array_equal(before.rows[:, 0], after.rows[:, 0])
    np.testing.assert_array_equal(before.rows[:, depth:], after.rows[:, depth:])
    np.testing.assert_array_equal(diversify(before, alike_of(photos), 0.0, depth).rows, before.rows)


@given(st.integers(0, 50), st.floats(0.01, 1))
def test_the_order_is_that_of_the_definition_taken_literally(seed: int, weight: float) -> None:
    scores, photos = drawn(seed, 3, 12)
    found = diversify(ranked(scores), alike_of(photos), weight)
    for row, order in zip(scores, found.rows, strict=True):
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
    alike = alike_of(np.array([[1, 0], [1, 0], [0, 1]], np.float32))
    found = ranked(np.array([[0.9, 0.8, 0.7]], np.float32))
    np.testing.assert_array_equal(diversify(found, alike, 0.2).rows, [[0, 2, 1]])
    np.testing.assert_array_equal(diversify(found, alike, 0.05).rows, [[0, 1, 2]])


def test_lists_of_a_small_gallery_and_of_none_are_no_special_case() -> None:
    for count in (0, 1, DEPTH - 1):
        scores, photos = drawn(0, 2, count)
        assert diversify(ranked(scores), alike_of(photos), 0.5).rows.shape == (2, count)
