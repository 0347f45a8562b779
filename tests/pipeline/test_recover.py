"""What a `dvc` that was killed has left half written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.repo import Repo  # type: ignore[import-untyped]

from tests.pipeline.support import ROOT, Case, commit, environment
from tools.recover import DAMAGED, recover

STEPS = """
stages:
  first:
    cmd: echo ran >> ran && cp zero one
    deps: [zero]
    outs: [one]
  second:
    cmd: echo ran >> ran && cp one two
    deps: [one]
    outs: [two]
"""


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A repository whose pipeline has run and is committed."""
    top = tmp_path_factory.mktemp("recover")
    case = Case(top / "tree", top, environment(top / "home"))
    case.tree.mkdir()
    shutil.copytree(ROOT / ".dvc", case.tree / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name, text in {"dvc.yaml": STEPS, ".gitignore": "/one\n/two\n/ran\n", "zero": "0"}.items():
        (case.tree / name).write_text(text, encoding="utf-8")
    case.run("git", "init", "--quiet")
    case.run("dvc", "repro", "--quiet")
    commit(case.tree, "run", env=case.env)
    return case


@pytest.fixture
def small(run_once: Case, tmp_path: Path) -> Case:
    """A copy of it to work in."""
    shutil.copytree(run_once.tree, tmp_path / "tree", symlinks=True)
    return Case(tmp_path / "tree", tmp_path, run_once.env)


def test_a_dvc_lock_cut_anywhere_is_mended_or_read(small: Case) -> None:
    lock = small.tree / "dvc.lock"
    whole = lock.read_bytes()
    mended = 0
    for place in np.linspace(0, len(whole) - 1, 40, dtype=int):
        lock.write_bytes(whole[:place])
        told = recover(small.tree)
        if told:
            mended += 1
            assert (lock.read_bytes(), (small.tree / DAMAGED).read_bytes()) == (whole, whole[:place])
            assert str(lock) in told[0]
            assert str(small.tree / DAMAGED) in told[0]
        assert set(yaml.safe_load(lock.read_text(encoding="utf-8")).get("stages", {})) <= {"first", "second"}
        assert recover(small.tree) == []
    assert mended > 5


def test_after_a_kill_no_finished_stage_runs_again(small: Case) -> None:
    (small.tree / "dvc.lock").write_bytes(b"")
    (small.tree / ".dvc/tmp/rwlock").write_text('{"wri', encoding="utf-8")
    assert small.run("dvc", "repro", succeeds=False).count("dvc.lock") > 0
    assert [re.sub(".*/", "", words.partition(":")[0]) for words in recover(small.tree)] == ["dvc.lock", "rwlock"]
    small.run("dvc", "repro")
    assert (small.tree / "ran").read_text(encoding="utf-8").split() == ["ran"] * 2
    assert small.run("git", "status", "--porcelain") == ""


@pytest.mark.parametrize("held", ["nothing", "a damaged one"])
def test_where_git_holds_no_whole_dvc_lock_the_run_cache_brings_it_back(small: Case, held: str) -> None:
    lock = small.tree / "dvc.lock"
    whole = lock.read_bytes()
    lock.write_bytes(b"schema: '2.0\n")
    small.run("git", *(["rm", "-q", "--cached"] if held == "nothing" else ["add"]), "dvc.lock")
    (told,) = recover(small.tree)
    assert "dvc makes another" in told
    assert not lock.exists()
    small.run("dvc", "repro")
    assert lock.read_bytes() == whole
    assert (small.tree / "ran").read_text(encoding="utf-8").split() == ["ran"] * 2


def test_while_another_dvc_is_at_work_nothing_is_touched(small: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0.01)
    (small.tree / "dvc.lock").write_bytes(b"")
    with Repo(str(small.tree)).lock:
        assert recover(small.tree) == []
    assert (small.tree / "dvc.lock").read_bytes() == b""


def test_what_dvc_itself_refuses_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_bytes(b"")
    assert recover(tmp_path) == []
    assert (tmp_path / "dvc.lock").exists()


def test_making_runs_begins_with_it() -> None:
    made = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nrepro: ")[2]
    assert made.index("tools.recover") < made.index("dvc repro")
