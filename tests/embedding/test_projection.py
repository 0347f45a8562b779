"""One small vector: the directions in which photos and their own edge maps agree."""

from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.embedding.projection import Projection, agreeing, channel_directions, fit, rounded
from pipeline_lib.errors import PipelineError


def pairs(count: int = 400, width: int = 24, shared: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Photos and edges that have their first numbers in common, and noise of their own in all."""
    random = np.random.default_rng(0)
    common = random.normal(size=(count, width)) * (np.arange(width) < shared)
    sides = (common + random.normal(size=(count, width)) * 0.5 + random.normal(size=width) for _ in range(2))
    photos, edges = (side.astype(np.float32) for side in sides)
    return photos, edges


def test_directions_are_those_of_the_generalised_eigenvalue_problem() -> None:
    photos, edges = pairs()
    directions, agreement = agreeing(photos, edges, 24, shrinkage=0.3)
    x, y = photos - photos.mean(0), edges - edges.mean(0)
    across = (x.T @ y + y.T @ x) / 2 / len(x)
    own = (x.T @ x + y.T @ y) / 2 / len(x)
    own += 0.3 * np.trace(own) / 24 * np.eye(24)
    np.testing.assert_allclose(across @ directions.T, own @ directions.T * agreement, atol=1e-4)
    np.testing.assert_allclose(directions @ own @ directions.T, np.eye(len(directions)), atol=1e-4)
    assert (np.diff(agreement) <= 0).all()
    assert (agreement > 0).all()


def test_what_photos_and_edges_share_is_kept_and_their_own_noise_is_not() -> None:
    photos, edges = pairs()
    projection = fit([photos], [edges], {}, 4, 0.0)
    assert projection.dimension == 4
    energy = np.square(projection.shared).sum(axis=0)
    assert energy[:4].sum() > 20 * energy[4:].sum()
    x, y = (projection.apply([side - side.mean(0)]) for side in (photos, edges))
    similar = x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
    assert np.diag(similar).mean() > 0.7
    assert abs(similar.mean()) < 0.05


def test_mirror_images_change_the_sign_of_what_tells_them_apart_and_of_nothing_else() -> None:
    (photos, edges), (mirrored, mirrored_edges) = pairs(), (each[:, ::-1].copy() for each in pairs())
    projection = fit([photos, mirrored], [edges, mirrored_edges], {}, 12, 3.0)
    assert projection.dimension == 12
    as_it_is, flipped = projection.apply([photos, mirrored]), projection.apply([mirrored, photos])
    shared = len(projection.shared)
    np.testing.assert_allclose(as_it_is[:, :shared], flipped[:, :shared], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(as_it_is[:, shared:], -flipped[:, shared:], rtol=1e-5, atol=1e-5)


def test_what_mirror_images_differ_in_counts_as_often_as_told() -> None:
    (photos, edges), (mirrored, mirrored_edges) = pairs(), (each[:, ::-1].copy() for each in pairs())
    once, thrice = (fit([photos, mirrored], [edges, mirrored_edges], {}, 8, weight) for weight in (1.0, 3.0))
    np.testing.assert_array_equal(once.shared, thrice.shared)
    np.testing.assert_allclose(thrice.facing, once.facing * 3**0.5, rtol=2e-3)


def test_channel_directions_are_principal_components() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 6)) * [1, 5, 1, 3, 1, 1]
    directions = channel_directions(np.cov(values.T), 2)
    assert directions.shape == (2, 6)
    np.testing.assert_allclose(np.abs(directions[[0, 1], [1, 3]]), 1, atol=0.02)


def test_a_file_of_half_precision_loses_nothing(tmp_path: Path) -> None:
    photos, edges = pairs()
    channels = rounded(np.arange(15.0).reshape(5, 3).T)  # whose memory is not in the order of its rows
    projection = fit([photos], [edges], {"pool5": channels}, 4, 0.0)
    projection.save(tmp_path / "projection.safetensors")
    again = Projection.load(tmp_path / "projection.safetensors")
    np.testing.assert_array_equal(again.shared, projection.shared)
    np.testing.assert_array_equal(again.channels["pool5"], projection.channels["pool5"])
    assert len(again.facing) == 0


def test_a_file_that_is_no_projection_is_named(tmp_path: Path) -> None:
    path = tmp_path / "projection.safetensors"
    path.write_bytes(b"x")
    with pytest.raises(PipelineError, match=r"projection.safetensors: can't be read as a projection.*dvc repro embed"):
        Projection.load(path)
