"""The retrieval study: settings are chosen without the reporting half."""

from pathlib import Path

import numpy as np
import pytest

from experiments.study import Finished, Part, measure, photo_precision
from pipeline_lib.embedding.alignment import Alignment, Mean, fit_pretext, normalise
from pipeline_lib.embedding.vectors import EmbeddingTable, Labels
from tests.support import write_embeddings

CLASSES = ("ant", "bear", "cat", "dog", "eel")


def labels(prefix: str, per_class: int) -> Labels:
    names = [name for name in CLASSES for _ in range(per_class)]
    ids = [f"{prefix}{number}" for number in range(len(names))]
    return Labels.of(ids, names, ids)


def parts_of(photos: Labels, sketches: Labels, *, final: bool) -> dict[str, Part]:
    return Finished("", *(EmbeddingTable(Path(), table, 1) for table in (photos, sketches))).parts(final=final)


def test_settings_are_chosen_on_the_classes_at_even_places_alone() -> None:
    photos, sketches = labels("p", 3), labels("s", 2)
    chosen = parts_of(photos, sketches, final=False)
    assert list(chosen) == ["sketchy_even"]
    assert set(photos.class_names[chosen["sketchy_even"][0]]) == {"bear", "dog"}
    assert set(sketches.class_names[chosen["sketchy_even"][1]]) == {"bear", "dog"}


def test_final_rows_are_measured_on_the_rest_and_on_the_whole() -> None:
    photos, sketches = labels("p", 3), labels("s", 2)
    parts = parts_of(photos, sketches, final=True)
    assert set(sketches.class_names[parts["sketchy_odd"][1]]) == {"ant", "cat", "eel"}
    even, odd, whole = (set(parts[name][0].tolist()) for name in ("sketchy_even", "sketchy_odd", "sketchy"))
    assert even | odd == whole == set(range(15))
    assert not even & odd


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """Photos and drawings of 5 classes that lie close together, and pretext pairs."""
    rng = np.random.default_rng(0)
    content = rng.standard_normal((20, 8))
    folder = tmp_path / "one" / "embeddings"
    names = [CLASSES[number // 4] for number in range(20)]
    ids = [f"p{number}" for number in range(20)]
    write_embeddings(folder / "photos.parquet", ids, content, classes=names)
    write_embeddings(
        folder / "sketches.parquet",
        [f"s{number}" for number in range(20)],
        content + 0.1 * rng.standard_normal((20, 8)) + 1,
        classes=names,
        instances=ids,
    )
    for side, shift in (("photos", 0), ("edges", 1)):
        pairs = rng.standard_normal((30, 8)) + shift
        write_embeddings(folder / f"pretext_{side}.parquet", [f"x{number}" for number in range(30)], pairs)
    fit_pretext(folder).save(folder / "alignment.safetensors")
    return tmp_path


def test_a_row_is_measured_under_every_alignment_on_the_gallery_of_its_part(embeddings: Path) -> None:
    rows = {(row["dataset"], row["alignment"]): row for row in measure(Finished.open("one", embeddings), final=True)}
    assert {alignment for _, alignment in rows} == {
        "none",
        "pretext_mean",
        "pretext_whitened",
        "pretext_csls",
        "transductive_mean",
    }
    assert [rows["sketchy_even", "none"][name] for name in ("gallery", "queries")] == [8, 8]
    assert rows["sketchy", "pretext_mean"]["instance_hit_at_1"] > 0.7
    assert all(row["transductive"] == (kind == "transductive_mean") for (_, kind), row in rows.items())


def test_photos_are_precise_where_their_classes_lie_apart(embeddings: Path) -> None:
    folder = embeddings / "one" / "embeddings"
    photos = EmbeddingTable.open(folder / "photos.parquet")
    chance = photo_precision(normalise(photos.read()), photos.labels)
    apart = (np.repeat(np.eye(5, 8), 4, axis=0) * 20 + photos.read()).astype(np.float32)
    found = photo_precision(normalise(apart), photos.labels)
    assert chance < 0.5
    assert found == pytest.approx(3 / 5)  # of five neighbours only the other three of a class of four can be right


def test_a_transductive_mean_sees_its_own_part_alone(embeddings: Path) -> None:
    row = Finished.open("one", embeddings)
    photos, sketches = row.photos, row.sketches
    whole = Mean.fit(photos, sketches, Alignment(8))
    before = list(measure(row, final=False))
    # What lies outside the part is moved far away: the part's figures stay as they are.
    even = np.isin(photos.labels.class_names, ("bear", "dog"))
    moved = np.where(even[:, None], photos.read(), 50 + photos.read())
    ids, names = photos.labels.image_ids.tolist(), photos.labels.class_names.tolist()
    write_embeddings(photos.path, ids, moved, classes=names)
    assert list(measure(Finished.open("one", embeddings), final=False)) == before
    moved_mean = Mean.fit(EmbeddingTable.open(photos.path), sketches, Alignment(8))
    assert not np.allclose(moved_mean.photo, whole.photo)
