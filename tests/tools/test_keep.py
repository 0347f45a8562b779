from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools.keep import PARTS, keep


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's artefacts: files, folders, and folders in folders."""
    data = tmp_path / "data" / "source"
    for part in PARTS:
        path = data / part if part.endswith(".parquet") else data / part / "inner" / "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(part, encoding="utf-8")
    (data / "patches").mkdir()
    return data


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


def test_what_is_kept_takes_no_room_and_outlives_the_run(run: Path, tmp_path: Path) -> None:
    expected = texts(run)
    kept = keep(run, tmp_path / "runs")
    assert kept == tmp_path / "runs" / "source"
    assert (kept / "catalog.parquet").stat().st_ino == (run / "catalog.parquet").stat().st_ino
    shutil.rmtree(run)
    assert texts(kept) == expected
    assert not (kept / "patches").exists()


def test_a_new_run_takes_the_place_of_the_kept_one(run: Path, tmp_path: Path) -> None:
    keep(run, tmp_path / "runs")
    (run / "catalog.parquet").unlink()  # as the stages do: a file is replaced, never written into
    (run / "catalog.parquet").write_text("new", encoding="utf-8")
    (run / "model" / "inner" / "file").unlink()
    kept = keep(run, tmp_path / "runs")
    assert texts(kept) == texts(run)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["source"]


def test_a_run_that_is_not_finished_leaves_the_kept_one(run: Path, tmp_path: Path) -> None:
    kept = keep(run, tmp_path / "runs")
    before = texts(kept)
    (run / "excluded.parquet").unlink()
    ran = subprocess.run(
        [sys.executable, "-m", "tools.keep", str(run)],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "excluded.parquet" in ran.stderr
    assert "name the folder of a finished run" in ran.stderr
    assert texts(kept) == before
