from __future__ import annotations

import numpy as np
import pytest

from pipeline_lib.baselines.subspace.projection import Projections, Reduction, Side, one_hot


def test_a_side_centres_and_then_projects() -> None:
    side = Side(np.array([1.0, 2.0]), np.array([[1.0], [10.0]]))
    assert side.apply(np.array([[2.0, 3.0]])).tolist() == [[11.0]]


def test_sides_that_lead_into_different_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="one space"):
        Projections(Side(np.zeros(2), np.eye(2)), Side(np.zeros(2), np.eye(2)[:, :1]))


def test_the_first_components_are_those_of_the_whole() -> None:
    whole = Projections(Side(np.zeros(3), np.eye(3)), Side(np.ones(3), 2 * np.eye(3)))
    values = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(whole.first(2).apply(values, "sketch"), whole.apply(values, "sketch")[:, :2])


def test_reduction_keeps_distances_of_data_that_fill_few_dimensions() -> None:
    rng = np.random.default_rng(1)
    flat = (rng.normal(size=(60, 4)) @ rng.normal(size=(4, 50))).astype(np.float32)
    reduction = Reduction.fit(flat, flat, 10)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    short = reduction.apply(flat, "photo")
    assert short.shape == (60, 10)
    wanted = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    assert np.allclose(np.linalg.norm(short[:, None] - short[None], axis=2), wanted, atol=1e-5)


def test_reduction_does_not_see_the_length_of_a_vector() -> None:
    values = np.random.default_rng(2).normal(size=(30, 8)).astype(np.float32)
    reduction = Reduction.fit(values, values, 3)
    assert np.allclose(reduction.apply(values, "photo"), reduction.apply(7 * values, "photo"), atol=1e-6)


def test_reduction_keeps_no_more_than_there_are_images() -> None:
    values = np.random.default_rng(3).normal(size=(5, 8)).astype(np.float32)
    assert Reduction.fit(values, values, 300).apply(values, "sketch").shape == (5, 5)


def test_one_hot_marks_the_class_of_each_row() -> None:
    assert one_hot(np.array([7, 3]), np.array([3, 5, 7])).tolist() == [[0, 0, 1], [1, 0, 0]]
