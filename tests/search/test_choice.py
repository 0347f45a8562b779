"""Which run and which photos a command means where that is not told."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from PIL import Image

from pipeline_lib.errors import PipelineError
from pipeline_lib.run import Run
from pipeline_lib.search import choice
from pipeline_lib.search.choice import add_choice, chosen
from pipeline_lib.search.command import box
from pipeline_lib.search.engine import QueryEncoder, open_encoder, open_engine
from pipeline_lib.search.index_photos import update
from tests.conftest import scene
from tests.pipeline.support import ROOT


def asked(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--index", type=Path)
    add_choice(parser)
    return parser.parse_args(words)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        Image.fromarray(scene(seed)).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def boxed(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that stands for the model that comes with the program."""
    monkeypatch.setattr(choice, "box", lambda: run.folder)
    return run


def test_own_photos_come_first(boxed: Run, finished_run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "PIPELINE", finished_run.folder)
    update(boxed, [photos], lambda: open_encoder(boxed, 1))
    found, which = chosen(asked())
    assert (found.folder, which) == (boxed.folder, "own")
    found, which = chosen(asked("--gallery", "pipeline"))
    assert (found.folder, which) == (finished_run.folder, "pipeline")


def test_without_own_photos_the_pictures_of_make_repro_are_searched(
    boxed: Run, finished_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "PIPELINE", finished_run.folder)
    assert chosen(asked())[0].folder == finished_run.folder
    with pytest.raises(PipelineError, match="no photos are indexed yet"):
        chosen(asked("--gallery", "own"))
    assert not (boxed.folder / "own_index").exists()


def test_where_there_is_nothing_to_search_one_sentence_says_what_to_do(
    boxed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert boxed.index.exists()  # but it is not what someone looks for who has named no run
    monkeypatch.setattr(choice, "PIPELINE", tmp_path / "none")
    for words in ((), ("--gallery", "own"), ("--gallery", "pipeline")):
        with pytest.raises(PipelineError, match="`drawfind serve --photos FOLDER`, or `make serve PHOTOS=/folder`"):
            chosen(asked(*words))


def test_an_unfinished_index_is_refused_and_nothing_else_is_searched_instead(
    boxed: Run, finished_run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "PIPELINE", finished_run.folder)

    def stopped() -> QueryEncoder:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(boxed, [photos], stopped)
    with pytest.raises(PipelineError, match="not finished"):
        open_engine(*chosen(asked()))


def test_a_run_that_is_named_is_the_one(boxed: Run, finished_run: Run) -> None:
    found, which = chosen(asked("--run", str(finished_run.folder)))
    assert (found.folder, which) == (finished_run.folder, "auto")
    assert found.folder != boxed.folder


def test_the_box_is_in_the_repository_unless_the_program_is_installed() -> None:
    assert box() == ROOT / "models/photos"
