"""`drawfind serve`: the web page and the HTTP API, on this machine alone unless told otherwise."""

import argparse
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from pipeline_lib.data.images import BadImage
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of
from pipeline_lib.index.facts import index_key
from pipeline_lib.search import index_photos
from pipeline_lib.search.api import create_app
from pipeline_lib.search.choice import add_choice, chosen
from pipeline_lib.search.command import up_to
from pipeline_lib.search.connections import LimitedProtocol
from pipeline_lib.search.engine import SearchEngine, open_engine
from pipeline_lib.search.guard import LOOPBACK
from pipeline_lib.search.own_record import model_key, own_folder
from pipeline_lib.search.pictures import Pictures
from pipeline_lib.search.renewing import Renewal, Renewing
from pipeline_lib.search.service import WARM_UP_TO, Service, Settings
from pipeline_lib.search.share import address, addresses, code_as_text, new_token

LIMITS: Final = {
    "threads": "for each batch of queries; more help only where cores are idle",
    "batch": "waiting queries that are embedded together at most",
}
THIS_MACHINE: Final = "127.0.0.1"
ALL: Final = {"0.0.0.0": THIS_MACHINE, "::": "::1"}  # noqa: S104  only with --share or --host
"""Addresses that stand for all of a machine's, and by which of them it reaches itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--photos", nargs="+", metavar="FOLDER",
        help="folders of photos that are indexed first; without, what is indexed already is searched",
    )  # fmt: skip
    parser.add_argument(
        "--share", action="store_true", help="for other devices too: listen on all addresses, and demand a token"
    )
    parser.add_argument(
        "--open", action=argparse.BooleanOptionalAction, default=None,
        help="open the page in a browser; by default where it is started by hand on a desktop",
    )  # fmt: skip
    parser.add_argument("--host", help="address to listen on (default: this machine alone)")
    parser.add_argument(
        "--name", action="append", default=[], help="a further host name of the server; may be repeated"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    for name, words in LIMITS.items():
        parser.add_argument(
            f"--{name}", type=up_to(1024), default=getattr(Settings, name), help=f"{words} (default: %(default)s)"
        )
    index_photos.add_options(parser)
    add_choice(parser)


def run(asked: argparse.Namespace) -> int:
    """Indexes the photos that are named, and serves until it is interrupted."""
    settings = Settings(asked.threads, asked.batch)
    host = asked.host or ("0.0.0.0" if asked.share else THIS_MACHINE)  # noqa: S104  asked for, and behind a token
    token = new_token() if asked.share else ""
    with bind(host, asked.port) as listening:  # before photos are indexed: a port that is taken is told at once
        settled = asked.exclude is not None or asked.links is not None
        changes = asked.photos or asked.afresh or asked.prune or settled
        if changes and (status := index_photos.run(asked)):
            return status
        model, which = chosen(asked)
        with closing(open_engine(model, which, settings.threads, asked.index)) as engine:
            port = listening.getsockname()[1]
            named = [address(name, port, token) for name in asked.name]
            shared = [*named, *addresses(host, port, token)] if token else []

            def make(opened: SearchEngine) -> FastAPI:
                return create(opened, settings, host, asked.name, token=token, shared=next(iter(shared), ""))

            def reopen() -> SearchEngine:
                return open_engine(model, "own", settings.threads, asked.index, engine.encoder)

            here = address(ALL.get(host, host), port, token)

            def announced() -> None:
                announce(engine, here, shared, guarded=bool(token) or host in LOOPBACK)
                if on_desktop() if asked.open is None else asked.open:
                    # A browser of a terminal would hold up the server.
                    threading.Thread(target=webbrowser.open, args=(here,), daemon=True).start()

            app = make(engine)
            warm_up(engine)
            try:
                serve_engine(app, listening, announced, own_renewal(engine, asked.index, reopen, make))
            except KeyboardInterrupt:
                print("ended")
    return 0


def announce(engine: SearchEngine, here: str, shared: Sequence[str], *, guarded: bool) -> None:
    """Says what is served and where.

    Args:
        engine: what searches.
        here: the page's address on this machine.
        shared: its addresses for other devices, likeliest first.
        guarded: whether none but this machine, or whoever has the token, is answered.
    """
    print(f"{len(engine.gallery)} photos of {engine.gallery.name}: {here}  (Ctrl-C ends)")
    if shared:
        print(f"on your phone, in the same network: {'  or  '.join(shared)}\n{code_as_text(shared[0])}")
    if not guarded:
        print("whoever reaches this address sees your photos; --share demands a token")
    sys.stdout.flush()


def on_desktop() -> bool:
    """Whether a person has started this in a terminal of a desktop, where a browser can open."""
    screen = sys.platform in {"darwin", "win32"} or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return screen and sys.stdout.isatty()


def warm_up(engine: SearchEngine) -> None:
    """Searches once, since the first pass through a network is slow."""
    engine.search([engine.prepare(np.full((64, 64), 255, np.uint8))], 1)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        PipelineError: the port is taken or the address is not this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as failure:
        raise PipelineError(f"{host}:{port}: can't be listened on ({failure}); choose another with --port") from failure


def warm(pictures: Pictures, stop: threading.Event) -> None:
    """Makes the thumbnails of a small gallery ahead; unreadable photos are reported when they are asked for."""
    for row in range(len(pictures.gallery)):
        if stop.is_set():
            return
        try:
            pictures.thumbnail(row)
        except BadImage:
            continue


def create(
    engine: SearchEngine,
    settings: Settings,
    host: str,
    names: Sequence[str] = (),
    *,
    token: str = "",
    shared: str = "",
) -> FastAPI:
    """The application for one engine, which listens on `host` and goes by `names` too; the rest as `create_app`."""
    # A changed photo means a newly written index, so no browser shows the old photo.
    version = digest_of(model_key(engine.run), engine.facts.key)[:12]
    machine = socket.gethostname()
    hosts = (*LOOPBACK, machine, f"{machine}.local", host, *names)
    return create_app(engine, settings, version=version, hosts=hosts, token=token, shared=shared)


def configured(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves; not by its limit of connections, beyond which it refuses everyone while silent ones stay."""
    return uvicorn.Config(
        app, http=LimitedProtocol, ws="none", log_level="error", timeout_keep_alive=15, timeout_graceful_shutdown=5,
        server_header=False,
    )  # fmt: skip


def own_renewal(
    engine: SearchEngine,
    index: Path | None,
    reopen: Callable[[], SearchEngine],
    make: Callable[[SearchEngine], FastAPI],
) -> Renewal | None:
    """How a server of one's own photos takes their index after an update; None for other galleries, which stay."""
    if not engine.gallery.roots:
        return None
    return Renewal(engine, lambda: index_key(own_folder(engine.run, index) / "index"), reopen, make)


class Server(uvicorn.Server):
    """Calls `ready` as soon as it is ready: it answers, and an interrupt ends it, which before might get lost."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()


def serve_engine(
    app: FastAPI, listening: socket.socket, ready: Callable[[], None], renewal: Renewal | None = None
) -> None:
    """Serves on a socket, and with `renewal` whatever index there is; calls `ready` when it does."""
    service: Service = app.state.service
    served = Renewing(app, renewal) if renewal else app
    stop = threading.Event()
    warming = threading.Thread(target=warm, args=(service.pictures, stop))
    if len(service.pictures.gallery) <= WARM_UP_TO:
        warming.start()
    try:
        Server(configured(served), ready).run(sockets=[listening])
    finally:
        # A thread that is killed inside a decoder brings the whole process down.
        stop.set()
        if warming.is_alive():
            warming.join()
