from pathlib import Path

import numpy as np
import pytest

from experiments.rerank import expanded, jaccard, measure
from experiments.study import Finished
from tests.experiments.test_together import network

SCORES = np.array([[0.9, 0.2, 0.3, 0.1]], np.float32)
# Photos 0 and 1 are alike, as are 2 and 3.
ALIKE = np.array([[1, 0.8, 0, 0], [0.8, 1, 0, 0], [0, 0, 1, 0.9], [0, 0, 0.9, 1]], np.float32)


def test_a_photo_like_the_one_found_first_comes_before_one_that_is_not() -> None:
    found = expanded(SCORES, ALIKE, 1, 0.5)
    assert found[0] == pytest.approx([0.9 + 0.5, 0.2 + 0.4, 0.3, 0.1])
    assert np.argsort(-found[0])[1] == 1


def test_a_weight_of_0_leaves_the_scores() -> None:
    assert np.array_equal(expanded(SCORES, ALIKE, 2, 0.0), SCORES)


def test_jaccard_is_the_overlap_of_weighted_mutual_neighbours() -> None:
    found = jaccard(SCORES, ALIKE, 2)
    # The drawing finds photo 0 and takes over its code: 1 and exp(-0.2), over their sum.
    own, other = 1 / (1 + np.exp(-0.2)), np.exp(-0.2) / (1 + np.exp(-0.2))
    assert found[0] == pytest.approx([1, 2 * other / (2 * own), 0, 0])


def test_neighbours_that_are_not_mutual_do_not_count() -> None:
    # Photo 2 is nearest to 0, but 0 has 1 nearer.
    alike = np.array([[1, 0.9, 0.5], [0.9, 1, 0.1], [0.5, 0.1, 1]], np.float32)
    found = jaccard(np.array([[0.1, 0.1, 0.9]], np.float32), alike, 2)
    assert found[0] == pytest.approx([0, 0, 1])


def test_every_setting_is_measured_on_every_part(tmp_path: Path) -> None:
    network(tmp_path / "one" / "embeddings", np.random.default_rng(0).standard_normal((20, 8)), 0, noise=1.0)
    found = list(measure(Finished.open("one", tmp_path)))
    assert len(found) == 3 * (1 + 9 + 6)
    assert {row["gallery"] for row in found} == {10, 20}
