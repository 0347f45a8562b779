"""The real server, a small gallery: load, silent and slow and hostile clients, a search worker that dies or hangs.

A client that behaves gets the right answer within 2 s, or 503 with Retry-After; memory stays below 1 GB. What each kind
of load did to the times of answers goes to metrics/campaign_load.csv.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any, Final

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]

from benchmarks.timing import update_table
from campaign.clients import Answer, Server, Wish, ask_often, crowd, posts, request, talk, wishes
from campaign.hostile import attempts
from campaign.sandbox import draw
from campaign.tally import Plan, Tally
from pipeline_lib.data.cores import usable_cores

PHOTOS: Final = 40
RATE: Final = 50
"""Requests a second under load,"""
SECONDS: Final = 20.0
"""and for how long."""
CALM: Final = 4.0
"""Requests a second of the client that behaves while others do not."""
ATTACK: Final = 12.0
"""Seconds that each kind of attack lasts."""
MEMORY: Final = 1000.0
"""MB that the server and its worker may take."""
FAST: Final = 150.0
"""ms within which 95 of 100 answers come on idle cores."""
MOST_REFUSED: Final = 0.5
"""Part of a calm client's requests that may be refused while others attack."""
MENDED: Final = 20.0
"""Seconds within which a worker that died or hangs is replaced."""
TABLE: Final = "campaign_load.csv"
"""Beside the table of what held."""
COLUMNS: Final = ("what", "requests", "refused", "p50_ms", "p95_ms", "largest_ms", "memory_mb")


def run(plan: Plan) -> Iterator[Tally]:
    """All of it, each kind with a server of its own, so that what one does is not laid to the next."""
    top = plan.folder("server")
    photos = draw(top / "photos", range(PHOTOS))
    server = Server(photos, top)
    for what, beside in (("idle cores", nullcontext), ("busy cores", busy)):
        with server:
            yield loaded(plan, server, f"server: {RATE} a second, {what}", beside(), fast=what == "idle cores")
    for name, others in ATTACKS.items():
        with server:
            yield attacked(plan, server, f"server: beside {name}", others)
    with server:
        yield harassed(plan, server)
    for name, sent in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
        with server:
            yield without_worker(plan, server, f"server: search worker {name}", sent)


@contextmanager
def busy() -> Iterator[None]:
    """As many processes that compute as there are cores."""
    with ExitStack() as all_:
        for _ in range(usable_cores()):
            process = all_.enter_context(subprocess.Popen([sys.executable, "-c", "while True: sum(range(10_000))"]))
            all_.callback(process.kill)
        yield


def loaded(plan: Plan, server: Server, what: str, beside: Any, *, fast: bool) -> Tally:
    """As many requests as the server is to stand."""
    tally, asked = Tally(what), wishes(server)
    ask_often(server, asked, CALM, 2.0)  # everything has been touched once
    with beside:
        answers = ask_often(server, asked, RATE, max(2.0, SECONDS * plan.share))
    counted(tally, answers)
    figures = told(plan, what, answers, server)
    if fast:
        slow = figures["p95_ms"] > FAST
        tally.count(f"p95 is {figures['p95_ms']:.0f} ms, more than {FAST:.0f}" if slow else "", "times of answers")
    return in_memory(tally, server)


def counted(tally: Tally, answers: Sequence[Answer]) -> None:
    """Counts what a client that behaves got."""
    for number, answer in enumerate(answers):
        tally.count(answer.fault, f"request {number}")


def in_memory(tally: Tally, server: Server) -> Tally:
    """Counts whether the memory was bounded, too."""
    much = f"{server.peak:.0f} MB, more than {MEMORY:.0f}" if server.peak > MEMORY else ""
    tally.count(much, "memory of the server")
    return tally


def told(plan: Plan, what: str, answers: Sequence[Answer], server: Server) -> dict[str, float]:
    """The times of answers, written down and printed."""
    times = [1e3 * answer.seconds for answer in answers if not answer.refused] or [float("nan")]
    figures = {
        "requests": len(answers),
        "refused": round(sum(answer.refused for answer in answers) / len(answers), 4),
        "p50_ms": round(float(np.quantile(times, 0.5)), 1),
        "p95_ms": round(float(np.quantile(times, 0.95)), 1),
        "largest_ms": round(max(times), 1),
        "memory_mb": round(server.peak),
    }
    row = {"what": what, **{name: str(value) for name, value in figures.items()}}
    update_table(plan.out.with_name(TABLE), COLUMNS, ("what",), [row])
    print(f"{what}: {figures}", flush=True)
    return figures


def unfinished(length: int) -> bytes:
    """The beginning of an upload."""
    head = request("POST /api/search/image", Content_Length=length, Content_Type="image/png")
    return head + b"\x89PNG\r\n\x1a\n" + bytes(min(length, 2000))


def large_drawing(strokes: int, points: int) -> bytes:
    """A drawing that covers the page with lines."""
    random = np.random.default_rng(0)
    lines = [{"points": random.random((points, 2)).round(4).tolist(), "width": 1.0} for _ in range(strokes)]
    return json.dumps({"strokes": lines}).encode()


ATTACKS: Final[dict[str, Callable[[int], Any]]] = {
    "512 silent connections": lambda port: crowd(port, 512, b""),
    "100 slow headers": lambda port: crowd(port, 100, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X-A: b\r\n"),
    "100 slow bodies": lambda port: crowd(port, 100, unfinished(1_000_000), b"x"),
    "80 unfinished uploads": lambda port: crowd(port, 80, unfinished(1_000_000)),
    "80 unfinished forms": lambda port: crowd(
        port, 80, request("POST /api/search/image", Content_Length=9000, Content_Type="multipart/form-data; boundary=x")
    ),
    "drawings of 2,000 strokes": lambda port: posts(port, "/api/search/strokes", large_drawing(2000, 50), 4),
    "drawings of 20 long strokes": lambda port: posts(port, "/api/search/strokes", large_drawing(20, 5000), 4),
}
"""What others do meanwhile, by the port of the server."""


def attacked(plan: Plan, server: Server, what: str, others: Callable[[int], Any]) -> Tally:
    """A client that behaves, beside others that do not."""
    tally, asked = Tally(what), wishes(server)
    with others(server.port):
        time.sleep(1.0)
        answers = ask_often(server, asked, CALM, max(2.0, ATTACK * plan.share))
    counted(tally, answers)
    refused = sum(answer.refused for answer in answers) / len(answers)
    # Each refusal is in order; that nearly all are is what an attack is for.
    tally.count(f"{refused:.0%} refused" if refused > MOST_REFUSED else "", "whether the client that behaves gets in")
    told(plan, what, answers, server)
    return in_memory(tally, server)


def harassed(plan: Plan, server: Server) -> Tally:
    """Requests that no page sends: refused in words, and nothing that is not served is told."""
    tally, asked = Tally("server: hostile requests"), wishes(server)
    version = httpx.get(f"{server.address}/api/model", timeout=30).json()["version"]
    photo = min(server.photos.glob("*.jpg")).read_bytes()
    every = list(attempts(version, photo))
    for number in range(0, len(every), round(1 / plan.share)):
        attempt = every[number]
        reply = talk(server.port, attempt.data)
        fault = "" if reply.status in attempt.allowed else f"status {reply.status}: {reply.body[:200]!r}"
        if b"root:" in reply.body or b"Traceback" in reply.body or str(server.place.parent).encode() in reply.body:
            fault = f"tells what it must not: {reply.body[:200]!r}"
        if len(reply.body) > 3 * len(photo) + 100_000:
            fault = f"answers {len(reply.body)} bytes"
        tally.count(fault, attempt.name)
    # An answer that is right tells no place of the machine either.
    reply = talk(server.port, request(f"POST {asked[0].path}", asked[0].body, Content_Type=asked[0].kind))
    found = str(server.place.parent).encode() in reply.body
    tally.count("an answer tells where photos lie on this machine" if found else "", "a search")
    counted(tally, ask_often(server, asked, CALM, 2.0))
    return in_memory(tally, server)


def without_worker(plan: Plan, server: Server, what: str, sent: signal.Signals) -> Tally:
    """The process that holds FAISS dies or hangs, several times; it is replaced, and nobody waits for it."""
    tally, asked = Tally(what), wishes(server)
    for number in range(plan.times(3)):
        before = server.children()
        for child in before:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(sent)
        counted(tally, ask_often(server, asked, CALM, 3.0))
        seconds = until_right(server, asked)
        tally.count("" if seconds < MENDED else f"not mended after {MENDED:.0f} s", f"worker {what} {number}")
        if seconds >= MENDED:
            for child in before:
                with suppress(psutil.NoSuchProcess):
                    child.resume()
    return in_memory(tally, server)


def until_right(server: Server, asked: Sequence[Wish]) -> float:
    """Seconds until a wish is answered rightly."""
    started = time.monotonic()
    while (seconds := time.monotonic() - started) < MENDED:
        (answer,) = ask_often(server, asked[:1], 1.0, 1.0)
        if answer.status == 200 and not answer.fault:
            return seconds
        time.sleep(0.5)
    return seconds
