"""Dense SIFT, the vocabulary and the pyramid, on drawn pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.baselines import run
from pipeline_lib.baselines.spatial_pyramid import LEVEL_WEIGHTS, LEVELS, SYSTEMS, VOCABULARY, SpatialPyramid
from pipeline_lib.baselines.system import Domain, Embedder, Image, Training, Vectors
from pipeline_lib.data.images import encode_jpeg, encode_png, resize_short_side
from pipeline_lib.data.schemas import PAIRS, write_rows
from pipeline_lib.evaluation.similarity import bins_of, intersection
from pipeline_lib.pretext.edges import edge_map
from pipeline_lib.run import Run
from tests.conftest import catalog_frame, scene

WORDS = 20
TINY = SpatialPyramid("tiny", "none", words=WORDS, per_image=30)
Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, defaults: dict[str, Any]) -> Training:
    """Ten pretext pairs, and nothing else to learn from."""
    home = tmp_path_factory.mktemp("pyramid")
    settings = params.parse({**defaults, "edges": {**defaults["edges"], "blur": 1.0, "line_width": 1}})
    rows = [
        {
            "image_id": f"image/{number:02d}",
            "photo": encode_jpeg(scene(number), 95),
            "edges": encode_png(edge_map(scene(number), settings.edges)),
        }
        for number in range(10)
    ]
    write_rows(home / "pairs" / "part-00000.parquet", rows[:6], PAIRS)
    write_rows(home / "pairs" / "part-00001.parquet", rows[6:], PAIRS)
    catalog = catalog_frame([{"image_id": row["image_id"]} for row in rows])
    nothing = catalog.iloc[:0]
    return Training("t", Run(home, settings), None, catalog, nothing, nothing)  # type: ignore[arg-type]  # no image of the catalog is read


@pytest.fixture(scope="module")
def fitted(training: Training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of twenty words."""
    folder = tmp_path_factory.mktemp("fitted")
    TINY.fit(training, folder)
    return folder


def pyramids(embed: Embedder, *pictures: Picture, domain: Domain = "sketch") -> Vectors:
    return embed([Image(str(n), "", "", pixels) for n, pixels in enumerate(pictures)], domain)


def levels(pyramid: Vectors) -> list[Vectors]:
    """The histograms of a pyramid: [rows, columns, words] for each level."""
    ends = np.cumsum([level**2 * WORDS for level in LEVELS])
    parts = np.split(pyramid, ends[:-1])
    return [part.reshape(level, level, WORDS) for level, part in zip(LEVELS, parts, strict=True)]


def marked(x: int, y: int, size: tuple[int, int] = (8, 12)) -> Picture:
    """A white square of 256 px with one dark box, so that descriptors lie in a known part of it."""
    picture = np.full((256, 256, 3), 255, np.uint8)
    picture[y : y + size[1], x : x + size[0]] = 20
    return picture


def test_a_pyramid_counts_the_words_of_each_cell(fitted: Path, training: Training) -> None:
    vocabulary = np.load(fitted / VOCABULARY).astype(np.float64)
    picture = np.asarray(cv2.resize(scene(3), (256, 256), interpolation=cv2.INTER_AREA), np.uint8)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    expected: list[NDArray[Any]] = [np.zeros((level, level, WORDS)) for level in LEVELS]
    total = 0
    for y in range(16, 241, 8):
        line = tuple(cv2.KeyPoint(float(x), float(y), 32 / 6, 0.0) for x in range(16, 241, 8))
        for point, values in zip(*cv2.SIFT.create().compute(grey, line), strict=True):
            if np.linalg.norm(values) <= 1:
                continue
            word = np.linalg.norm(vocabulary - values / np.linalg.norm(values), axis=1).argmin()
            total += 1
            for histogram, level in zip(expected, LEVELS, strict=True):
                histogram[int(point.pt[1]) * level // 256, int(point.pt[0]) * level // 256, word] += 1
    assert total > 500
    found = levels(pyramids(TINY.embedder(fitted, training.run.params), picture)[0])
    for histogram, reference, weight in zip(found, expected, LEVEL_WEIGHTS, strict=True):
        # A descriptor half-way between two words may go to either.
        assert np.abs(histogram - weight * reference / total).sum() < 0.01


def test_levels_bear_their_weights_and_finer_cells_add_up_to_coarser_ones(fitted: Path, training: Training) -> None:
    for pyramid in pyramids(TINY.embedder(fitted, training.run.params), *(scene(n) for n in range(4)), domain="photo"):
        one, four, sixteen = levels(pyramid)
        assert [part.sum() for part in (one, four, sixteen)] == pytest.approx([0.25, 0.25, 0.5], abs=1e-5)
        assert np.allclose(four.sum(axis=(0, 1)), one[0, 0], atol=1e-6)
        assert np.allclose(sixteen.reshape(2, 2, 2, 2, WORDS).sum(axis=(1, 3)) / 2, four, atol=1e-6)


def test_a_shift_moves_words_to_other_cells_and_leaves_their_counts(fitted: Path, training: Training) -> None:
    left, right = pyramids(TINY.embedder(fitted, training.run.params), marked(60, 60), marked(188, 60))
    before, after = levels(left), levels(right)
    assert np.allclose(before[0], after[0], atol=1e-6)
    assert before[1][:, 1].sum() == after[1][:, 0].sum() == 0
    assert np.allclose(before[1][:, 0], after[1][:, 1], atol=1e-6)
    # What two pictures share is told by how fine the cells are in which they agree.
    assert intersection(left, bins_of(right[None]))[0] == pytest.approx(0.25, abs=1e-5)
    assert intersection(left, bins_of(left[None]))[0] == pytest.approx(1, abs=1e-5)


def test_a_mirrored_picture_has_mirrored_cells(fitted: Path, training: Training) -> None:
    picture = marked(24, 22)
    plain, mirrored = pyramids(TINY.embedder(fitted, training.run.params), picture, picture[:, ::-1].copy())
    shares = [levels(pyramid)[2].sum(axis=2) for pyramid in (plain, mirrored)]
    assert shares[0][0, 0] == pytest.approx(0.5, abs=1e-6)
    assert np.allclose(shares[0], shares[1][:, ::-1], atol=1e-6)
    # A mirrored step from light to dark is another word.
    assert not np.allclose(levels(plain)[0], levels(mirrored)[0], atol=0.02)


def test_contrast_changes_no_word(fitted: Path, training: Training) -> None:
    picture = scene(5)
    faint = (100 + picture.astype(int) // 3).astype(np.uint8)
    plain, other = pyramids(TINY.embedder(fitted, training.run.params), picture, faint, domain="photo")
    assert intersection(plain, bins_of(other[None]))[0] > 0.85
    assert intersection(plain, bins_of(pyramids(TINY.embedder(fitted, training.run.params), scene(6))))[0] < 0.7


def test_an_empty_picture_is_equally_near_to_all(fitted: Path, training: Training) -> None:
    (pyramid,) = pyramids(TINY.embedder(fitted, training.run.params), np.full((70, 90, 3), 255, np.uint8))
    assert pyramid.sum() == pytest.approx(1, abs=1e-5)
    assert len(np.unique(pyramid)) == 1


def test_photos_become_edge_maps_where_the_row_says_so(fitted: Path, training: Training) -> None:
    settings, photo = training.run.params, scene(7)
    lines = edge_map(resize_short_side(photo, settings.edges.short_side), settings.edges)
    of_edges = replace(TINY, edges=True).embedder(fitted, settings)
    as_photo, as_sketch = pyramids(of_edges, photo, domain="photo"), pyramids(of_edges, lines)
    assert np.array_equal(as_photo, as_sketch)
    assert np.array_equal(pyramids(of_edges, photo), pyramids(TINY.embedder(fitted, settings), photo))
    assert not np.allclose(as_photo, pyramids(TINY.embedder(fitted, settings), photo, domain="photo"), atol=0.01)


@pytest.mark.parametrize(("edges", "sides"), [(False, 2), (True, 1)])
def test_the_vocabulary_is_fitted_on_a_bounded_sample_and_is_always_the_same(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edges: bool, sides: int
) -> None:
    samples: list[Vectors] = []
    real = faiss.Kmeans.train

    def train(self: faiss.Kmeans, sample: Vectors) -> None:
        samples.append(sample)
        real(self, sample)

    monkeypatch.setattr(faiss.Kmeans, "train", train)
    monkeypatch.setattr(run, "PRETEXT_PAIRS", 5)
    system = replace(TINY, edges=edges)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        system.fit(training, tmp_path / name)
    # Five of the ten images, thirty descriptors of each side (one edge map is empty): no more images, nor larger ones.
    assert samples[0].shape == ((5 * sides - 1) * TINY.per_image, 128)
    assert np.allclose(np.linalg.norm(samples[0], axis=1), 1, atol=1e-5)
    assert np.array_equal(samples[0], samples[1])
    first, second = (np.load(tmp_path / name / VOCABULARY) for name in ("first", "second"))
    assert first.shape == (WORDS, 128)
    assert np.array_equal(first, second)


def test_every_word_is_the_mean_of_descriptors_near_it(fitted: Path) -> None:
    words = np.load(fitted / VOCABULARY)
    lengths = np.linalg.norm(words, axis=1)
    assert ((lengths > 0.3) & (lengths <= 1 + 1e-5)).all()
    assert (words >= 0).all()


def test_edge_maps_that_are_moved_a_little_find_their_photos(training: Training, tmp_path: Path) -> None:
    system = replace(TINY, edges=True, words=60)
    system.fit(training, tmp_path)
    embed = system.embedder(tmp_path, training.run.params)
    photos = [scene(n) for n in range(20, 32)]
    drawings = [np.roll(edge_map(photo, training.run.params.edges), (3, 4), axis=(0, 1)) for photo in photos]
    bins = bins_of(pyramids(embed, *photos, domain="photo"))
    found = [int(intersection(query, bins).argmax()) for query in pyramids(embed, *drawings)]
    assert np.mean(np.equal(found, range(12))) > 0.9


def test_rows_say_that_nothing_was_labelled() -> None:
    assert {(system.name, system.supervision, system.paired) for system in SYSTEMS} == {
        ("spatial_pyramid", "none", False),
        ("spatial_pyramid_edges", "none", False),
    }
    assert all(system.forms[0] == "intersection" for system in SYSTEMS)
