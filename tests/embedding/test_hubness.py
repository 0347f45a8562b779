"""Local scaling against the equation, and hubs losing their places."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline_lib.embedding.alignment import Alignment, Mean, normalise
from pipeline_lib.embedding.hubness import BLOCK, Hubness, nearness


def rows(count: int, seed: int, dimension: int = 8) -> NDArray[np.float32]:
    return normalise(np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32))


def correcting(edges: NDArray[np.float32]) -> Alignment:
    """Hubness correction and nothing else."""
    return Alignment(8, steps={("hubness",): Hubness(edges.astype(np.float16))}, chain=("hubness",))


@pytest.mark.parametrize(("photos", "edges", "neighbours"), [(5, 30, 4), (BLOCK + 3, 12, 10), (4, 3, 10)])
def test_nearness_is_the_mean_of_the_largest_similarities(photos: int, edges: int, neighbours: int) -> None:
    a, b = rows(photos, 0), rows(edges, 1)
    expected = [np.sort(b @ photo)[::-1][:neighbours].mean() for photo in a]
    np.testing.assert_allclose(nearness(a, b, neighbours), expected, atol=1e-6)


def test_inner_products_order_photos_as_the_equation_does() -> None:
    photos, edges, queries = rows(50, 0), rows(80, 1), rows(20, 2)
    alignment = correcting(edges)
    found = alignment.apply(queries, "sketch") @ alignment.apply(photos, "photo").T
    # Conneau et al. 2018, eq. 3, without the term that is the same for all photos of a query.
    expected = 2 * queries @ photos.T - nearness(photos, edges)
    np.testing.assert_allclose(2 * found, expected, atol=2e-3)
    assert found.shape == (20, 50)
    assert alignment.aligned_dimension == 9


def test_a_hub_loses_its_place() -> None:
    edges = rows(200, 2)
    hub = normalise(edges.mean(axis=0, keepdims=True) + 0.05 * rows(1, 3))
    partner = rows(1, 4)
    query = normalise(partner + 0.9 * hub)
    photos = np.concatenate([hub, partner])
    alignment = correcting(normalise(edges + hub))
    plain = query @ photos.T
    scaled = alignment.apply(query, "sketch") @ alignment.apply(photos, "photo").T
    assert plain[0, 0] - plain[0, 1] > scaled[0, 0] - scaled[0, 1]


def test_no_photos_are_near_to_nothing() -> None:
    assert nearness(rows(0, 0), rows(3, 1)).shape == (0,)


@pytest.mark.parametrize("facing", [0.0, 3.0])
def test_a_photo_that_searches_is_aligned_as_one_that_is_found_and_corrects_nothing(facing: float) -> None:
    photos, edges = rows(30, 0), rows(40, 1)
    mean = Mean(photos.mean(axis=0), edges.mean(axis=0))
    hubness = Hubness(rows(12, 2).astype(np.float16))
    if facing:  # an image and its mirror image
        photos = np.hstack([photos, rows(30, 3)])
        hubness = Hubness(rows(12, 2, 16).astype(np.float16))
    steps = {("mean",): mean, ("mean", "hubness"): hubness}
    alignment = Alignment(photos.shape[1], facing=facing, steps=steps, chain=("mean", "hubness"))
    asked, found = alignment.queries(photos, "photo"), alignment.apply(photos, "photo")
    np.testing.assert_array_equal(asked[:, :-1], found[:, :-1])
    assert not asked[:, -1].any()
    assert found[:, -1].all()
    np.testing.assert_array_equal(alignment.queries(photos, "sketch"), alignment.apply(photos, "sketch"))
