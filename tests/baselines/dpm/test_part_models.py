from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.baselines.dpm.detect import RADIUS, best_shift, component_scores, detect, responses, transform
from pipeline_lib.baselines.dpm.features import MIRRORED, OUTSIDE, features, mirror, pad
from pipeline_lib.baselines.dpm.matching import Star, affinities, consistency, random_walk, similarity
from pipeline_lib.baselines.dpm.model import Component, Model, Piece


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.sampled_from([4, 8]), st.integers(5, 7), st.integers(5, 7))
def test_features_of_the_mirrored_image_are_the_mirrored_features(
    seed: int, cell: int, rows: int, columns: int
) -> None:
    image = noise(seed, rows * cell, columns * cell, 3)
    assert np.allclose(mirror(features(image, cell)), features(image[:, ::-1], cell), atol=1e-5)


def test_features_agree_with_a_pixel_by_pixel_reference() -> None:
    image, cell = noise(3, 34, 41, 3), 8
    assert np.allclose(features(image, cell), reference(image, cell), atol=1e-5)


def reference(image: np.ndarray, cell: int) -> np.ndarray:
    """voc-release5's features.cc, loop by loop."""
    height, width = (int(side / cell + 0.5) for side in image.shape[:2])
    histogram = np.zeros((height + 1, width + 1, 18))
    for y, x in itertools.product(range(1, height * cell - 1), range(1, width * cell - 1)):
        py, px = min(y, image.shape[0] - 2), min(x, image.shape[1] - 2)
        best, gradient = -1.0, (0.0, 0.0)
        for channel in (2, 1, 0):
            dx = float(image[py, px + 1, channel]) - float(image[py, px - 1, channel])
            dy = float(image[py + 1, px, channel]) - float(image[py - 1, px, channel])
            if dx * dx + dy * dy > best:
                best, gradient = dx * dx + dy * dy, (dx, dy)
        angles = [np.cos(o * np.pi / 9) * gradient[0] + np.sin(o * np.pi / 9) * gradient[1] for o in range(9)]
        signed = [*angles, *(-value for value in angles)]
        orientation = int(np.argmax(signed))
        cy, cx = (y + 0.5) / cell - 0.5, (x + 0.5) / cell - 0.5
        iy, ix = int(np.floor(cy)), int(np.floor(cx))
        for dy_, dx_ in itertools.product((0, 1), (0, 1)):
            if 0 <= iy + dy_ < height and 0 <= ix + dx_ < width:
                share = (cy - iy if dy_ else 1 - cy + iy) * (cx - ix if dx_ else 1 - cx + ix)
                histogram[iy + dy_, ix + dx_, orientation] += np.sqrt(best) * share
    energy = ((histogram[..., :9] + histogram[..., 9:]) ** 2).sum(axis=2)
    out = np.zeros((height - 2, width - 2, 32))
    for y, x in itertools.product(range(height - 2), range(width - 2)):
        norms = [
            1 / np.sqrt(energy[y + a : y + a + 2, x + b : x + b + 2].sum() + 1e-4)
            for b, a in ((1, 1), (1, 0), (0, 1), (0, 0))
        ]
        centre = histogram[y + 1, x + 1]
        for k, norm in enumerate(norms):
            clipped = np.minimum(centre * norm, 0.2)
            out[y, x, :18] += clipped / 2
            out[y, x, 18:27] += np.minimum((centre[:9] + centre[9:]) * norm, 0.2) / 2
            out[y, x, 27 + k] = 0.2357 * clipped.sum()
    return out


def test_mirroring_twice_changes_nothing_and_outside_is_marked() -> None:
    assert np.array_equal(MIRRORED[MIRRORED], np.arange(32))
    padded = pad(features(noise(0, 48, 48, 3), 8), 2, 3)
    assert padded[:2, :, OUTSIDE].all()
    assert not padded[2:-2, 3:-3, OUTSIDE].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 12))
def test_the_transform_agrees_with_trying_all_displacements(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    response = rng.normal(size=(height, width)).astype(np.float32)
    a, b, c, d = cost = (0.05, float(rng.normal() / 20), 0.03, float(rng.normal() / 20))
    bent = transform(response, cost)
    for y, x in itertools.product(range(height), range(width)):
        tried = {
            (v, u): response[v, u] - a * (x - u) ** 2 - b * (x - u) - c * (y - v) ** 2 - d * (y - v)
            for v, u in itertools.product(range(height), range(width))
            if max(abs(x - u), abs(y - v)) <= RADIUS
        }
        assert bent[y, x] == pytest.approx(max(tried.values()), abs=1e-5)
        assert tried[best_shift(response, cost, y, x)] == pytest.approx(max(tried.values()), abs=1e-5)


def cut(image: np.ndarray, cell: int, row: int, column: int, height: int, width: int) -> np.ndarray:
    """A filter that answers most to what stands at a place of the image; cells counted from the image's corner."""
    cells = features(image, cell)[row - 1 : row - 1 + height, column - 1 : column - 1 + width].copy()
    cells[..., OUTSIDE] = 0
    return np.asarray(cells / np.linalg.norm(cells), np.float32)


def test_a_model_cut_out_of_an_image_is_found_there_with_its_displaced_part() -> None:
    image = noise(7, 128, 160, 3).astype(np.uint8)
    still = (0.01, 0.0, 0.01, 0.0)
    # The part rests at (4, 2) fine cells from the root, and stands one to the right of that.
    root = Piece(cut(image, 8, 5, 8, 4, 5), (0, 0), (1000.0, 0.0, 1000.0, 0.0), 0.0)
    part = Piece(cut(image, 4, 12, 21, 4, 4), (4, 2), still, 0.0)
    model = Model((Component(root, (part,), 0.0, (0.0, 0.0, 0.0)),), 8, 10, (6, 6))
    found = detect(image, model, -1.0)
    assert found is not None
    assert found.boxes[0].tolist() == [64, 40, 104, 72]
    assert found.boxes[1].tolist() == [84, 48, 100, 64]
    assert found.score == pytest.approx(root_score(image, root, 8) + root_score(image, part, 4) - 0.01, abs=1e-3)
    assert detect(image, model, found.score + 1) is None


def root_score(image: np.ndarray, piece: Piece, cell: int) -> float:
    (response,) = responses(features(image, cell), [piece])
    return float(response.max())


def test_a_part_that_would_lie_off_the_level_rules_the_place_out() -> None:
    root = Piece(np.zeros((1, 1, 32), np.float32), (0, 0), (1.0, 0.0, 1.0, 0.0), 0.0)
    part = Piece(np.zeros((1, 1, 32), np.float32), (0, 0), (1.0, 0.0, 1.0, 0.0), 0.5)
    component = Component(root, (part,), 0.0, (0.0, 0.0, 0.0))
    total = component_scores(component, np.zeros((3, 3), np.float32), [np.zeros((3, 3), np.float32)], (1, 1))
    assert total[1, 1] == 0.5
    total[1, 1] = -np.inf
    assert np.isneginf(total).all()


def star(seed: int, parts: int = 5) -> Star:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 200, (parts + 1, 2))
    corners[0] = 40
    boxes = np.hstack([corners, corners + 40])
    boxes[0, 2:] = boxes[0, :2] + [120, 90]
    return Star.of(boxes, rng.uniform(0, 1, 12))


@given(st.integers(0, 200), st.permutations(range(5)))
def test_equal_stars_match_wholly_whatever_the_order_of_their_parts(seed: int, order: list[int]) -> None:
    own = star(seed)
    other = Star(own.parts[order], own.aspect, own.appearance)
    assert similarity(own, other) == pytest.approx(1, abs=1e-6)


@given(st.integers(0, 200), st.floats(0.3, 3), st.floats(-50, 50))
def test_scale_and_place_of_a_detection_make_no_difference(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.hstack([rng.uniform(0, 50, (4, 2)), rng.uniform(60, 99, (4, 2))])
    looks = rng.uniform(0, 1, 5)
    assert np.allclose(Star.of(boxes, looks).parts, Star.of(boxes * scale + shift, looks).parts)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200))
def test_the_walk_finds_nearly_the_best_of_all_matchings(seed: int) -> None:
    first = star(seed, 4).parts
    second = first[::-1] + np.random.default_rng(seed).normal(0, 8, (4, 2))
    table = affinities(first, second)
    best = max(
        table[np.ix_(chosen, chosen)].mean()
        for order in itertools.permutations(range(4))
        for chosen in [[4 * i + a for i, a in enumerate(order)]]
    )
    assert consistency(first, second) >= 0.98 * best


def test_affinities_are_symmetric_and_zero_between_matches_that_exclude_each_other() -> None:
    table = affinities(star(0, 3).parts, star(1, 4).parts)
    assert np.allclose(table, table.T)
    assert table[0 * 4 + 1, 0 * 4 + 2] == 0
    assert table[0 * 4 + 1, 2 * 4 + 1] == 0
    assert random_walk(table, 3, 4).sum() == pytest.approx(1)
