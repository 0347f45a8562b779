from __future__ import annotations

import numpy as np
import pytest

from pipeline_lib.embedding.alignment import normalise
from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.evaluation import separation


def clouds(rng: np.random.Generator, gap: float, classes: int = 4, each: int = 30) -> tuple[Vectors, Vectors]:
    """Photos and sketches around the same class centres, the domains `gap` apart along an axis of their own."""
    centres = np.repeat(rng.normal(size=(classes, 8)) * 4, each, axis=0)
    sides = [
        np.concatenate([centres + rng.normal(size=centres.shape), np.full((len(centres), 1), d)], 1)
        for d in (-gap / 2, gap / 2)
    ]
    photos, sketches = (normalise(side.astype(np.float32)) for side in sides)
    return photos, sketches


def names(count: int, classes: int) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    return np.array([f"class {n * classes // count}" for n in range(count)])


def test_mixed_domains_share_half_their_neighbours_and_distant_ones_none() -> None:
    rng = np.random.default_rng(0)
    photos, sketches = clouds(rng, 0.0)
    assert separation.cross_domain_share(photos, sketches) == pytest.approx(0.5, abs=0.06)
    photos, sketches = clouds(rng, 100.0)
    assert separation.cross_domain_share(photos, sketches) == 0.0


def test_the_share_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    photos, sketches = clouds(rng, 1.0, each=5)
    vectors = np.concatenate([photos, sketches])
    crossed = 0
    for row, vector in enumerate(vectors):
        order = [other for other in np.argsort(-(vectors @ vector)) if other != row][:3]
        crossed += sum((other < len(photos)) != (row < len(photos)) for other in order)
    assert separation.cross_domain_share(photos, sketches, 3) == pytest.approx(crossed / (3 * len(vectors)))


def test_a_linear_classifier_tells_distant_domains_and_guesses_at_mixed_ones() -> None:
    rng = np.random.default_rng(2)
    photos, sketches = clouds(rng, 0.0)
    groups = np.tile([f"{n}.jpg" for n in range(len(photos))], 2)
    assert separation.domain_accuracy(photos, sketches, groups, 0) == pytest.approx(0.5, abs=0.12)
    photos, sketches = clouds(rng, 20.0)
    assert separation.domain_accuracy(photos, sketches, groups, 0) > 0.98


def test_clusters_agree_with_what_the_space_is_grouped_by() -> None:
    rng = np.random.default_rng(3)
    photos, sketches = clouds(rng, 0.0)
    classes = np.tile(names(len(photos), 4), 2)
    found = separation.cluster_agreement(photos, sketches, classes, 4, 0)
    assert min(found["nmi_class"], found["told_class"]) > 0.9
    assert max(found["nmi_domain"], found["told_domain"]) < 0.05
    photos, sketches = clouds(rng, 1000.0)
    found = separation.cluster_agreement(photos, sketches, classes, 2, 0)
    assert min(found["nmi_domain"], found["told_domain"]) > 0.9
    assert max(found["nmi_class"], found["told_class"]) < 0.1


def test_many_clusters_within_two_domains_tell_all_of_the_domain_and_nothing_of_the_class() -> None:
    rng = np.random.default_rng(5)
    photos, sketches = (rng.normal(place, 1, (400, 8)).astype(np.float32) for place in (0, 1000))
    classes = rng.permutation(np.tile(names(400, 40), 2))
    found = separation.cluster_agreement(photos, sketches, classes, 40, 0)
    assert found["told_domain"] > 0.98
    assert found["nmi_domain"] < 0.35  # for all that: two domains hold little of what 40 clusters hold
    assert abs(found["told_class"]) < 0.05
    assert found["nmi_class"] > 0.2  # by chance


def test_the_place_of_the_partner_runs_from_first_to_last_and_ties_are_chance() -> None:
    photos = np.eye(5, dtype=np.float32)
    sketches = np.eye(5, dtype=np.float32)
    target = np.arange(5)
    assert separation.partner_place(photos, sketches, target) == pytest.approx(0.5 * 0)
    opposite = -sketches
    assert separation.partner_place(photos, opposite, target) == 1.0
    assert separation.partner_place(photos, np.zeros_like(sketches), target) == 0.5
    assert separation.partner_place(photos, sketches, np.array([0, -1, -2, -1, 4])) == 0.0
