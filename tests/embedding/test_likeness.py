"""What a similarity says to a person, calibrated on pretext pairs."""

from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.embedding.alignment import Alignment
from pipeline_lib.embedding.likeness import Likeness, Scale
from pipeline_lib.embedding.vectors import EmbeddingTable, vector_table, vector_writer


def table(path: Path, vectors: np.ndarray) -> EmbeddingTable:
    names = [str(number) for number in range(len(vectors))]
    with vector_writer(path, vectors.shape[1]) as writer:
        writer.write_table(vector_table(names, names, names, vectors.astype(np.float32)))
    return EmbeddingTable.open(path)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[EmbeddingTable, EmbeddingTable]:
    random = np.random.default_rng(0)
    photos = random.normal(size=(300, 16)) + 1
    edges = photos + random.normal(size=(300, 16)) * 0.4 - 2
    return table(tmp_path / "photos.parquet", photos), table(tmp_path / "edges.parquet", edges)


@pytest.mark.parametrize("chain", [("mean",), ("mean", "whitening", "hubness")])
def test_own_photos_are_alike_and_others_are_not(
    tables: tuple[EmbeddingTable, EmbeddingTable], chain: tuple[str, ...]
) -> None:
    alignment = Alignment(16).fitted(chain, *tables)
    likeness = Likeness.fit(*tables, alignment)
    photos, edges = alignment.apply(tables[0].read(), "photo"), alignment.apply(tables[1].read(), "sketch")
    scores = edges @ photos.T
    own = np.array([likeness.of(score, "sketch") for score in np.diag(scores)])
    others = np.array([likeness.of(score, "sketch") for score in scores[~np.eye(300, dtype=bool)][:5000]])
    assert (own >= 0.5).mean() > 0.9
    assert np.median(own) == pytest.approx(1, abs=0.01)
    assert (others >= 0.5).mean() < 0.005


def test_a_photo_that_searches_is_most_like_itself(tables: tuple[EmbeddingTable, EmbeddingTable]) -> None:
    alignment = Alignment(16).fitted(("mean", "whitening", "hubness"), *tables)
    likeness = Likeness.fit(*tables, alignment)
    assert likeness.of(1.0, "photo") == 1.0
    assert likeness.photo.unlike < 0.9


def test_it_rises_with_the_score_and_stays_between_0_and_1() -> None:
    scale = Scale(0.1, 0.3, 0.7)
    assert [scale.of(score) for score in (-1, 0.1, 0.2, 0.3, 0.5, 0.7, 1)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]


def test_a_record_gives_it_back_and_older_runs_have_a_plain_scale(
    tables: tuple[EmbeddingTable, EmbeddingTable],
) -> None:
    likeness = Likeness.fit(*tables, Alignment(16).fitted(("mean",), *tables))
    assert Likeness.of_record(likeness.record()).record() == likeness.record()
    assert Likeness.of_record(None).of(0.5, "sketch") == 0.5


def test_two_pairs_are_enough_for_a_scale(tmp_path: Path) -> None:
    photos = table(tmp_path / "photos.parquet", np.eye(2))
    edges = table(tmp_path / "edges.parquet", np.eye(2))
    scale = Likeness.fit(photos, edges, Alignment(2)).sketch
    assert scale.chance < scale.unlike < scale.same
