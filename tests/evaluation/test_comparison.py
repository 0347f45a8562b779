from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pipeline_lib.embedding import vectors
from pipeline_lib.embedding.alignment import FILE_NAME, Alignment, fit_pretext, of_kind
from pipeline_lib.embedding.vectors import SYSTEM, EmbeddingTable, Labels, open_retrieval
from pipeline_lib.errors import PipelineError
from pipeline_lib.evaluation.comparison import System, chance, comparison_table, measure, paired_table
from pipeline_lib.evaluation.evaluation import Evaluation, evaluate_scores, headline, metrics_dict, rankings_table
from pipeline_lib.evaluation.metrics import COLUMNS
from pipeline_lib.index.photo_index import PhotoIndex
from pipeline_lib.registry import ALIGNMENTS, TRANSDUCTIVE
from tests.support import write_system

SETTINGS = {"resamples": 200, "seed": 0}


def labels(image_ids: str, instances: str, classes: str) -> Labels:
    return Labels.of(list(image_ids), list(classes), list(instances))


def evaluation_of(instances: list[str], hits: NDArray[np.float64]) -> Evaluation:
    """An evaluation whose `instance_hit_at_5` is given."""
    queries = Labels.of([f"q{n}" for n in range(len(hits))], ["a"] * len(hits), instances)
    values = np.repeat(hits[:, None], len(COLUMNS), axis=1)
    empty = np.empty((len(hits), 0))
    return Evaluation(queries, labels("p", "p", "a"), values, hits, empty.astype(np.int64), empty.astype(np.float32))


def test_embeddings_and_their_score_matrix_give_the_same_figures(tmp_path: Path) -> None:
    system = System.read(write_system(tmp_path / "s", "s", photos=30, sketches=40, noise=1.5))
    row = measure(system, "transductive_mean", top=3)
    tables = [EmbeddingTable.open(tmp_path / "s" / f"{name}.parquet") for name in ("photos", "sketches")]
    aligned = []
    for table in tables:
        unit = table.read() / np.linalg.norm(table.read(), axis=1, keepdims=True)
        centred = unit - unit.mean(axis=0)
        aligned.append(centred / np.linalg.norm(centred, axis=1, keepdims=True))

    scores = aligned[1] @ aligned[0].T
    other = evaluate_scores(scores, tables[0].labels, tables[1].labels, top=3)
    np.testing.assert_allclose(row.evaluation.values, other.values)
    np.testing.assert_array_equal(row.evaluation.nearest, other.nearest)
    np.testing.assert_allclose(row.evaluation.scores, other.scores, atol=2e-6)


def test_sketches_of_one_photo_are_one_cluster_and_sketches_of_none_stand_alone() -> None:
    queries = Labels.of(list("uvwxyz"), ["a"] * 6, ["p", "p", "q", "", "", "x"])
    evaluation = evaluate_scores(np.zeros((6, 1)), labels("p", "p", "a"), queries)
    numbers = np.unique(evaluation.clusters, return_inverse=True)[1]
    assert numbers[0] == numbers[1]
    assert len(set(numbers.tolist())) == 5


def test_intervals_resample_the_sketches_of_one_photo_together() -> None:
    hits = np.tile([0.0, 0.0, 1.0, 1.0], 100)
    pairs, singles = ([f"p{number // size}" for number in range(400)] for size in (2, 1))
    together, apart = (evaluation_of(instances, hits).intervals(2000, 0)["map"] for instances in (pairs, singles))
    assert together.estimate == apart.estimate == 0.5
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(np.sqrt(2), rel=0.15)


def test_metrics_have_the_promised_form(tmp_path: Path) -> None:
    system = System.read(write_system(tmp_path / "s", "s", photos=30, sketches=40, noise=1.5))
    row = measure(system, "none")
    figures = metrics_dict(row.evaluation, system="s", dataset="openmoji", alignment="none", **SETTINGS)
    hits = [name for k in (1, 5, 10) for name in (f"hit_at_{k}", f"hit_at_{k}_ci95")]
    assert list(figures["instance"]) == [*hits, "mrr", "mrr_ci95", "queries"]
    assert list(figures["in_class"]) == list(figures["class"]) == [*hits, "queries"]
    assert list(figures)[3:] == [
        "map", "map_ci95", "queries", "gallery", "dataset", "system", "alignment", "diversity", "transductive",
    ]  # fmt: skip
    assert (figures["queries"], figures["gallery"], figures["transductive"]) == (40, 30, False)
    for protocol in ("instance", "in_class", "class"):
        low, high = figures[protocol]["hit_at_5_ci95"]
        assert 0 <= low <= figures[protocol]["hit_at_5"] <= high <= 1
    wanted = np.mean(row.evaluation.values[:, COLUMNS.index("instance_hit_at_5")])
    assert figures["instance"]["hit_at_5"] == round(float(wanted), 6)
    json.dumps(figures, allow_nan=False)


def test_the_headline_is_short_in_percent_and_leaves_out_what_is_not_defined(tmp_path: Path) -> None:
    system = System.read(write_system(tmp_path / "s", "s", photos=30, sketches=40, noise=1.5))
    figures = metrics_dict(measure(system, "none").evaluation, system="s", dataset="d", alignment="none", **SETTINGS)
    shown = headline(figures, 0.84249)
    assert list(shown) == ["pretext", "instance_at_1", "instance_at_5", "class_at_5", "queries", "photos"]
    assert (shown["pretext"], shown["queries"], shown["photos"]) == (84.2, 40, 30)
    assert shown["instance_at_5"] == round(100 * figures["instance"]["hit_at_5"], 1)
    without = System.read(write_system(tmp_path / "t", "t", photos=8, sketches=6, classes=0))
    bare = metrics_dict(measure(without, "none").evaluation, system="t", dataset="d", alignment="none", **SETTINGS)
    assert list(headline(bare, None)) == ["instance_at_1", "instance_at_5", "queries", "photos"]


def test_without_queries_figures_are_null_for_every_alignment(tmp_path: Path) -> None:
    system = System.read(write_system(tmp_path / "s", "s", photos=5, sketches=0))
    rows = [measure(system, kind, top=3) for kind in ALIGNMENTS]
    rows.append(chance(rows[0]))
    figures = metrics_dict(rows[0].evaluation, system="s", dataset="folder", alignment="none", **SETTINGS)
    assert (figures["queries"], figures["gallery"]) == (0, 5)
    assert figures["map"] is figures["instance"]["hit_at_5"] is None
    assert figures["class"]["hit_at_1_ci95"] == [None, None]
    table = comparison_table(rows, dataset="folder", **SETTINGS)
    assert table["map"].isna().all()
    assert table["queries"].tolist() == [0] * (len(ALIGNMENTS) + 1)
    paired = paired_table(rows[0], rows[1:], dataset="folder", **SETTINGS)
    assert paired["class_hit_at_5"].isna().all()
    assert rankings_table(rows[0].evaluation).num_rows == 0


@pytest.mark.parametrize("kind", [kind for kind in ALIGNMENTS if kind not in TRANSDUCTIVE])
def test_without_queries_the_index_that_was_built_is_still_the_right_one(tmp_path: Path, kind: str) -> None:
    system = System.read(write_system(tmp_path / "s", "s", photos=5, sketches=0))
    fit_pretext(system.folder).save(system.folder / FILE_NAME)
    photos, sketches = open_retrieval(system.folder)
    PhotoIndex.build(photos, of_kind(kind, photos, sketches), kind).save(tmp_path / "index")
    row = measure(system, kind, index=PhotoIndex.load(tmp_path / "index"), top=3)
    assert (len(row.evaluation.queries), len(row.evaluation.gallery)) == (0, 5)


def test_queries_without_classes_still_have_instance_figures(tmp_path: Path) -> None:
    system = System.read(write_system(tmp_path / "s", "s", photos=8, sketches=6, classes=0))
    figures = metrics_dict(
        measure(system, "none").evaluation, system="s", dataset="folder", alignment="none", **SETTINGS
    )
    assert figures["instance"]["hit_at_1"] is not None
    assert figures["class"] == {**dict.fromkeys(figures["class"]), **_no_intervals(figures["class"]), "queries": 0}
    assert figures["map"] is None


def _no_intervals(part: dict[str, object]) -> dict[str, list[None]]:
    return {name: [None, None] for name in part if name.endswith("_ci95")}


def test_rows_are_named_by_alignment_with_one_plain_form(tmp_path: Path) -> None:
    system = System.read(write_system(tmp_path / "s", "net", photos=5, sketches=3))
    assert measure(system, "none").name == "net"
    assert measure(system, "pretext_mean").name == "net+pretext_mean"
    assert measure(system, "pretext_mean", plain="pretext_mean").name == "net"
    assert measure(system, "none", plain="pretext_mean").name == "net+none"


def test_comparison_rows_say_what_they_are(tmp_path: Path) -> None:
    system = System.read(write_system(tmp_path / "s", "net", photos=20, sketches=10, seconds=1.23456))
    rows = [measure(system, kind) for kind in ("none", "transductive_mean")]
    table = comparison_table([*rows, chance(rows[0])], dataset="sketchy", **SETTINGS)
    assert list(table.columns) == [
        "system", "supervision", "dataset", "instance_hit_at_1", "instance_hit_at_5", "instance_hit_at_10",
        "in_class_hit_at_5", "class_hit_at_5", "class_hit_at_10", "map", "li_score_at_5", "li_score_at_10",
        "instance_hit_at_5_low", "instance_hit_at_5_high", "in_class_hit_at_5_low", "in_class_hit_at_5_high",
        "class_hit_at_5_low", "class_hit_at_5_high", "queries", "gallery", "transductive", "dim", "seconds",
        "alignment",
    ]  # fmt: skip
    assert table["system"].tolist() == ["net", "net+transductive_mean", "chance"]
    assert table["transductive"].tolist() == [False, True, False]
    assert table["instance_hit_at_5"].iloc[2] == pytest.approx(5 / 20)
    text = table.to_csv(index=False).splitlines()
    assert text[1].endswith("10,20,False,6,1.235,none")
    assert text[3].endswith("10,20,False,,,")


def test_paired_differences_meet_query_by_query_whatever_the_order(tmp_path: Path) -> None:
    ours = measure(System.read(write_system(tmp_path / "a", "ours", photos=20, sketches=30, noise=1.0)), "none")
    same = measure(
        System.read(write_system(tmp_path / "b", "same", photos=20, sketches=30, noise=1.0, shuffled=True)), "none"
    )
    worse = measure(System.read(write_system(tmp_path / "c", "worse", photos=20, sketches=30, noise=30.0)), "none")
    table = paired_table(ours, [worse, same, chance(ours)], dataset="d", **SETTINGS)
    rows = {row["against"]: row for row in table.to_dict("records")}
    ends = ("instance_hit_at_5", "instance_hit_at_5_low", "instance_hit_at_5_high")
    assert [rows["same"][name] for name in ends] == [0.0, 0.0, 0.0]
    assert rows["worse"]["instance_hit_at_5_low"] > 0
    hit = COLUMNS.index("class_hit_at_5")
    wanted = ours.evaluation.values[:, hit].mean() - worse.evaluation.values[:, hit].mean()
    assert rows["worse"]["class_hit_at_5"] == pytest.approx(wanted, abs=1e-6)


def test_the_untrained_network_under_our_alignment_comes_first(tmp_path: Path) -> None:
    systems = [
        System.read(write_system(tmp_path / n, n, photos=5, sketches=4)) for n in ("ours", "hog", "ours-untrained")
    ]
    ours, *others = [
        measure(system, kind, plain="pretext_mean" if system.name == "ours" else "none")
        for system in systems
        for kind in ("pretext_mean", "none")
    ]
    table = paired_table(ours, [*others, chance(ours)], dataset="d", **SETTINGS)
    assert table["against"].tolist()[:2] == ["ours-untrained+pretext_mean", "hog+pretext_mean"]
    assert table["same_alignment"].tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize(("photos", "sketches"), [(20, 29), (19, 30)])
def test_systems_on_other_images_are_not_compared(tmp_path: Path, photos: int, sketches: int) -> None:
    ours = measure(System.read(write_system(tmp_path / "a", "ours", photos=20, sketches=30)), "none")
    other = measure(System.read(write_system(tmp_path / "b", "other", photos=photos, sketches=sketches)), "none")
    with pytest.raises(PipelineError, match=r"b: holds other images"):
        paired_table(ours, [other], dataset="d", **SETTINGS)


def test_an_index_of_another_alignment_is_refused(tmp_path: Path) -> None:
    system = System.read(write_system(tmp_path / "s", "s", photos=5, sketches=4))
    photos = EmbeddingTable.open(tmp_path / "s" / "photos.parquet")
    PhotoIndex.build(photos, Alignment(6), "none").save(tmp_path / "index")
    index = PhotoIndex.load(tmp_path / "index")
    with pytest.raises(PipelineError, match="index: was built with alignment none"):
        measure(system, "pretext_mean", index=index)
    assert measure(system, "none", index=index).evaluation.values.shape == (4, len(COLUMNS))


def test_an_index_of_other_embeddings_is_refused_though_dimension_and_photos_agree(tmp_path: Path) -> None:
    ours, other = (System.read(write_system(tmp_path / name, name, photos=5, sketches=4)) for name in "ab")
    photos = EmbeddingTable.open(tmp_path / "a" / "photos.parquet")
    PhotoIndex.build(photos, Alignment(6), "none", made_by=ours.made_by).save(tmp_path / "index")
    index = PhotoIndex.load(tmp_path / "index")
    assert measure(ours, "none", index=index).evaluation.values.shape == (4, len(COLUMNS))
    with pytest.raises(PipelineError, match="index: was built from other embeddings"):
        measure(other, "none", index=index)


def test_a_table_that_was_not_made_with_the_others_of_its_folder_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        folder = write_system(tmp_path / name, name, photos=5, sketches=4, noise=1.0 if name == "a" else 2.0)
        record = json.loads((folder / SYSTEM).read_text(encoding="utf-8"))
        vectors.write_system(folder, record)
        assert System.read(folder).name == name
    (tmp_path / "b/sketches.parquet").replace(tmp_path / "a/sketches.parquet")
    with pytest.raises(
        PipelineError, match=r"a/sketches\.parquet: is damaged, or was not made with the files beside it"
    ):
        System.read(tmp_path / "a")


def test_a_finished_index_and_one_built_in_memory_agree(tmp_path: Path) -> None:
    system = System.read(write_system(tmp_path / "s", "s", photos=40, sketches=30, noise=2.0))
    photos = EmbeddingTable.open(tmp_path / "s" / "photos.parquet")
    PhotoIndex.build(photos, Alignment(6), "none").save(tmp_path / "index")
    finished = measure(system, "none", index=PhotoIndex.load(tmp_path / "index"))
    np.testing.assert_array_equal(finished.evaluation.values, measure(system, "none").evaluation.values)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"alignments": ["none", "magic"]}, "magic"), ({"seconds": "soon"}, "soon"), ({"alignments": None}, "alignments")],
)
def test_a_record_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    folder = write_system(tmp_path / "s", "s", photos=2, sketches=2)
    path = folder / "system.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(PipelineError, match=rf"system\.json.*{words}"):
        System.read(folder)


def test_rankings_hold_the_nearest_photos_and_the_place_of_the_one_meant() -> None:
    gallery, queries = labels("abc", "abc", "xxx"), labels("QRS", "cz ", "xxx")
    queries = Labels.of(queries.image_ids, queries.class_names, ["c", "z", ""])
    scores = np.array([[0.1, 0.3, 0.2], [0.3, 0.2, 0.1], [0.0, 0.0, 0.0]])
    frame: pd.DataFrame = rankings_table(evaluate_scores(scores, gallery, queries, top=2)).to_pandas()
    assert frame["image_id"].tolist() == ["Q", "R", "S"]
    assert [list(names) for names in frame["neighbours"]] == [["b", "c"], ["a", "b"], ["a", "b"]]
    np.testing.assert_allclose(frame["scores"][0], [0.3, 0.2], rtol=1e-6)
    assert frame["place"].iloc[0] == 2
    assert frame["place"].iloc[1:].isna().all()
