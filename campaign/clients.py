"""The real server on the loopback, clients that behave, and clients that do not."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import psutil  # type: ignore[import-untyped]

from benchmarks.timing import ROOT
from campaign.sandbox import DRAWFIND, HANGS, index_command, limited, must, ran
from tests.pipeline.support import environment

HOSTILE: Final = "127.0.0.2"
"""Where clients come from that do not behave, so that a limit by address does not meet the others."""
SOON: Final = 2.0
"""Seconds within which whoever is admitted is to be answered."""


class Server:
    """`drawfind serve` over an index of some photos, and the largest memory that it was seen to take."""

    def __init__(self, photos: Path, top: Path, *, limit: bool = False) -> None:
        """Indexes the photos below `top`; with `limit` the server gets 2 GB of memory."""
        self.photos, self.place, self.env = photos, top / "own index", environment(top / "home")
        self.limit = limit
        self.peak = 0.0  # MB
        self._stop = threading.Event()
        must(ran(index_command(photos, self.place), ROOT, self.env))

    def __enter__(self) -> Self:
        words = [*DRAWFIND, "serve", "--index", str(self.place), "--port", "0", "--no-open"]
        self._said = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            limited(words) if self.limit else words,
            cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._said, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None  # noqa: S101  it is a pipe
        started = threading.Timer(HANGS, self.process.kill)
        started.start()
        said = ""
        while "http://" not in said:
            said = self.process.stdout.readline()
            if not said:
                raise RuntimeError(f"the server did not start: {self.words()}")
        started.cancel()
        self.address = "http://" + said.split("http://")[1].split("/")[0]
        self.port = int(self.address.rpartition(":")[2])
        self._stop.clear()
        self.peak = 0.0
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._watching.join()
        for child in self.children():
            with suppress(psutil.NoSuchProcess):
                child.resume()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None  # noqa: S101
        self.process.stdout.close()
        self._said.close()

    def words(self) -> str:
        """What it has complained of."""
        self._said.seek(0)
        return self._said.read().decode("utf-8", "replace")[-2000:]

    def children(self) -> list[psutil.Process]:
        """The processes that it has started: the one that holds FAISS."""
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.process.pid).children(recursive=True))
        return []

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            with suppress(psutil.Error):
                each = [psutil.Process(self.process.pid), *self.children()]
                self.peak = max(self.peak, sum(process.memory_info().rss for process in each) / 1e6)


@dataclass(frozen=True)
class Wish:
    """A request of a client that behaves, and the photo that it is to find first."""

    path: str
    body: bytes
    kind: str  # its content type
    first: str  # image_id


@dataclass(frozen=True)
class Answer:
    """How a wish was answered."""

    status: int  # 0 where the connection failed
    seconds: float
    fault: str  # "" where all is well

    @property
    def refused(self) -> bool:
        """Whether the server was busy."""
        return self.status == 503


def wishes(server: Server) -> list[Wish]:
    """Each photo itself, and a drawing of strokes; what it finds is learnt while nothing disturbs."""
    found = [
        Wish("/api/search/image?top=5&kind=photo", path.read_bytes(), "image/jpeg", str(path))
        for path in sorted(server.photos.glob("*.jpg"))
    ]
    for number in range(4):
        points = [[0.2 + 0.05 * step, 0.3 + 0.1 * number + 0.02 * (step % 3)] for step in range(12)]
        body = json.dumps({"strokes": [{"points": points}], "top": 5}).encode()
        answer = httpx.post(f"{server.address}/api/search/strokes", content=body, headers=JSON, timeout=HANGS)
        first = answer.raise_for_status().json()["found"][0]["image_id"]
        found.append(Wish("/api/search/strokes", body, JSON["content-type"], first))
    return found


JSON: Final = {"content-type": "application/json"}


async def ask(client: httpx.AsyncClient, wish: Wish) -> Answer:
    """Sends a wish, and judges the answer."""
    started = time.perf_counter()
    try:
        answer = await client.post(wish.path, content=wish.body, headers={"content-type": wish.kind})
    except httpx.HTTPError as failure:
        return Answer(0, time.perf_counter() - started, f"{type(failure).__name__} {failure}")
    seconds = time.perf_counter() - started
    return Answer(answer.status_code, seconds, _fault(answer, seconds, wish))


def _fault(answer: httpx.Response, seconds: float, wish: Wish) -> str:
    if seconds > SOON:
        return f"status {answer.status_code} after {seconds:.1f} s"
    if answer.status_code == 503:
        return "" if "retry-after" in answer.headers else "503 without Retry-After"
    if answer.status_code != 200:
        return f"status {answer.status_code}: {answer.text[:200]}"
    found = [one["image_id"] for one in answer.json()["found"]]
    # By name: an answer need not tell where a photo lies.
    right = bool(found) and Path(found[0]).name == Path(wish.first).name
    return "" if right else f"found {found[:2]} for {wish.first}"


def ask_often(server: Server, asked: Sequence[Wish], rate: float, seconds: float) -> list[Answer]:
    """Sends `rate` wishes a second, on schedule whether or not earlier ones are answered."""

    async def every() -> list[Answer]:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        async with httpx.AsyncClient(base_url=server.address, timeout=30, limits=limits) as client:
            started, tasks = time.perf_counter(), []
            for number in range(max(1, round(rate * seconds))):
                await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
                tasks.append(asyncio.create_task(ask(client, asked[number % len(asked)])))
            return list(await asyncio.gather(*tasks))

    return asyncio.run(every())


class Background:
    """Something that goes on in threads while a `with` block runs."""

    def __init__(self, work: Callable[[threading.Event], None], threads: int = 1) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, args=(self._stop,), daemon=True) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def crowd(port: int, count: int, first: bytes, drip: bytes = b"") -> Background:
    """So many connections that send `first`, then a little now and then, or nothing; a closed one is opened again."""

    def work(stop: threading.Event) -> None:
        open_: dict[int, socket.socket] = {}
        while not stop.wait(0.2):
            for number in range(count):
                if stop.is_set():
                    break
                _keep(open_, number, port, first, drip)
        for each in open_.values():
            each.close()

    return Background(work)


def _keep(open_: dict[int, socket.socket], number: int, port: int, first: bytes, drip: bytes) -> None:
    """Opens a connection, or sends a little over one that is open."""
    try:
        if number not in open_:
            open_[number] = socket.create_connection(("127.0.0.1", port), 0.3, (HOSTILE, 0))
            open_[number].sendall(first)
            open_[number].settimeout(0)
        elif drip:
            open_[number].send(drip)
        with suppress(BlockingIOError, TimeoutError):
            if not open_[number].recv(4096):
                open_.pop(number).close()
    except OSError:
        if number in open_:
            open_.pop(number).close()


def posts(port: int, path: str, body: bytes, threads: int) -> Background:
    """Sends the same body again and again, in several threads, at most five times a second each."""

    def work(stop: threading.Event) -> None:
        while not stop.wait(0.2):
            connection = http.client.HTTPConnection("127.0.0.1", port, 30, source_address=(HOSTILE, 0))
            with suppress(OSError, http.client.HTTPException):
                connection.request("POST", path, body, JSON)
                connection.getresponse().read()
            connection.close()

    return Background(work, threads)


@dataclass(frozen=True)
class Reply:
    """What came back over a connection."""

    status: int  # 0 where nothing that is HTTP came
    body: bytes
    headers: dict[str, str]


def talk(port: int, data: bytes, seconds: float = 10.0) -> Reply:
    """Sends bytes as they are, and reads what comes back until the end or for so long."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), seconds, (HOSTILE, 0)) as connection:
        with suppress(OSError):  # the server may answer and close before all is sent
            connection.sendall(data)
        return _reply(connection)
    return Reply(0, b"", {})


def _reply(connection: socket.socket) -> Reply:
    answer = http.client.HTTPResponse(connection)
    try:
        answer.begin()
        body = answer.read(50_000_000)
    except (OSError, http.client.HTTPException, ValueError):
        return Reply(0, b"", {})
    return Reply(answer.status, body, {name.lower(): value for name, value in answer.getheaders()})


def request(line: str, body: bytes = b"", **headers: Any) -> bytes:
    """A request as bytes, with a Host and the length of its body unless they are given; None leaves a header out."""
    given = {"Host": "127.0.0.1", "Content-Length": len(body) or None, "Connection": "close", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value is not None]
    return "\r\n".join([f"{line} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body
