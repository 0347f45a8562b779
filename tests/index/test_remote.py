from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from pipeline_lib.errors import PipelineError
from pipeline_lib.index import remote
from pipeline_lib.index.facts import BuildJob
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.index.worker import accept
from tests.support import write_embeddings

ROOT = Path(__file__).resolve().parents[2]
PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from pipeline_lib.index.remote import RemoteFaiss
faiss = RemoteFaiss()
faiss.open(Path(sys.argv[2]), 1)
print(faiss.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def job(tmp_path: Path) -> BuildJob:
    vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    table = write_embeddings(tmp_path / "photos.parquet", [f"photo/{number:02d}" for number in range(40)], vectors)
    return BuildJob((table,), None, "none", "exact", 0, tmp_path / "index")


@pytest.fixture
def faiss() -> Iterator[RemoteFaiss]:
    started = RemoteFaiss()
    yield started
    started.close()


def test_it_builds_opens_and_searches_in_another_process(faiss: RemoteFaiss, job: BuildJob) -> None:
    assert not faiss.alive
    facts = faiss.build(job)
    assert faiss.open(job.out, 1) == facts
    assert faiss.alive
    assert faiss.pid != os.getpid()
    # More than one packet in each direction.
    queries = np.tile(np.eye(8, dtype=np.float32), (400, 1))
    found = faiss.search(queries, 40)
    assert len(found) == 3200
    assert sorted(found[0][0]) == list(range(40))
    pid = faiss.pid
    faiss.close()
    assert not psutil.pid_exists(pid)


def test_one_that_was_begun_is_the_one_that_is_asked_and_closing_it_at_once_leaves_none(
    faiss: RemoteFaiss, job: BuildJob
) -> None:
    faiss.begin()
    facts = faiss.build(job)
    pid = faiss.pid
    faiss.begin()
    assert faiss.open(job.out, 1) == facts
    assert faiss.pid == pid
    faiss.close()
    before = psutil.Process().children()
    faiss.begin()
    faiss.close()
    assert (faiss.pid, psutil.Process().children()) == (None, before)


def test_a_look_at_one_that_was_closed_starts_no_worker(faiss: RemoteFaiss, job: BuildJob) -> None:
    """A server that has taken a new index has closed the process of the one before, and still looks at it."""
    faiss.build(job)
    faiss.open(job.out, 1)
    faiss.close()
    faiss.look()
    assert faiss.pid is None


def test_a_worker_that_was_killed_is_started_again(faiss: RemoteFaiss, job: BuildJob) -> None:
    faiss.build(job)
    faiss.open(job.out, 1)
    query = np.ones((1, 8), np.float32)
    before = faiss.search(query, 3)[0][0].tolist()
    psutil.Process(faiss.pid).kill()
    assert faiss.search(query, 3)[0][0].tolist() == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_worker_that_hangs_is_noticed_and_replaced(
    faiss: RemoteFaiss, job: BuildJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.6)
    monkeypatch.setattr(remote, "SILENT_SECONDS", 0.2)
    faiss.build(job)
    faiss.look()  # nothing is open, so nothing is asked
    faiss.open(job.out, 1)
    query = np.ones((1, 8), np.float32)
    before, pid = faiss.search(query, 3)[0][0].tolist(), faiss.pid
    faiss.look()
    assert (faiss.answers, faiss.pid) == (True, pid)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    looking = threading.Thread(target=faiss.look)
    looking.start()
    end = time.monotonic() + 10
    while faiss.answers:
        assert time.monotonic() < end
        time.sleep(0.01)
    looking.join(60)
    assert faiss.answers
    assert faiss.pid != pid
    assert not psutil.pid_exists(pid)
    assert faiss.search(query, 3)[0][0].tolist() == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_worker_that_hangs_in_a_search_is_replaced_and_the_search_answered(
    faiss: RemoteFaiss, job: BuildJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SEARCH_SECONDS", 1.0)
    faiss.build(job)
    faiss.open(job.out, 1)
    query = np.ones((1, 8), np.float32)
    before, pid = faiss.search(query, 3)[0][0].tolist(), faiss.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert faiss.search(query, 3)[0][0].tolist() == before
    assert faiss.pid != pid


def test_a_worker_that_has_died_is_replaced_before_anyone_searches(faiss: RemoteFaiss, job: BuildJob) -> None:
    faiss.build(job)
    faiss.open(job.out, 1)
    psutil.Process(faiss.pid).kill()
    psutil.wait_procs([psutil.Process(faiss.pid)] if psutil.pid_exists(faiss.pid) else [], 10)
    assert not faiss.answers
    faiss.look()
    assert faiss.answers


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX lists open files of other processes")
def test_the_worker_inherits_no_file_of_its_parent(faiss: RemoteFaiss, job: BuildJob, tmp_path: Path) -> None:
    with (tmp_path / "private.txt").open("w") as file, socket.create_server(("127.0.0.1", 0)) as listening:
        for opened in (file.fileno(), listening.fileno()):
            os.set_inheritable(opened, True)  # as careless libraries do
        faiss.build(job)
        worker = psutil.Process(faiss.pid)
        assert str(tmp_path / "private.txt") not in [found.path for found in worker.open_files()]
        ports = {found.laddr.port for found in worker.net_connections()}
        assert listening.getsockname()[1] not in ports
        # Its standard streams, and the one connection: it no longer listens.
        assert [found.status for found in worker.net_connections()] == [psutil.CONN_ESTABLISHED]


def test_the_key_is_in_no_list_of_processes(faiss: RemoteFaiss, job: BuildJob, monkeypatch: pytest.MonkeyPatch) -> None:
    key = bytes(range(65, 65 + remote.KEY_BYTES))
    monkeypatch.setattr(secrets, "token_bytes", lambda _: key)
    faiss.build(job)
    worker = psutil.Process(faiss.pid)
    assert key.decode() not in " ".join(worker.cmdline())
    assert key.decode() not in str(worker.environ())


def test_whoever_has_a_wrong_key_or_none_is_sent_away() -> None:
    accepted: list[Connection] = []
    with Listener(("127.0.0.1", 0), authkey=b"right") as listener:
        assert isinstance(listener.address, tuple)
        address = ("127.0.0.1", int(listener.address[1]))
        waiting = threading.Thread(target=lambda: accepted.append(accept(listener)))
        waiting.start()
        with pytest.raises(AuthenticationError):
            Client(address, authkey=b"wrong")
        with socket.create_connection(address) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with socket.create_connection(address):
            pass  # leaves at once
        assert accepted == []
        with Client(address, authkey=b"right") as known:
            waiting.join(10)
            accepted[0].send("hello")
            assert known.recv() == "hello"
            accepted[0].close()


@pytest.mark.parametrize(
    ("start", "seconds", "words"),
    [
        ("raise SystemExit(3)", 60.0, "it ended with status 3"),
        ("print('no port', flush=True); import sys; sys.stdin.read()", 60.0, "no port"),
        ("import time; time.sleep(60)", 0.5, "it took more than 0.5 s"),
    ],
)
def test_a_worker_that_does_not_start_is_told_in_a_sentence(
    start: str, seconds: float, words: str, faiss: RemoteFaiss, job: BuildJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "START", start)
    monkeypatch.setattr(remote, "START_SECONDS", seconds)
    with pytest.raises(PipelineError, match=f"the process that holds FAISS can't be started: .*{words}"):
        faiss.build(job)
    assert not faiss.alive


def test_the_worker_ends_with_its_parent_however_that_ends(faiss: RemoteFaiss, job: BuildJob) -> None:
    faiss.build(job)
    command = [sys.executable, "-c", PARENT, str(ROOT), str(job.out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        parent.kill()
    end = time.monotonic() + 20
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)
