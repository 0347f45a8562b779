"""How stages end: by Ctrl-C, with `dvc` gone, beside another, and on terminals of little."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.pipeline.support import HANGS, ROOT, STAGES

Start = Callable[..., "subprocess.Popen[str]"]
INTERRUPTED = "interrupted; finished parts are kept\n"
WAITS = "time.sleep(60)"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a stage of a small tree that says what is told and then does something, and waits until it has said so."""
    (tmp_path / "stages").mkdir()
    for name in ("params.yaml", "stages/common.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "pipeline_lib").symlink_to(ROOT / "pipeline_lib")
    running: list[subprocess.Popen[str]] = []

    def started(does: str, *, loading: str = "", more: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        script = tmp_path / "stages" / "short.py"
        script.write_text(
            f"import time\nfrom common import run\n{loading}\ndef main(params, data, metrics):\n"
            f"    print('begun', flush=True)\n    {does}\nif __name__ == '__main__':\n    run(main)\n",
            encoding="utf-8",
        )
        process = subprocess.Popen(
            [sys.executable, str(script)], env={**os.environ, **(more or {})}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
        running.append(process)
        return process

    yield started
    for process in running:
        process.kill()
        process.communicate()


def begun(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_ctrl_c_of_a_stage_is_one_sentence(start: Start) -> None:
    process = begun(start(WAITS))
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=HANGS) == ("", INTERRUPTED)
    assert process.returncode == 130


def test_ctrl_c_while_libraries_are_loaded_is_one_sentence(start: Start) -> None:
    process = begun(start("pass", loading=f"print('begun', flush=True)\n{WAITS}"))
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=HANGS) == ("", INTERRUPTED)
    assert process.returncode == -signal.SIGINT


def test_a_second_ctrl_c_while_a_stage_ends_adds_nothing(start: Start) -> None:
    process = begun(start(WAITS, loading="import atexit; atexit.register(time.sleep, 60)"))
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == INTERRUPTED
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_ctrl_c_reaches_the_workers_of_a_stage_in_silence(start: Start) -> None:
    """A terminal sends it to all of them."""
    shards = "from pipeline_lib.data.tasks import map_shards; from tests.pipeline.test_ends import Sleep, sleep; "
    shards += "map_shards(sleep, [Sleep(n) for n in range(4)], workers=2, description='', unit='')"
    process = start(shards, more={"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"})
    begun(process)
    family = workers_of(process)
    for each in (process, *family):
        with suppress(psutil.NoSuchProcess):  # the stage has ended it already
            each.send_signal(signal.SIGINT)
    assert process.communicate(timeout=HANGS) == ("", INTERRUPTED)
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    end = time.monotonic() + HANGS
    while time.monotonic() < end:
        found = [each for each in psutil.Process(process.pid).children() if "--multiprocessing-fork" in each.cmdline()]
        if len(found) == 2:
            return found
        time.sleep(0.01)
    raise AssertionError


class Sleep:
    """A task that takes long."""

    def __init__(self, number: int) -> None:
        self.path, self.rows = Path(f"missing-{number}.parquet"), 1


def sleep(_: Sleep) -> dict[str, int]:
    time.sleep(60)
    return {"rows": 1}


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_runs_by_what_all_stages_share_and_loads_it_first(name: str) -> None:
    lines = ast.parse((ROOT / f"stages/{name}.py").read_text(encoding="utf-8")).body
    place = next(line.lineno for line in lines if isinstance(line, ast.ImportFrom) and line.module == "common")
    before = {"__future__", "common", *sys.stdlib_module_names}
    for line in lines:
        if isinstance(line, ast.Import | ast.ImportFrom) and line.lineno < place:
            names = [line.module or ""] if isinstance(line, ast.ImportFrom) else [each.name for each in line.names]
            assert {each.partition(".")[0] for each in names} <= before
    assert ast.unparse(lines[-1]).endswith("run(main)")


def test_names_that_a_terminal_cannot_show_do_not_end_a_stage(start: Start) -> None:
    process = start(r"print('Gr\u00f6\u00dfe \u5199 \udcff')", more={"PYTHONIOENCODING": "ascii"})
    assert process.communicate(timeout=HANGS) == ("begun\n" + r"Gr\xf6\xdfe \u5199 \udcff" + "\n", "")
    assert process.returncode == 0


def test_a_stage_beside_another_waits_and_says_for_whom(start: Start) -> None:
    first = begun(start(WAITS))
    second = start("pass")
    assert second.stderr is not None
    told = second.stderr.readline()
    assert f"short: process {first.pid} on " in told
    assert told.endswith("works on the same; waiting until it is done\n")
    first.kill()
    assert second.communicate(timeout=HANGS)[0] == "begun\n"
    assert second.returncode == 0


def test_of_processes_that_train_together_the_first_alone_holds_the_lock(start: Start) -> None:
    begun(start(WAITS, more={"TORCHELASTIC_RUN_ID": "test", "RANK": "0"}))
    begun(start("pass", more={"TORCHELASTIC_RUN_ID": "test", "RANK": "1"}))
    third = start("pass", more={"RANK": "1"})  # some schedulers set this too
    assert third.stderr is not None
    assert third.stderr.readline().endswith("works on the same; waiting until it is done\n")


def test_a_stage_ends_when_the_dvc_that_runs_it_is_killed(start: Start, tmp_path: Path) -> None:
    start("pass").communicate(timeout=HANGS)
    script = tmp_path / "stages/short.py"
    script.write_text(script.read_text(encoding="utf-8").replace("    pass", f"    {WAITS}"), encoding="utf-8")
    code = "import subprocess, sys; subprocess.run([sys.executable, sys.argv[1]])"
    for stage, ends in (("short", True), ("", False)):
        environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
        more = {"DVC_STAGE": stage} if stage else {}
        with subprocess.Popen(
            [sys.executable, "-c", code, str(script)], env={**environment, **more}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, encoding="utf-8",
        ) as parent:  # fmt: skip
            begun(parent)
            (child,) = psutil.Process(parent.pid).children()
            parent.kill()
            _, alive = psutil.wait_procs([child], timeout=10 if ends else 2)
            assert bool(alive) != ends
            for each in alive:
                each.kill()
            assert parent.stderr is not None
            assert ("dvc, which ran this stage, is gone" in parent.stderr.read()) == ends
