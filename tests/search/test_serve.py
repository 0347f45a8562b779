from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline_lib.run import Run
from pipeline_lib.search.engine import SearchEngine, open_encoder, open_engine
from pipeline_lib.search.index_photos import update
from pipeline_lib.search.serve import create, main
from pipeline_lib.search.service import Settings
from tests.conftest import scene
from tests.pipeline.support import ROOT


def test_the_server_answers_and_ends_in_order(finished_run: Run) -> None:
    command = [sys.executable, "-m", "pipeline_lib.search.serve", "--port", "0", "--name", "photos.example"]
    command += ["--run", str(finished_run.folder), "--threads", "1", "--queue", "8"]
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
        named = urllib.request.Request(f"{address}api/health", headers={"host": "photos.example"})  # noqa: S310
        with urllib.request.urlopen(named, timeout=60) as answer:  # noqa: S310
            assert answer.status == 200
        second = subprocess.run([*command, "--port", port], cwd=ROOT, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert second.stderr.startswith(f"error: 127.0.0.1:{port}: can't be listened on")
        (worker,) = psutil.Process(server.pid).children()
        server.send_signal(signal.SIGINT)
        _, complaints = server.communicate(timeout=120)
    assert server.returncode == 0
    assert complaints == ""
    assert not worker.is_running()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])  # noqa: S104  nothing listens
def test_whatever_it_listens_on_the_server_answers_to_its_own_names_alone(engine: SearchEngine, host: str) -> None:
    machine = socket.gethostname()
    known = ["localhost", "127.0.0.1", "192.168.1.7", machine, f"{machine}.local", "Photos.example", "two.example"]
    with TestClient(create(engine, Settings(), host, ["photos.example", "Two.example"])) as client:
        answers = {name: client.get("/api/health", headers={"host": f"{name}:8000"}) for name in (*known, "a.example")}
    assert [answers[name].status_code for name in known] == [200] * len(known)
    assert answers["a.example"].status_code == 400


def test_the_name_that_it_listens_on_is_one_of_them(engine: SearchEngine) -> None:
    with TestClient(create(engine, Settings(), "Nas.example"), base_url="http://nas.example") as client:
        assert client.get("/api/health").status_code == 200


def test_a_photo_that_has_changed_under_its_name_gets_another_address(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    kept, versions = [], []
    for seed in (1, 1, 2):
        # The same path, and from the second time on the same size and pixels: what counts is when it was written.
        Image.fromarray(scene(seed)).save(folder / "one.png")
        update(run, folder, open_encoder(run, 1))
        with closing(open_engine(run, "own")) as engine, TestClient(create(engine, Settings(), "127.0.0.1")) as client:
            kept.append(engine.gallery.paths)
            versions.append(client.get("/api/model", headers={"host": "localhost"}).json()["version"])
    assert kept == [("one.png",)] * 3
    assert len(set(versions)) == 3
    with closing(open_engine(run, "own")) as engine:
        again = create(engine, Settings(), "127.0.0.1")
    assert again.state.service.version == versions[-1]


def test_without_a_finished_run_the_server_says_what_to_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline_lib.search.serve", "--port", "0", "--run", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "make it with `make repro`, or with `make run RECIPE=NAME`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argument", ["--threads=0", "--batch=many", "--queue=-1", "--queue=1025"])
def test_a_limit_out_of_range_is_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([argument])
    assert "is not a number from 1 to 1024" in capsys.readouterr().err
