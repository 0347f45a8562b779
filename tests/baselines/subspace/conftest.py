from __future__ import annotations

import numpy as np
import pytest

from tests.baselines.subspace.scores import Planted


@pytest.fixture(scope="session")
def planted() -> Planted:
    """400 pairs of 8 classes: 6 hidden numbers, mixed into 30 and 25 dimensions of which 12 are unrelated noise."""
    rng = np.random.default_rng(0)
    count, hidden = 400, 6
    labels = rng.integers(0, 8, count)
    content = rng.normal(size=(8, hidden))[labels] + 0.5 * rng.normal(size=(count, hidden))
    views = []
    for width in (30, 25):
        quiet = content @ rng.normal(size=(hidden, width - 12)) + 0.3 * rng.normal(size=(count, width - 12))
        values = np.hstack([quiet, 4.0 * rng.normal(size=(count, 12))])
        views.append(values @ np.linalg.qr(rng.normal(size=(width, width)))[0] + rng.normal(size=width))
    return Planted(views[0], views[1], labels.astype(np.int64))
