"""Local scaling against the equation, and hubs losing their places."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline_lib.retrieval.alignment import normalise
from pipeline_lib.retrieval.hubness import BLOCK, csls, nearness


def rows(count: int, seed: int, dimension: int = 8) -> NDArray[np.float32]:
    return normalise(np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32))


@pytest.mark.parametrize(("photos", "edges", "neighbours"), [(5, 30, 4), (BLOCK + 3, 12, 10), (4, 3, 10)])
def test_nearness_is_the_mean_of_the_largest_similarities(photos: int, edges: int, neighbours: int) -> None:
    a, b = rows(photos, 0), rows(edges, 1)
    expected = [np.sort(b @ photo)[::-1][:neighbours].mean() for photo in a]
    np.testing.assert_allclose(nearness(a, b, neighbours), expected, atol=1e-6)


def test_the_equation() -> None:
    similarities = np.array([[0.5, 0.4]], np.float32)
    np.testing.assert_allclose(csls(similarities, np.array([0.6, 0.1], np.float32)), [[0.4, 0.7]])


def test_a_hub_loses_its_place() -> None:
    edges = rows(200, 2)
    hub = normalise(edges.mean(axis=0, keepdims=True) + 0.05 * rows(1, 3))
    partner = rows(1, 4)
    query = normalise(partner + 0.9 * hub)
    photos = np.concatenate([hub, partner])
    plain = query @ photos.T
    scaled = csls(plain, nearness(photos, normalise(edges + hub), 10))
    assert plain[0, 0] - plain[0, 1] > scaled[0, 0] - scaled[0, 1]
