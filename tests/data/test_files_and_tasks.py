from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import files
from pipeline_lib.data.schemas import read_table, shard_paths, write_table
from pipeline_lib.data.tasks import DIED, Stats, map_shards, stats_or_raise, stats_path
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import (
    digest_of,
    digest_of_code,
    digest_of_file,
    exclusive,
    publish_folder,
    read_json,
    read_sealed,
    replacing,
    replacing_folder,
    temporary,
    write_json,
    write_sealed,
)


@dataclass(frozen=True)
class Task:
    path: Path
    rows: int
    log: Path
    fails: int = 0


def work(task: Task) -> Stats:
    tries = int(task.log.read_text()) if task.log.exists() else 0
    task.log.write_text(str(tries + 1))
    if tries < task.fails:
        raise OSError(errno.ENOSPC, "No space left on device", str(task.path))
    write_table(task.path, pa.table({"x": list(range(task.rows))}))
    return {"rows": task.rows}


def die(task: Task) -> Stats:
    if task.fails:
        os._exit(9)
    return work(task)


def tasks_in(folder: Path, fails: tuple[int, ...]) -> list[Task]:
    return [Task(folder / f"part-{n}.parquet", n + 1, folder / f"log-{n}", count) for n, count in enumerate(fails)]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once_and_outcomes_keep_their_order(tmp_path: Path, workers: int) -> None:
    tasks = tasks_in(tmp_path, (0, 0, 0, 0))
    for _ in range(2):  # the second time everything is finished already
        outcomes = map_shards(work, tasks, workers=workers, description="test", unit="row")
        assert [outcome.task for outcome in outcomes] == tasks
        assert [stats["rows"] for stats in stats_or_raise(outcomes)] == [1, 2, 3, 4]
    assert [task.log.read_text() for task in tasks] == ["1"] * 4


def test_a_task_that_fails_once_is_tried_again(tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, (0, 1, 0))
    assert len(stats_or_raise(map_shards(work, tasks, workers=1, description="test", unit="row"))) == 3
    assert [task.log.read_text() for task in tasks] == ["1", "2", "1"]


def test_a_failure_is_a_value_and_the_rest_is_finished_and_kept(tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, (0, 9, 0))
    outcomes = map_shards(work, tasks, workers=1, description="test", unit="row")
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    with pytest.raises(
        PipelineError, match=r"1 of 3 shards failed.*finished ones are kept[\s\S]*part-1.*No space left"
    ):
        stats_or_raise(outcomes)
    again = [Task(task.path, task.rows, task.log) for task in tasks]
    assert len(stats_or_raise(map_shards(work, again, workers=1, description="test", unit="row"))) == 3
    assert tasks[0].log.read_text() == tasks[2].log.read_text() == "1"


def test_a_worker_that_dies_is_told_and_does_not_hang(tmp_path: Path) -> None:
    outcomes = map_shards(die, tasks_in(tmp_path, (0, 1)), workers=2, description="test", unit="row")
    assert outcomes[1].error is not None
    assert "worker process died" in outcomes[1].error


def test_no_worker_sees_ctrl_c_not_even_the_first_of_a_process() -> None:
    """With the first, Python starts a helper and lets interrupts in again."""
    code = "import signal; from functools import partial; from pipeline_lib.data.workers import Worker\n"
    code += "blocked = partial(signal.pthread_sigmask, signal.SIG_BLOCK)\n"
    code += "for worker in [Worker(), Worker()]: print(signal.SIGINT in worker.ask(blocked, [])[0]); worker.end(5)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True\nTrue\n"


@pytest.mark.parametrize("seed", range(4))
def test_workers_that_die_as_soon_as_they_start_are_told_and_hang_nothing(tmp_path: Path, seed: int) -> None:
    over, waits = threading.Event(), np.random.default_rng(seed)

    def kill() -> None:
        while not over.wait(waits.uniform(0, 0.01)):
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    if "--multiprocessing-fork" in child.cmdline():
                        child.kill()

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        outcomes = map_shards(work, tasks_in(tmp_path, (0,) * 9), workers=3, description="test", unit="row")
    finally:
        over.set()
        killing.join()
    assert {outcome.error for outcome in outcomes} == {DIED}
    assert stats_or_raise(map_shards(work, tasks_in(tmp_path, (0, 0)), workers=2, description="test", unit="row"))


def unreadable(task: Task) -> Stats:
    return {"rows": task.rows, "lock": threading.Lock()}  # can't be sent, nor written


def test_what_cannot_be_sent_to_or_from_a_worker_is_a_value_too(tmp_path: Path) -> None:
    def here(task: Task) -> Stats:  # no other process can import it
        return work(task)

    for function, words in ((here, "<locals>.here"), (unreadable, "not JSON serializable")):
        outcomes = map_shards(function, tasks_in(tmp_path, (0, 0)), workers=2, description="test", unit="row")
        assert all(words in (outcome.error or "") for outcome in outcomes)
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_costs_its_own_task_alone(tmp_path: Path) -> None:
    outcomes = map_shards(die, tasks_in(tmp_path, (0, 0, 1, 0, 0)), workers=2, description="test", unit="row")
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, True, True]
    assert [outcome.task.log.exists() for outcome in outcomes] == [True, True, False, True, True]


@pytest.mark.parametrize("damage", ["cut", "no stats", "other rows", "stats cut"])
def test_a_shard_that_is_not_whole_is_made_again(tmp_path: Path, damage: str) -> None:
    (task,) = tasks_in(tmp_path, (0,))
    map_shards(work, [task], workers=1, description="test", unit="row")
    if damage == "cut":
        task.path.write_bytes(task.path.read_bytes()[:-20])
    elif damage == "no stats":
        stats_path(task.path).unlink()
    elif damage == "other rows":
        write_json(stats_path(task.path), {"rows": 5})
    else:
        stats_path(task.path).write_text("{")
    map_shards(work, [task], workers=1, description="test", unit="row")
    assert task.log.read_text() == "2"
    assert read_table(task.path).num_rows == 1


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})

    def fail() -> None:
        with replacing(path) as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_figures_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_publishing_replaces_a_folder_whole(tmp_path: Path) -> None:
    for name, file in (("out", "old"), ("new", "fresh")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    publish_folder(tmp_path / "new", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fresh"]
    assert not (tmp_path / "new").exists()


def left_by_a_killed_process(path: Path) -> Path:
    code = "import sys, pathlib; from pipeline_lib.files import temporary; print(temporary(pathlib.Path(sys.argv[1])))"
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    return Path(said.removesuffix("\n"))


def test_writers_of_one_file_leave_one_anothers_temporaries_and_clear_up_after_killed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file [1].json"
    mine, killed = temporary(path), left_by_a_killed_process(path)
    assert mine.name.split(".")[:-3] == killed.name.split(".")[:-3]
    assert temporary(path) != mine
    elsewhere, folder = tmp_path / f".{path.name}.elsewhere-1.1.abcd.tmp", tmp_path / f".{path.name}.7.tmp"
    folder.mkdir()
    for each in (killed, mine, elsewhere, folder / "inside"):
        each.touch()
    with replacing(path) as first, replacing(path) as second:
        first.write_text("1")
        second.write_text("2")
    assert path.read_text() == "1"
    assert {each.name for each in tmp_path.iterdir()} == {path.name, mine.name, elsewhere.name, folder.name}
    monkeypatch.setattr(files, "A_DAY", -1.0)  # as if it was over
    write_json(path, {})
    assert list(tmp_path.iterdir()) == [path]


def test_folders_published_at_once_by_several_writers_leave_one_of_them_whole(tmp_path: Path) -> None:
    def publish(number: int) -> None:
        for turn in range(20):
            finished = tmp_path / f"{number}-{turn}"
            finished.mkdir()
            for file in ("a", "b"):
                (finished / file).write_text(finished.name)
            publish_folder(finished, tmp_path / "out")

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(publish, range(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len({path.read_text() for path in (tmp_path / "out").iterdir()}) == 1


def test_a_folder_that_fails_to_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    for fails in (False, True):
        with suppress(RuntimeError), replacing_folder(tmp_path / "out") as aside:
            aside.mkdir()
            (aside / "first").touch()
            if fails:
                (aside / "second").touch()
                raise RuntimeError
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["out", "first"]


def test_a_process_that_nobody_has_waited_for_writes_no_more(tmp_path: Path) -> None:
    """The first process of a container may never ask for those that are left to it."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        place, mine = tmp_path / "table", files.temporary(tmp_path / "table")
        left = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{ended.pid}."))
        left.touch()
        mine.touch()
        files.temporary(place)
        assert [path.name for path in tmp_path.iterdir()] == [mine.name]


def test_publishing_takes_the_place_of_what_a_killed_process_left(tmp_path: Path) -> None:
    left = left_by_a_killed_process(tmp_path / "out")
    for name in ("out", "new", left.name):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of {name}").touch()
    publish_folder(tmp_path / "new", tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["out", "out/of new"]


def test_what_cannot_be_published_is_told_and_the_old_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").touch()
    with pytest.raises(PipelineError, match=r"out: .*new can't be moved there \(No such file"):
        publish_folder(tmp_path / "new", tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


@pytest.mark.parametrize("linked", ["data", "data/out"])
def test_a_folder_is_published_to_another_disk_through_a_link(tmp_path: Path, other_disk: Path, linked: str) -> None:
    (other_disk / "out").mkdir()
    (tmp_path / linked).parent.mkdir(exist_ok=True)
    (tmp_path / linked).symlink_to(other_disk / Path(linked).relative_to("data"))
    for number in range(2):
        (tmp_path / "new").mkdir()
        (tmp_path / f"new/{number}").write_text("whole", encoding="utf-8")
        publish_folder(tmp_path / "new", tmp_path / "data/out")
        assert [path.name for path in other_disk.rglob("*")] == ["out", f"{number}"]
        assert (tmp_path / f"data/out/{number}").read_text(encoding="utf-8") == "whole"
        assert not (tmp_path / "new").exists()
    assert (tmp_path / linked).is_symlink()


def test_a_second_run_with_the_same_work_waits_and_looks_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch, found = tmp_path / ".scratch/edges-1", []

    def second() -> None:
        with exclusive(scratch):
            found.append(sorted(path.name for path in scratch.iterdir()))

    for published in (False, True):
        with exclusive(scratch):
            (scratch / "part").touch()
            waiting = threading.Thread(target=second)
            waiting.start()
            waiting.join(0.3)
            assert waiting.is_alive()
            if published:
                shutil.rmtree(scratch)
        waiting.join(10)
    assert found == [["part"], []]
    told = capsys.readouterr().err
    assert re.search(rf"edges-1: process {os.getpid()} on \S+ \(since 20\S+\+00:00\) works on the same", told)
    with exclusive(scratch), exclusive(tmp_path / ".scratch/edges-2"):  # other work goes on beside it
        assert not list(tmp_path.glob(".scratch/edges-*.lock"))


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder to which nothing from `tmp_path` can be renamed."""
    memory = Path("/dev/shm")  # noqa: S108  a file system of its own on Linux
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@given(st.dictionaries(st.text(max_size=5), st.integers()), st.dictionaries(st.text(max_size=5), st.integers()))
def test_digests_tell_values_apart_and_not_their_order(first: dict[str, int], second: dict[str, int]) -> None:
    assert (digest_of(first) == digest_of(second)) == (first == second)
    assert digest_of(dict(reversed(first.items()))) == digest_of(first)


def test_digests_of_code_differ_between_rooms() -> None:
    assert digest_of_code("data", "params.py") == digest_of_code("params.py", "data") != digest_of_code("data")


@pytest.mark.parametrize("read", [read_table, read_json, digest_of_file])
def test_a_missing_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(PipelineError, match=r"gone\.x"):
        read(tmp_path / "gone.x")


def test_a_table_that_lacks_a_column_is_named_with_it(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", pa.table({"a": [1]}))
    with pytest.raises(PipelineError, match=r"t\.parquet: lacks the columns \['b'\]"):
        read_table(tmp_path / "t.parquet", pa.schema([("a", pa.int64()), ("b", pa.int64())]))


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="holds no shards"):
        shard_paths(tmp_path)


def test_every_flipped_bit_of_a_sealed_record_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    values = {"name": "é", "params": {"rate": 0.1, "sizes": [160, 224]}, "state": ""}
    write_sealed(path, values)
    assert read_sealed(path) == values
    whole, found = path.read_bytes(), 0
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                read = read_sealed(path)
            except PipelineError:
                found += 1
                continue
            assert {name: read[name] for name in values} == values
    assert found > 6 * len(whole)


def test_a_record_of_before_there_were_seals_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "old"})
    assert read_sealed(tmp_path / "run.json") == {"name": "old"}
