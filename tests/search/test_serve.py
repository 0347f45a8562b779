from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from pipeline_lib.search.opening import Run
from tests.pipeline.support import ROOT


def test_the_server_answers_and_ends_in_order(finished_run: Run) -> None:
    command = [sys.executable, "-m", "pipeline_lib.search.serve", "--port", "0"]
    command += ["--params", str(finished_run.root / "params.yaml")]
    # Its own session, as of a terminal: a shell's background jobs would ignore the interrupt.
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        assert "12 photos of folder: http://127.0.0.1:" in said
        address = said.split(": ")[1].split()[0]
        port = address.rstrip("/").rpartition(":")[2]
        with urllib.request.urlopen(f"{address}api/health", timeout=60) as answer:  # noqa: S310  this machine
            assert json.loads(answer.read())["status"] == "ok"
        second = subprocess.run([*command, "--port", port], cwd=ROOT, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert second.stderr.startswith(f"error: 127.0.0.1:{port}: can't be listened on")
        (worker,) = psutil.Process(server.pid).children()
        server.send_signal(signal.SIGINT)
        _, complaints = server.communicate(timeout=120)
    assert server.returncode == 0
    assert complaints == ""
    assert not worker.is_running()


def test_without_a_trained_model_the_server_says_what_to_run(finished_run: Run, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((finished_run.root / "params.yaml").read_bytes())
    command = [sys.executable, "-m", "pipeline_lib.search.serve", "--port", "0"]
    command += ["--params", str(tmp_path / "params.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "run `make repro` first" in done.stderr
    assert "Traceback" not in done.stderr
