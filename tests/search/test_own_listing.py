"""How the photos below some folders are listed, where there are so many that several processes look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from pipeline_lib.data.source import signature_of
from pipeline_lib.data.workers import Worker
from pipeline_lib.search import own_listing
from pipeline_lib.search.own_listing import find

COUNT = 90


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of many files that are photos by their names."""
    for number in range(COUNT):
        path = tmp_path / "photos" / str(number % 7) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(number))
    return tmp_path / "photos"


@pytest.fixture
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_listing, "BLOCK", 4)
    monkeypatch.setattr(own_listing, "ALONE", 2)
    monkeypatch.setattr(own_listing, "usable_cores", lambda: 2)


def listed(photos: Path) -> dict[str, str]:
    files = find([str(photos)], (), photos.parent / "index").files
    return dict(files.named(0, len(files)))


def rightly(photos: Path) -> dict[str, str]:
    return {path.as_posix(): signature_of(path) for path in photos.rglob("*.jpg")}


def children() -> list[psutil.Process]:
    """Processes of this one, without the one that Python's multiprocessing keeps."""
    found = psutil.Process().children()
    return [process for process in found if "resource_tracker" not in " ".join(process.cmdline())]


@pytest.mark.usefixtures("_few_are_many")
def test_processes_that_look_at_files_find_what_one_finds_and_are_gone_afterwards(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, asked = children(), []
    ask = Worker.ask

    def counted(worker: Worker, work: Any, paths: Any) -> Any:
        asked.append(paths)
        return ask(worker, work, paths)

    monkeypatch.setattr(Worker, "ask", counted)
    assert listed(photos) == rightly(photos)
    assert len(asked) == COUNT // 4 + 1 - 2
    assert children() == before


@pytest.mark.usefixtures("_few_are_many")
def test_one_that_is_killed_costs_no_file(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, ask = children(), Worker.ask

    def killed(worker: Worker, work: Any, paths: Any) -> Any:
        worker.process.kill()
        return ask(worker, work, paths)

    monkeypatch.setattr(Worker, "ask", killed)
    assert listed(photos) == rightly(photos)
    assert children() == before
