from pathlib import Path

import numpy as np

from experiments.diversity import WEIGHTS, measure
from experiments.study import Finished
from tests.experiments.test_together import network


def test_every_weight_is_measured_on_every_part_and_a_weight_of_0_is_the_row_itself(tmp_path: Path) -> None:
    content = np.random.default_rng(0).standard_normal((20, 8))
    network(tmp_path / "one" / "embeddings", content, 0, noise=1.0)
    found = list(measure(Finished.open("one", tmp_path)))
    assert [row["weight"] for row in found] == list(WEIGHTS) * 3
    whole = [row for row in found if row["dataset"] == "sketchy"]
    # The first photo stays the first.
    assert len({row["instance_hit_at_1"] for row in whole}) == 1
    assert {row["gallery"] for row in found} == {10, 20}
