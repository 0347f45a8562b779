from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from pipeline_lib.embedding.vectors import Labels
from pipeline_lib.evaluation.metrics import COLUMNS, Ranks, Truth, Values, expected_by_chance, find_ranks
from pipeline_lib.index import ranking
from pipeline_lib.index.ranking import rank_scores


def gallery_of(classes: str) -> Labels:
    """Photos p0, p1, ... of one-letter classes; a space is no class."""
    ids = [f"p{n}" for n in range(len(classes))]
    return Labels.of(ids, [name.strip() for name in classes], ids)


def queries_of(*pairs: tuple[str, str]) -> Labels:
    """Queries of (instance_id, class_name)."""
    instances, classes = zip(*pairs, strict=True) if pairs else ((), ())
    return Labels.of([f"q{n}" for n in range(len(pairs))], classes, instances)


def measure(scores: NDArray[np.floating], gallery: Labels, queries: Labels) -> tuple[Ranks, dict[str, Values]]:
    truth = Truth.of(queries, gallery)
    ranks = find_ranks(rank_scores(np.asarray(scores, float), gallery.image_ids), truth)
    return ranks, dict(zip(COLUMNS, ranks.values(truth).T, strict=True))


def random_case(seed: int, photos: int = 40, queries: int = 60, classes: int = 5) -> tuple[Labels, Labels, Values]:
    rng = np.random.default_rng(seed)
    gallery = gallery_of("".join(chr(97 + c) for c in rng.integers(0, classes, photos)))
    meant = rng.integers(0, photos, queries)
    sketches = queries_of(*((f"p{n}", str(gallery.class_names[n])) for n in meant))
    return gallery, sketches, rng.standard_normal((queries, photos))


def test_a_ranking_worked_by_hand() -> None:
    # Order of the photos: p2 (b), p0 (a), p3 (a), p1 (b), p4 (a). Meant is p3, class a.
    ranks, values = measure(np.array([[0.8, 0.2, 0.9, 0.5, 0.1]]), gallery_of("abbaa"), queries_of(("p3", "a")))
    assert (ranks.instance[0], ranks.in_class[0], ranks.first_of_class[0]) == (3, 2, 2)
    assert ranks.average_precision[0] == pytest.approx((1 / 2 + 2 / 3 + 3 / 5) / 3)
    hits = {name: float(value[0]) for name, value in values.items() if "hit" in name}
    assert hits == {
        "instance_hit_at_1": 0, "instance_hit_at_5": 1, "instance_hit_at_10": 1,
        "in_class_hit_at_1": 0, "in_class_hit_at_5": 1, "in_class_hit_at_10": 1,
        "class_hit_at_1": 0, "class_hit_at_5": 1, "class_hit_at_10": 1,
    }  # fmt: skip
    assert values["instance_mrr"][0] == pytest.approx(1 / 3)


def test_hits_stop_exactly_at_k() -> None:
    scores = -np.arange(12.0)[None, :].repeat(12, axis=0)
    _, values = measure(scores, gallery_of("a" * 12), queries_of(*((f"p{n}", "a") for n in range(12))))
    for k in (1, 5, 10):
        assert values[f"instance_hit_at_{k}"].tolist() == [1.0] * k + [0.0] * (12 - k)
        assert values[f"in_class_hit_at_{k}"].tolist() == [1.0] * k + [0.0] * (12 - k)
    assert values["class_hit_at_1"].tolist() == [1.0] * 12


def test_ties_break_by_image_id() -> None:
    ids = ["b", "c", "a"]
    gallery = Labels.of(ids, ["x"] * 3, ids)
    ranks, _ = measure(np.zeros((3, 3)), gallery, Labels.of(["1", "2", "3"], ["x"] * 3, ["a", "b", "c"]))
    assert ranks.instance.tolist() == [1, 2, 3]


def test_a_partner_that_the_gallery_lacks_is_a_miss() -> None:
    ranks, values = measure(np.eye(3)[:1], gallery_of("abc"), queries_of(("elsewhere", "a")))
    assert ranks.instance[0] == ranks.in_class[0] == np.inf
    assert values["instance_hit_at_10"][0] == values["in_class_hit_at_10"][0] == values["instance_mrr"][0] == 0
    assert values["class_hit_at_1"][0] == values["map"][0] == 1


def test_a_partner_of_another_class_is_a_miss_within_the_class_only() -> None:
    _, values = measure(np.eye(3)[:1], gallery_of("abc"), queries_of(("p0", "b")))
    assert values["instance_hit_at_1"][0] == 1
    assert values["in_class_hit_at_10"][0] == 0
    assert values["class_hit_at_1"][0] == 0


def test_a_class_that_the_gallery_lacks_is_a_miss() -> None:
    _, values = measure(np.eye(3)[:1], gallery_of("ab "), queries_of(("p0", "z")))
    assert values["class_hit_at_10"][0] == values["map"][0] == values["in_class_hit_at_10"][0] == 0


def test_queries_without_a_label_are_left_out_where_it_is_needed() -> None:
    _, values = measure(np.eye(3)[[0, 0]], gallery_of("ab "), queries_of(("p0", ""), ("", "a")))
    for name, (no_class, no_instance) in values.items():
        wanted = {"instance": (False, True), "in_class": (True, True)}.get(
            "in_class" if name.startswith("in_class") else name.partition("_")[0], (True, False)
        )
        assert (np.isnan(no_class), np.isnan(no_instance)) == wanted, name
    assert values["instance_hit_at_1"][0] == 1
    assert values["class_hit_at_1"][1] == 1


def test_photos_without_a_class_belong_to_none() -> None:
    # Two photos have no class; neither may count for the query that has none, or for any other.
    _, values = measure(np.array([[3.0, 2.0, 1.0]]), gallery_of("  a"), queries_of(("p2", "a")))
    assert values["in_class_hit_at_1"][0] == 1
    assert values["map"][0] == pytest.approx(1 / 3)


def test_a_gallery_of_one() -> None:
    _, values = measure(np.array([[-1.0], [0.5]]), gallery_of("a"), queries_of(("p0", "a"), ("gone", "a")))
    assert {name: float(value[0]) for name, value in values.items()} == dict.fromkeys(COLUMNS, 1.0)
    assert values["instance_hit_at_1"][1] == 0
    assert values["class_hit_at_1"][1] == 1


def test_an_empty_gallery_gives_misses_and_no_queries_give_nothing() -> None:
    _, values = measure(np.empty((1, 0)), gallery_of(""), queries_of(("p0", "a")))
    assert all(value[0] == 0 for value in values.values())
    _, values = measure(np.empty((0, 3)), gallery_of("abc"), queries_of())
    assert all(len(value) == 0 for value in values.values())


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_scikit_learn(seed: int) -> None:
    gallery, queries, scores = random_case(seed, photos=120, classes=4)
    _, values = measure(scores, gallery, queries)
    wanted = [
        average_precision_score(gallery.class_names == name, row)
        for name, row in zip(queries.class_names, scores.astype(np.float32), strict=True)
    ]
    np.testing.assert_allclose(values["map"], wanted, rtol=1e-12)


def test_figures_equal_ranx(monkeypatch: pytest.MonkeyPatch) -> None:
    # As plain Python it takes a second or two; compiled, half a minute.
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    from ranx import Qrels, Run, evaluate

    gallery, queries, scores = random_case(7, photos=30, queries=25)
    _, values = measure(scores, gallery, queries)
    ids = gallery.image_ids.tolist()
    run = Run({q: dict(zip(ids, row, strict=True)) for q, row in zip(queries.image_ids.tolist(), scores, strict=True)})
    of_class, instance = {}, {}
    for number, query in enumerate(queries.image_ids.tolist()):
        same = gallery.class_names == queries.class_names[number]
        of_class[query] = dict.fromkeys(gallery.image_ids[same].tolist(), 1)
        instance[query] = {str(queries.instance_ids[number]): 1}
    wanted = ["hit_rate@1", "hit_rate@5", "hit_rate@10", "mrr", "map"]
    by_class = evaluate(Qrels(of_class), run, wanted, make_comparable=True)
    by_instance = evaluate(Qrels(instance), run, wanted, make_comparable=True)
    for k in (1, 5, 10):
        assert np.mean(values[f"class_hit_at_{k}"]) == pytest.approx(by_class[f"hit_rate@{k}"])
        assert np.mean(values[f"instance_hit_at_{k}"]) == pytest.approx(by_instance[f"hit_rate@{k}"])
    assert np.mean(values["map"]) == pytest.approx(by_class["map"])
    assert np.mean(values["instance_mrr"]) == pytest.approx(by_instance["mrr"])


def test_in_class_equals_ranking_that_part_of_the_gallery_alone() -> None:
    gallery, queries, scores = random_case(1)
    ranks, _ = measure(scores, gallery, queries)
    for number, name in enumerate(queries.class_names):
        rows = np.flatnonzero(gallery.class_names == name)
        alone, _ = measure(scores[number : number + 1, rows], gallery.take(rows), queries.take(np.array([number])))
        assert alone.instance[0] == ranks.in_class[number]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_figures_are_ordered_as_their_definitions_demand(seed: int) -> None:
    gallery, queries, scores = random_case(seed, photos=15, queries=8, classes=3)
    ranks, values = measure(np.round(scores, 0), gallery, queries)
    assert (ranks.first_of_class <= ranks.instance).all()
    assert (ranks.in_class <= ranks.instance).all()
    for protocol in ("instance", "in_class", "class"):
        hits = [values[f"{protocol}_hit_at_{k}"] for k in (1, 5, 10)]
        assert (hits[0] <= hits[1]).all()
        assert (hits[1] <= hits[2]).all()
    assert ((values["map"] > 0) & (values["map"] <= 1)).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, queries, scores = random_case(2)
    _, whole = measure(scores, gallery, queries)
    monkeypatch.setattr(ranking, "BLOCK_SCORES", 7 * len(gallery))
    _, parts = measure(scores, gallery, queries)
    np.testing.assert_array_equal(list(parts.values()), list(whole.values()))


def test_rankings_must_cover_all_queries_and_the_whole_gallery() -> None:
    gallery, queries, scores = random_case(0)
    truth = Truth.of(queries, gallery)
    with pytest.raises(ValueError, match="59 queries"):
        find_ranks(rank_scores(scores[:-1], gallery.image_ids), truth)
    with pytest.raises(ValueError, match="39 photos"):
        find_ranks(rank_scores(scores[:, :-1], gallery.image_ids[:-1]), truth)


def test_chance_equals_the_mean_of_random_orders() -> None:
    gallery = gallery_of("aaaaaaaabbbc ")
    queries = queries_of(("p0", "a"), ("p8", "b"), ("p11", "c"), ("gone", "b"), ("p1", "c"), ("p12", ""), ("p0", "z"))
    truth = Truth.of(queries, gallery)
    rng = np.random.default_rng(0)
    draws = 20_000
    total = np.zeros((len(queries), len(COLUMNS)))
    for _ in range(10):
        scores = rng.random((draws // 10 * len(queries), len(gallery)))
        target, query_class = (np.tile(part, draws // 10) for part in (truth.target, truth.query_class))
        many = Truth(target, query_class, truth.gallery_class)
        values = find_ranks(rank_scores(scores, gallery.image_ids), many).values(many)
        total += values.reshape(-1, len(queries), len(COLUMNS)).sum(axis=0)
    np.testing.assert_allclose(expected_by_chance(truth), total / draws, atol=4 * 0.5 / np.sqrt(draws))


def test_chance_by_hand() -> None:
    chance = dict(
        zip(COLUMNS, expected_by_chance(Truth.of(queries_of(("p0", "a")), gallery_of("aabbbb"))).T, strict=True)
    )
    assert chance["instance_hit_at_1"][0] == pytest.approx(1 / 6)
    assert chance["instance_hit_at_5"][0] == pytest.approx(5 / 6)
    assert chance["instance_hit_at_10"][0] == 1
    assert chance["in_class_hit_at_1"][0] == pytest.approx(1 / 2)
    assert chance["in_class_hit_at_5"][0] == 1
    assert chance["class_hit_at_1"][0] == pytest.approx(2 / 6)
    assert chance["class_hit_at_5"][0] == 1
    five_others = expected_by_chance(Truth.of(queries_of(("p0", "a")), gallery_of("aabbbbb")))[0]
    assert five_others[COLUMNS.index("class_hit_at_5")] == pytest.approx(1 - 1 / 21)


@pytest.mark.parametrize("classes", ["a", "b", ""])
def test_chance_in_galleries_of_one_and_none(classes: str) -> None:
    values = expected_by_chance(Truth.of(queries_of(("p0", "a")), gallery_of(classes)))[0]
    assert np.isfinite(values).all()
    assert values[COLUMNS.index("class_hit_at_1")] == (classes == "a")
    assert values[COLUMNS.index("instance_hit_at_1")] == (classes != "")
    assert values[COLUMNS.index("map")] == (classes == "a")
