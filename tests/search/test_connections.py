"""A real server on a socket, and clients that are silent, slow, or many."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn

from pipeline_lib.search import connections, guard
from pipeline_lib.search.api import create_app
from pipeline_lib.search.engine import SearchEngine
from pipeline_lib.search.serve import configured
from pipeline_lib.search.service import Settings

BODY = json.dumps({"strokes": [{"points": [[0.2, 0.2], [0.8, 0.7], [0.3, 0.9]], "width": 0.02}], "top": 3}).encode()
UNFINISHED = b"POST /api/search/image HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 90000\r\n\r\n"
HALF = b"GET /api/health HTTP/1.1\r\nhost: 127."
WHOLE = b"GET /api/health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@contextmanager
def serving(engine: SearchEngine) -> Iterator[int]:
    """The port of a server."""
    app = create_app(engine, Settings(), version="v1")
    server = uvicorn.Server(configured(app))
    with socket.create_server(("127.0.0.1", 0), backlog=600) as listening:
        port = int(listening.getsockname()[1])
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        running.start()
        try:
            yield port
        finally:
            server.should_exit = True
            running.join(20)
    assert not running.is_alive()


@pytest.fixture
def port(engine: SearchEngine) -> Iterator[int]:
    with serving(engine) as opened:
        yield opened


@contextmanager
def clients(port: int, count: int, says: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections, each of which has said something."""
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            client.sendall(says)
            opened.append(client)
        yield opened


def search(port: int) -> float:
    """Searches as a well-behaved client, which connects and asks; returns the seconds that it took."""
    started = time.monotonic()
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("POST", "/api/search/strokes", BODY, {"content-type": "application/json"})
    answer = client.getresponse()
    assert answer.status == 200
    assert len(json.loads(answer.read())["found"]) == 3
    client.close()
    return time.monotonic() - started


def test_no_part_of_an_answer_waits_for_the_client_to_acknowledge_another(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    seconds = []
    for _ in range(40):
        started = time.monotonic()
        client.request("GET", "/api/health")
        client.getresponse().read()
        seconds.append(time.monotonic() - started)
    client.close()
    # A system acknowledges late, after 40 ms or more, once it has seen requests and answers take turns.
    assert min(seconds[20:]) < 0.035


def is_closed(client: socket.socket, seconds: float) -> bool:
    """Whether the server ends a connection within some time; what it says before does not count."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        client.settimeout(left)
        try:
            if not client.recv(1 << 16):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


@pytest.mark.parametrize(
    "says",
    [b"", HALF, UNFINISHED, UNFINISHED + b"x" * 1000, WHOLE],
    ids=["silent", "half a head", "no body", "half a body", "one request"],
)
def test_whatever_512_others_do_or_leave_undone_a_search_is_answered(port: int, says: bytes) -> None:
    search(port)
    with clients(port, 512, says):
        assert max(search(port) for _ in range(5)) < 2


def test_where_all_others_are_uploading_the_first_of_them_makes_room(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "OF_ONE_ADDRESS", 4)
    with serving(engine) as port, clients(port, 4, UNFINISHED) as uploading:
        time.sleep(0.5)  # until all of them are known to be uploads
        assert search(port) < 2
        assert is_closed(uploading[0], 2)
        assert not is_closed(uploading[3], 0.2)


def test_eighty_unfinished_uploads_leave_room_for_another(port: int) -> None:
    with clients(port, 80, UNFINISHED + b"x" * 40_000):
        assert search(port) < 2
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("POST", "/api/search/image", b"no picture")
        assert client.getresponse().status == 415
        client.close()


def test_a_request_that_never_comes_whole_ends_its_connection(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.SECONDS, "head", 0.5)
    with serving(engine) as port, clients(port, 2) as (silent, slow):
        started = time.monotonic()
        for sign in HALF.decode():
            try:
                slow.sendall(sign.encode())
            except OSError:
                break
            time.sleep(0.05)
        assert time.monotonic() - started < 3
        assert is_closed(slow, 1)
        assert is_closed(silent, 1)
        search(port)


def test_between_requests_a_connection_is_kept_and_then_ended(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.SECONDS, "head", 0.3)
    monkeypatch.setitem(connections.SECONDS, "idle", 1.5)
    with serving(engine) as port, clients(port, 1, WHOLE) as (client,):
        time.sleep(0.8)  # longer than a request may take to come
        client.sendall(WHOLE)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert not is_closed(client, 0.8)
        assert is_closed(client, 2)


def test_a_body_that_comes_too_slowly_is_answered_with_408(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    with serving(engine) as port, clients(port, 1, UNFINISHED) as (client,):
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 408")


def test_the_slowest_of_too_many_bodies_makes_room(engine: SearchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_BODIES", 2)
    monkeypatch.setattr(guard, "BODY_RATE", 10_000)
    with serving(engine) as port, clients(port, 2, UNFINISHED) as (slow, fast):
        fast.sendall(b"x" * 50_000)
        time.sleep(0.3)
        with clients(port, 1, UNFINISHED) as (new,):
            answer = slow.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in answer
            for other in (fast, new):
                assert not is_closed(other, 0.3)


def test_bodies_take_only_so_much_memory_together(engine: SearchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_BYTES", 100_000)
    with serving(engine) as port, clients(port, 3, UNFINISHED + b"x" * 80_000) as opened:
        time.sleep(0.5)
        assert [b"HTTP/1.1 503" in _said(client) for client in opened].count(True) == 2
        assert search(port) < 2


def _said(client: socket.socket) -> bytes:
    client.settimeout(0.1)
    try:
        return client.recv(1 << 16)
    except OSError:
        return b""


def test_whoever_does_not_read_the_answer_is_left(engine: SearchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.SECONDS, "answer", 0.5)
    with serving(engine) as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.settimeout(20)
        for _ in range(400):  # 25 MB of answers, which no buffer of the system holds
            try:
                client.sendall(b"GET /words.js HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            except OSError:
                break
        time.sleep(1.5)
        search(port)
        assert is_closed(client, 10)  # once what had been sent is read


def test_of_one_address_only_so_many_connections_stay_and_the_most_silent_goes_first(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "OF_ONE_ADDRESS", 3)
    with serving(engine) as port, clients(port, 1, WHOLE) as (asking,):
        assert asking.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with clients(port, 4) as silent:
            assert is_closed(silent[0], 2)
            assert is_closed(silent[1], 2)
            assert not any(is_closed(other, 0.2) for other in (asking, *silent[2:]))
