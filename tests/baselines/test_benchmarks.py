"""Which photos are searched, and with which sketches, under each protocol."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from PIL import Image

from pipeline_lib import params
from pipeline_lib.baselines import benchmarks as bench
from pipeline_lib.baselines.measure import NAMES, chance, oracle, sides
from pipeline_lib.baselines.system import Benchmark
from pipeline_lib.baselines.tables import with_li_parts
from pipeline_lib.data.li2014 import SOURCE_CLASSES
from pipeline_lib.data.randomness import held_out
from pipeline_lib.data.schemas import CATALOG, write_rows
from pipeline_lib.errors import PipelineError
from pipeline_lib.run import Run
from tests.conftest import catalog_frame

TX = "tx_000000000000"
MORE = ("bird", "bus", "person", "table")
PHOTOS, SKETCHES = 7, 6


def photo(class_name: str, number: int) -> str:
    return f"sketchy/photo/{class_name}/n{number}"


def sketchy_rows() -> list[dict[str, str]]:
    """Two classes of 12 photos; the first ten are drawn, the even ones twice. Besides, a pretext photo."""
    rows = [{"image_id": "voc/1", "path": "voc/1.jpg"}]
    for class_name in ("zebra", "apple"):
        for number in range(12):
            name = photo(class_name, number)
            rows.append({"image_id": name, "role": "gallery", "class_name": class_name, "instance_id": name})
            rows += [
                {
                    "image_id": f"sketchy/sketch/{class_name}/n{number}-{copy + 1}",
                    "role": "query",
                    "domain": "sketch",
                    "class_name": class_name,
                    "instance_id": name,
                }
                for copy in range(0 if number > 9 else 2 - number % 2)
            ]
    return [{"path": "", "split": "test", "content": row["image_id"], **row} for row in rows]


@pytest.fixture
def run_of(tmp_path: Path, make_params: Callable[..., params.Params]) -> Callable[..., Run]:
    """A finished run with a catalog of the given rows; nothing else of it is read here."""

    def make(dataset: str, rows: list[dict[str, str]]) -> Run:
        frame = catalog_frame(rows)
        write_rows(tmp_path / "run" / "catalog.parquet", frame.to_dict("records"), CATALOG)  # type: ignore[arg-type]  # columns are strings
        changes = {"catalog.dataset": dataset, "catalog.root": str(tmp_path)}
        return Run(tmp_path / "run", make_params(changes), tmp_path)

    return make


@pytest.fixture
def drawn(run_of: Callable[..., Run], tmp_path: Path) -> Callable[[], Benchmark]:
    return lambda: bench.sketchy([run_of("voc_sketchy", sketchy_rows())], tmp_path)


def parts(benchmark: Benchmark) -> dict[str, tuple[set[str], set[str]]]:
    """Photos and sketches of each part."""
    found = {part.name: sides(benchmark, part) for part in benchmark.parts}
    return {name: tuple(set(side.image_ids.tolist()) for side in both) for name, both in found.items()}  # type: ignore[misc]


def test_sketchy_is_everything_in_the_order_of_image_id(drawn: Callable[[], Benchmark]) -> None:
    benchmark = drawn()
    assert (len(benchmark.gallery), len(benchmark.queries)) == (24, 30)
    for frame in (benchmark.gallery, benchmark.queries):
        assert frame["image_id"].is_monotonic_increasing
    whole = parts(benchmark)["sketchy"]
    assert (len(whole[0]), len(whole[1])) == (24, 30)
    assert [(part.name, part.unseen) for part in benchmark.parts] == [
        ("sketchy", False), ("sketchy_test", True), ("sketchy_test_unseen", True),
    ]  # fmt: skip


def test_the_test_part_is_a_fifth_of_each_class_by_hash_and_its_sketches(drawn: Callable[[], Benchmark]) -> None:
    benchmark = drawn()
    photos, sketches = parts(benchmark)["sketchy_test"]
    expected = {
        name
        for class_name in ("apple", "zebra")
        for name in held_out([(photo(class_name, number), class_name) for number in range(10)])
    }
    assert photos == expected
    assert sorted(name.split("/")[2] for name in photos) == ["apple"] * 2 + ["zebra"] * 2
    depicts = dict(zip(benchmark.queries["image_id"], benchmark.queries["instance_id"], strict=True))
    assert sketches == {name for name, instance in depicts.items() if instance in photos}


def test_what_supervised_systems_learn_from_is_in_no_part_that_they_are_measured_on(
    drawn: Callable[[], Benchmark],
) -> None:
    benchmark = drawn()
    learned = set(benchmark.training.photos["image_id"]), set(benchmark.training.sketches["image_id"])
    assert set(benchmark.training.sketches["instance_id"]) == learned[0]
    assert len(learned[0]) == 16
    for part in benchmark.parts:
        if part.unseen:
            assert not learned[0] & part.gallery
            assert not learned[1] & part.queries
    found = parts(benchmark)
    # Every sketch is learned from or tested with; undrawn photos are searched though nothing depicts them.
    assert learned[1] | found["sketchy_test"][1] == set(benchmark.queries["image_id"])
    assert found["sketchy_test_unseen"][1] == found["sketchy_test"][1]
    undrawn = {photo(class_name, number) for class_name in ("apple", "zebra") for number in (10, 11)}
    assert found["sketchy_test_unseen"][0] == found["sketchy_test"][0] | undrawn


@pytest.mark.parametrize("place", bench.TEST_LISTS)
def test_the_community_list_makes_a_part_whose_photos_are_not_learned_from(
    drawn: Callable[[], Benchmark], tmp_path: Path, place: str
) -> None:
    before = set(drawn().training.photos["image_id"])
    listed = sorted(before)[:3]
    (tmp_path / place).parent.mkdir(parents=True)
    lines = [f"{name.removeprefix('sketchy/photo/')}.jpg" for name in listed]
    (tmp_path / place).write_text("\n".join([*lines, "zebra/not_here.jpg"]) + "\n", encoding="utf-8")
    benchmark = drawn()
    photos, sketches = parts(benchmark)["sketchy_community_test"]
    assert photos == set(listed)
    assert sketches == set(benchmark.queries.loc[benchmark.queries["instance_id"].isin(listed), "image_id"])
    assert set(benchmark.training.photos["image_id"]) == before - set(listed)
    # The parts that were there before keep their queries; what is no longer learned from may now be searched.
    assert parts(benchmark)["sketchy_test_unseen"][0] >= set(listed)
    assert benchmark.parts[-1].unseen


def test_a_list_that_names_no_photo_is_refused(drawn: Callable[[], Benchmark], tmp_path: Path) -> None:
    (tmp_path / "sketchy").mkdir()
    (tmp_path / "sketchy" / "testset.txt").write_text("photos/n1.jpg\n", encoding="utf-8")
    with pytest.raises(PipelineError, match=r"testset\.txt: names no photo.*class/name\.jpg"):
        drawn()


def test_openmoji_asks_for_the_instance_alone_and_leaves_nothing_to_learn_from(
    run_of: Callable[..., Run],
) -> None:
    rows = [
        {"image_id": f"openmoji/{kind}/{n}", "role": role, "domain": domain, "path": "", "class_name": f"{n}",
         "instance_id": f"openmoji/photo/{n}", "split": "test"}
        for n in range(8)
        for kind, role, domain in (("photo", "gallery", "photo"), ("sketch", "query", "sketch"))
    ]  # fmt: skip
    benchmark = bench.openmoji([run_of("openmoji", rows)])
    assert not len(benchmark.training.photos)
    assert not len(benchmark.training.sketches)
    (row,) = [chance(benchmark, part) for part in benchmark.parts]
    assert (row.gallery, len(row.queries)) == (8, 8)
    told = {name for name, values in zip(NAMES, row.values.T, strict=True) if not np.isnan(values).all()}
    assert told == {"instance_hit_at_1", "instance_hit_at_5", "instance_hit_at_10", "instance_mrr"}


def test_a_run_that_is_not_there_is_named(run_of: Callable[..., Run], tmp_path: Path) -> None:
    run = replace(run_of("voc_sketchy", sketchy_rows()), folder=tmp_path / "nowhere")
    with pytest.raises(PipelineError, match=r"nowhere.catalog\.parquet: can't be read"):
        bench.sketchy([run], tmp_path)


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """Li 2014 in its layout: 14 classes; people like best what comes first, by each class's own measure."""
    classes = (*SOURCE_CLASSES, *MORE)
    table = np.empty((len(classes), 2), object)
    for row, class_name in enumerate(classes):
        for side in ("img", "cropped", "sketch"):
            folder = tmp_path / "li2014" / "images" / class_name / side
            folder.mkdir(parents=True)
            for number in range(SKETCHES if side == "sketch" else PHOTOS):
                Image.new("L", (4, 6), 255 if side == "img" else 0).save(folder / f"2008_{number:06d}.png")
        values = np.random.default_rng(row).integers(0, 3, (PHOTOS, 4 * SKETCHES)).astype(np.uint8)
        table[row] = values, np.array([class_name])
    (tmp_path / "li2014" / "ratings").mkdir()
    scipy.io.savemat(str(tmp_path / "li2014" / "ratings" / "Ratings.mat"), {"rating": table})
    return tmp_path


def li(root: Path, drawn: Callable[[], Benchmark], side: str = "cropped") -> Benchmark:
    return bench.li2014(root, side, drawn().training)  # type: ignore[arg-type]


def test_li_2014_has_ten_or_fourteen_classes_and_six_or_the_last_three_sketches(
    drawn: Callable[[], Benchmark], rated: Path
) -> None:
    benchmark = li(rated, drawn)
    (part,) = benchmark.parts
    assert (len(part.gallery), len(part.queries), part.unseen) == (14 * PHOTOS, 14 * SKETCHES, True)
    for row in (chance(benchmark, part), oracle(benchmark, part)):
        found = {each.dataset: each.queries for each in with_li_parts([row])}
        assert {name: len(labels) for name, labels in found.items()} == {
            "li2014": 60, "li2014_last3": 30, "li2014_14": 84, "li2014_14_last3": 42,
        }  # fmt: skip
        for name, labels in found.items():
            assert set(labels.class_names) == ({*SOURCE_CLASSES, *MORE} if "14" in name[6:] else set(SOURCE_CLASSES))
            numbers = {image_id[-1] for image_id in labels.image_ids}
            assert numbers == set("345" if name.endswith("last3") else "012345")


def test_ratings_stand_within_classes_and_nowhere_else(drawn: Callable[[], Benchmark], rated: Path) -> None:
    benchmark = li(rated, drawn)
    assert benchmark.ratings is not None
    same = benchmark.queries["class_name"].to_numpy(str)[:, None] == benchmark.gallery["class_name"].to_numpy(str)
    assert np.array_equal(~np.isnan(benchmark.ratings), same)
    rows, columns = (frame["class_name"].to_numpy(str) == "cow" for frame in (benchmark.queries, benchmark.gallery))
    given = np.random.default_rng(SOURCE_CLASSES.index("cow")).integers(0, 3, (PHOTOS, 4 * SKETCHES))
    expected = given.reshape(PHOTOS, SKETCHES, 4).sum(axis=2).T
    assert np.array_equal(benchmark.ratings[np.ix_(rows, columns)], expected)


def test_cut_and_whole_photos_bear_the_same_names_and_other_pixels(drawn: Callable[[], Benchmark], rated: Path) -> None:
    cut, whole = li(rated, drawn), li(rated, drawn, "img")
    assert (cut.name, whole.name) == ("li2014", "li2014_img")
    assert cut.gallery["image_id"].tolist() == whole.gallery["image_id"].tolist()
    pd.testing.assert_frame_equal(cut.queries, whole.queries)
    assert np.array_equal(cut.ratings, whole.ratings, equal_nan=True)  # type: ignore[arg-type]
    brightness = [
        benchmark.source.load(benchmark.gallery["path"][0], "photo", benchmark.gallery["image_id"][0]).mean()
        for benchmark in (cut, whole)
    ]
    assert brightness == [0, 255]


def test_li_2014_that_is_not_there_is_named(drawn: Callable[[], Benchmark], rated: Path) -> None:
    shutil.rmtree(rated / "li2014" / "images")
    with pytest.raises(PipelineError, match=r"li2014.images: is not a folder"):
        li(rated, drawn)
