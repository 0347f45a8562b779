from __future__ import annotations

import numpy as np
import pytest

from pipeline_lib.baselines.subspace import choose as module
from pipeline_lib.baselines.subspace.choose import METHODS, Examples, choose, reciprocal_rank
from pipeline_lib.baselines.subspace.projection import Projections, Reduction, Side
from pipeline_lib.embedding.vectors import Labels
from tests.baselines.subspace.scores import Planted


@pytest.fixture(scope="module")
def examples(planted: Planted) -> Examples:
    """120 photos with two sketches each: the second is of the same photo, seen again in noise."""
    rng = np.random.default_rng(9)
    photos = planted.photos[:120]
    sketches = np.repeat(planted.sketches[:120], 2, axis=0) + 0.2 * rng.normal(size=(240, planted.sketches.shape[1]))
    classes = [f"class{label}" for label in planted.labels[:120]]
    ids = [f"p{number:03d}" for number in range(120)]
    drawn = np.repeat(ids, 2).tolist()
    return Examples(
        photos,
        Labels.of(ids, classes, ids),
        sketches,
        Labels.of([f"s{number}" for number in range(240)], np.repeat(classes, 2).tolist(), drawn),
    )


def test_sketches_point_at_the_rows_of_their_photos(examples: Examples) -> None:
    part = examples.of_photos(frozenset({"p003", "p007"}))
    assert part.photo_labels.image_ids.tolist() == ["p003", "p007"]
    assert part.drawn.tolist() == [0, 0, 1, 1]
    assert np.array_equal(part.sketches, examples.sketches[[6, 7, 14, 15]])


def test_class_numbers_are_one_numbering_for_both_domains(examples: Examples) -> None:
    photos, sketches = examples.classes()
    assert (photos[examples.drawn] == sketches).all()


def test_reciprocal_rank_of_known_places() -> None:
    whole = Projections(Side(np.zeros(2), np.eye(2)), Side(np.zeros(2), np.eye(2)))
    photos = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    sketches = np.array([[1.0, 0.1], [1.0, 0.1]])
    labels = Labels.of(["a", "b", "c"], [""] * 3, ["a", "b", "c"])
    drawn = Labels.of(["s", "t"], [""] * 2, ["a", "c"])
    assert reciprocal_rank(whole, Examples(photos, labels, sketches, drawn)) == pytest.approx((1 + 1 / 3) / 2)


def test_a_projection_that_sends_all_to_one_point_counts_as_lost(examples: Examples) -> None:
    nothing = Projections(Side(np.zeros(30), np.zeros((30, 2))), Side(np.zeros(25), np.zeros((25, 2))))
    assert reciprocal_rank(nothing, examples) == pytest.approx(1 / 120)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_beats_its_own_fit_on_shuffled_training_pairs(
    name: str, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DIMENSIONS", (20,))
    test = frozenset(f"p{number:03d}" for number in range(90, 120))
    train = examples.of_photos(frozenset(examples.photo_labels.image_ids.tolist()) - test)
    order = np.random.default_rng(1).permutation(len(train.sketches))
    shuffled = Examples(train.photos, train.photo_labels, train.sketches[order], train.sketch_labels)
    reduction = Reduction.fit(train.photos.astype(np.float32), train.sketches.astype(np.float32), 20)
    scores = []
    for data in (train, shuffled):
        chosen = choose(METHODS[name], data, reduction)
        assert chosen.dimensions == 20
        assert chosen.tried >= len(METHODS[name].settings)
        scores.append(
            reciprocal_rank(chosen.projections, examples.of_photos(test).reduced(reduction, chosen.dimensions))
        )
    assert scores[0] > 1.5 * scores[1]


def test_settings_are_chosen_without_the_photos_that_are_fitted(examples: Examples) -> None:
    seen: list[frozenset[str]] = []

    def fit(data: Examples, components: int) -> Projections:
        seen.append(frozenset(data.photo_labels.image_ids.tolist()))
        widths = data.photos.shape[1], data.sketches.shape[1]
        return Projections(*(Side(np.zeros(width), np.eye(width)[:, :components]) for width in widths))

    reduction = Reduction.fit(examples.photos.astype(np.float32), examples.sketches.astype(np.float32), 20)
    chosen = choose(module.Method("pairs", fit, components=(2, 4)), examples, reduction)
    everything = frozenset(examples.photo_labels.image_ids.tolist())
    assert seen[-1] == everything
    assert all(len(ids) < 0.9 * len(everything) for ids in seen[:-1])
    assert chosen.settings["components"] in (2, 4)
