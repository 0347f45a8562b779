"""One real run of the whole pipeline on a few drawn photos, shared by all tests of this folder."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.support import Case, commit, processes_of, small_case


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Ctrl-C reaches what tests start, even where a shell that starts pytest in the background has it ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """A copy in which `dvc repro` has run once and the results are committed. Not to be changed: see `case`."""
    case = small_case(tmp_path_factory.mktemp("pipeline"))
    case.run("git", "init", "--quiet")
    commit(case.tree, "program", env=case.env)
    said = case.run("dvc", "repro")
    commit(case.tree, "first run", env=case.env)
    yield Case(case.tree, case.photos, case.env, said)
    left = processes_of(case.env)
    for process in left:
        process.kill()
    assert left == []


@pytest.fixture
def case(finished: Case, tmp_path: Path) -> Case:
    """A copy of `finished` to work in; the photos are shared."""
    tree = tmp_path / "repository"
    shutil.copytree(finished.tree, tree, symlinks=True)
    return Case(tree, finished.photos, finished.env)


@pytest.fixture
def fresh(tmp_path: Path) -> Case:
    """A copy of the repository with 12 photos and no sketches, in which nothing has run yet."""
    return small_case(tmp_path, photos=12, sketches=0)
