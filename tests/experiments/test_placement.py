"""Drawings on other pages, and what is found by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.placement import PAGES, moved, on_page, scores_of
from experiments.study import Finished
from pipeline_lib.embedding.vectors import open_retrieval
from pipeline_lib.search.engine import open_encoder
from tests.search.support import make_run, with_params


@pytest.mark.parametrize("name", PAGES)
def test_a_page_holds_the_whole_drawing_and_paper_around_it(name: str) -> None:
    drawing = np.random.default_rng(0).integers(0, 200, (30, 30, 3), np.uint8)
    found = PAGES[name](drawing, np.random.default_rng(1))
    rows, columns = np.nonzero((found < 200).all(axis=2))
    part = found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert np.array_equal(part, drawing)
    assert (found == 255).sum() == found.size - drawing.size


def test_a_page_is_as_large_and_its_drawing_where_asked_for() -> None:
    drawing = np.zeros((10, 10, 3), np.uint8)
    found = on_page(drawing, 2, 3, 1.0, 0.0)
    assert found.shape == (20, 30, 3)
    assert (found[:10, 20:] == 0).all()


def test_a_drawing_finds_by_its_best_guess_and_a_full_page_as_without_any(tmp_path: Path) -> None:
    run = with_params(make_run(tmp_path), embed__cut_ink=0.6)
    row = Finished("small", *open_retrieval(run.embeddings))
    encoder = open_encoder(run, 1)
    photos = encoder.alignment.apply(row.photos.read(), "photo")
    drawings = list(moved(run, row, PAGES["half size, in a corner"]))
    found = scores_of(drawings, encoder, photos)
    assert found.shape == (len(row.sketches), len(photos))
    for drawing, scores in zip(drawings, found, strict=True):
        guesses = encoder.aligned([encoder.prepare(drawing, "sketch")])
        assert np.allclose((guesses @ photos.T).max(axis=0), scores, atol=1e-4)
    assert all(
        np.array_equal(first, second)
        for first, second in zip(drawings, moved(run, row, PAGES["half size, in a corner"]), strict=True)
    )
