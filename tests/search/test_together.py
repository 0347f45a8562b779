"""Searching with the networks of several runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline_lib.errors import PipelineError
from pipeline_lib.run import Run
from pipeline_lib.search.engine import open_encoder, open_engine
from pipeline_lib.search.index_photos import update
from tests.embedding.test_beside import another, joined
from tests.search.support import save_model


def test_drawings_are_searched_by_all_of_them_as_the_gallery_was_embedded(run: Run) -> None:
    other = another(run, "other", 1)
    together = joined(run, [f"other@{other.record['weights'][:12]}"])
    # What is searched needs the other run no more.
    shutil.rmtree(other.folder)
    engine = open_engine(together)
    try:
        assert engine.facts.dimension == open_encoder(together, 1).embedder.dimension
        for row in range(3):
            (vector,) = engine.encoder.raw([engine.prepare(engine.gallery.load(row))])
            ((rows, _),) = engine.faiss.search(engine.encoder.alignment.apply(vector[None], "photo"), 1)
            assert rows[0] == row
    finally:
        engine.close()


def test_ones_own_index_asks_to_be_made_afresh_when_another_network_takes_part(run: Run) -> None:
    photos = Path(run.params.catalog.root)
    another(run, "other", 1)
    together = joined(run, ["other"])
    update(together, [photos], lambda: open_encoder(together, 1))
    open_engine(together, "own").close()
    save_model(Run.open(run.root / "other", run.root), 2)
    changed = joined(run, ["other"])
    with pytest.raises(PipelineError, match="model, or section embed of the params, has changed"):
        open_engine(changed, "own")
