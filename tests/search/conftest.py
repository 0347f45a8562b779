"""One small run shared by all tests that only read it, and a copy for each that changes something."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_lib.run import Run
from pipeline_lib.search.engine import SearchEngine, open_engine
from tests.search.support import make_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run; not to be changed."""
    return make_run(tmp_path_factory.mktemp("search"))


@pytest.fixture
def run(finished_run: Run, tmp_path: Path) -> Run:
    """A copy of the run that may be changed; the photos of its catalog are shared."""
    tree = tmp_path / "repository"
    shutil.copytree(finished_run.root, tree)
    return Run.open(tree / "data", tree)


@pytest.fixture(scope="session")
def engine(finished_run: Run) -> Iterator[SearchEngine]:
    """An engine over the small run's own gallery."""
    opened = open_engine(finished_run)
    yield opened
    opened.close()
