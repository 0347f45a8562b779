from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline_lib.index import remote
from pipeline_lib.run import Run
from pipeline_lib.search import index_photos, serve, service
from pipeline_lib.search.__main__ import main
from pipeline_lib.search.engine import SearchEngine, open_encoder, open_engine
from pipeline_lib.search.index_photos import update
from pipeline_lib.search.serve import announce, create, on_desktop
from pipeline_lib.search.service import Settings
from tests.conftest import scene
from tests.pipeline.support import ROOT

SERVE = [sys.executable, "-m", "pipeline_lib.search", "serve", "--port", "0"]


@contextlib.contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and what it has said first; it is interrupted in the end."""
    # Its own session, as of a terminal: a shell's background jobs would ignore the interrupt.
    with subprocess.Popen(
        [*SERVE, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline()]
        while lines[-1] and "http://" not in lines[-1]:
            lines.append(server.stdout.readline())
        try:
            yield server, "".join(lines)
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(120)
            except subprocess.TimeoutExpired:
                server.kill()  # the block would wait for it without end
                raise


def answer(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as found:  # noqa: S310
            return found.status, found.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_the_server_answers_and_ends_in_order(finished_run: Run) -> None:
    options = ("--name", "photos.example", "--run", str(finished_run.folder), "--threads", "1")
    with serving(*options) as (server, said):
        assert "12 photos of folder: http://127.0.0.1:" in said
        address = said.split(": ")[1].split()[0]
        port = address.rstrip("/").rpartition(":")[2]
        status, body = answer(f"{address}api/health")
        assert (status, json.loads(body)["status"]) == (200, "ok")
        assert answer(f"{address}api/health", host="photos.example")[0] == 200
        second = subprocess.run(
            [*SERVE, *options, "--port", port], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert second.stderr.startswith(f"error: 127.0.0.1:{port}: can't be listened on")
        (worker,) = psutil.Process(server.pid).children()
        server.send_signal(signal.SIGINT)
        _, complaints = server.communicate(timeout=120)
        assert server.returncode == 0
        assert complaints == ""
    assert not worker.is_running()


def test_photos_that_are_named_are_indexed_first_and_only_once(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        Image.fromarray(scene(seed)).save(folder / f"{seed}.png")
    options = ("--run", str(run.folder), "--photos", str(folder))
    for added in ("3 embedded", "0 embedded"):
        with serving(*options) as (_, said):
            assert added in said
            assert "3 photos of photos: http://127.0.0.1:" in said
    (folder / "1.png").unlink()
    with serving(*options) as (_, said):
        assert "2 photos of photos" in said


def test_a_shared_server_prints_its_address_and_code_and_demands_the_token(finished_run: Run) -> None:
    with serving("--run", str(finished_run.folder), "--share") as (_, said):
        address = said.split(": ")[1].split()[0]
        assert "/?token=" in address
        page, _, token = address.partition("?token=")
        assert answer(f"{page}api/health")[0] == 401
        assert answer(f"{page}api/health", authorization="Bearer guess")[0] == 401
        assert answer(f"{page}api/health", authorization=f"Bearer {token}")[0] == 200


def test_what_is_told_of_where_it_is_served(engine: SearchEngine, capsys: pytest.CaptureFixture[str]) -> None:
    announce(engine, "http://127.0.0.1:1/", [], guarded=True)
    assert capsys.readouterr().out == "12 photos of folder: http://127.0.0.1:1/  (Ctrl-C ends)\n"
    announce(
        engine, "http://127.0.0.1:1/", ["http://192.168.1.2:1/?token=x", "http://10.0.0.2:1/?token=x"], guarded=True
    )
    said = capsys.readouterr().out.splitlines()
    assert said[1].endswith("http://192.168.1.2:1/?token=x  or  http://10.0.0.2:1/?token=x")
    assert len(said) > 10  # the QR code
    announce(engine, "http://127.0.0.1:1/", [], guarded=False)
    assert "whoever reaches this address sees your photos" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "opened"), [("--open", True), ("--no-open", False), ("", False)])
def test_a_browser_is_opened_where_that_is_asked_for(
    finished_run: Run, option: str, *, opened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: queue.Queue[str] = queue.Queue()

    def serve_nothing(_: object, __: object, ready: Callable[[], None], *___: object) -> None:
        ready()

    monkeypatch.setattr(webbrowser, "open", shown.put)
    monkeypatch.setattr(serve, "serve_engine", serve_nothing)
    words = ["serve", "--port", "0", "--run", str(finished_run.folder), *([option] if option else [])]
    assert main(words) == 0
    if opened:
        assert shown.get(timeout=60).startswith("http://127.0.0.1:")
    assert shown.empty()


def test_an_interrupt_in_the_moment_in_which_it_is_announced_ends_it_in_order(
    finished_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(serve, "announce", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert main(["serve", "--port", "0", "--no-open", "--run", str(finished_run.folder)]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().out == "ended\n"


def test_a_browser_opens_by_itself_on_a_desktop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert on_desktop()
    monkeypatch.delenv("DISPLAY")
    assert not on_desktop()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert on_desktop()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert not on_desktop()


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
        Image.fromarray(scene(seed)).save(folder / "one.png")
        update(run, [folder], lambda: open_encoder(run, 1))
        with closing(open_engine(run, "own")) as engine, TestClient(create(engine, Settings(), "127.0.0.1")) as client:
            kept.append(tuple(engine.gallery.paths))
            versions.append(client.get("/api/model", headers={"host": "localhost"}).json()["version"])
    assert kept == [("one.png",)] * 3
    # Written again with the same content, it is the same photo.
    assert versions[0] == versions[1] != versions[2]
    with closing(open_engine(run, "own")) as engine:
        again = create(engine, Settings(), "127.0.0.1")
    assert again.state.service.version == versions[-1]


def test_without_a_finished_run_the_server_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", "--run", str(tmp_path)]) == 1
    assert "make it with `make repro`, or with `make run RECIPE=NAME`" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["--threads=0", "--batch=many", "--batch=-1", "--batch=1025"])
def test_a_limit_out_of_range_is_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", argument])
    assert "is not a number from 1 to 1024" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_photos_are_indexed_or_the_model_is_loaded(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("was loaded")

    for name in ("open_engine", "chosen"):
        monkeypatch.setattr(serve, name, refuse)
    monkeypatch.setattr(index_photos, "run", refuse)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--port", port, "--photos", str(tmp_path), "--run", str(finished_run.folder)]) == 1
    assert f"127.0.0.1:{port}: can't be listened on" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_index_process_that_hangs_is_noticed_by_health_and_replaced(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOOK", 0.2)
    monkeypatch.setattr(remote, "LOOK_SECONDS", 1.0)
    monkeypatch.setattr(remote, "SILENT_SECONDS", 0.3)
    with closing(open_engine(run)) as engine, TestClient(create(engine, Settings(), "127.0.0.1")) as client:

        def status() -> str:
            return str(client.get("/api/health", headers={"host": "localhost"}).json()["status"])

        assert status() == "ok"
        pid = engine.faiss.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        for wanted in ("degraded", "ok"):
            end = time.monotonic() + 60
            while status() != wanted:
                assert time.monotonic() < end
                time.sleep(0.02)
        assert engine.faiss.pid != pid
        assert len(engine.search([engine.prepare(scene(1))], 3)[0]) == 3
