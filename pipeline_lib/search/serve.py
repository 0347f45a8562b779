"""`python -m pipeline_lib.search.serve`: the web page and the HTTP API, on this machine alone unless told otherwise."""

from __future__ import annotations

import argparse
import socket
import sys
import threading
from collections.abc import Sequence

import numpy as np
import uvicorn
from fastapi import FastAPI

from pipeline_lib.data.images import BadImage
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.device import keep_freed_memory
from pipeline_lib.run import Run
from pipeline_lib.search.api import create_app
from pipeline_lib.search.command import add_run, ended
from pipeline_lib.search.engine import SearchEngine
from pipeline_lib.search.guard import own_names
from pipeline_lib.search.opening import open_engine
from pipeline_lib.search.own_record import model_key
from pipeline_lib.search.pictures import Pictures
from pipeline_lib.search.service import WARM_UP_TO, Service, version_of
from pipeline_lib.search.settings import Settings

LIMITS = {
    "threads": "for each batch of queries; more help only where cores are idle",
    "batch": "waiting queries that are embedded together at most",
    "queue": "queries that may wait; further ones are answered with 503",
}
CONNECTIONS = 512
KEEP_ALIVE = 15


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_lib.search.serve", description="Serves the page on which one draws and finds."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument(
        "--name", action="append", default=[], help="a further name that others ask for the server by; may be repeated"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--gallery", choices=["auto", "own", "pipeline"], default="auto", help="what is searched")
    for name, words in LIMITS.items():
        parser.add_argument(
            f"--{name}", type=positive, default=getattr(Settings, name), help=f"{words} (default: %(default)s)"
        )
    add_run(parser)
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    """A number from 1 to 1024."""
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 1024")
    return value


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, or a sentence why it can't.

    Raises:
        PipelineError: the port is taken or the address is not this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as failure:
        raise PipelineError(f"{host}:{port}: can't be listened on ({failure}); choose another with --port") from failure


def warm(pictures: Pictures, stop: threading.Event) -> None:
    """Makes the thumbnails of a small gallery ahead; photos that can't be read are told when they are asked for."""
    for row in range(len(pictures.gallery)):
        if stop.is_set():
            return
        try:
            pictures.thumbnail(row)
        except BadImage:
            continue


def serve(asked: argparse.Namespace) -> int:
    """Serves until it is interrupted."""
    run = Run.open(asked.run)
    settings = Settings(asked.threads, asked.batch, asked.queue)
    keep_freed_memory()
    with bind(asked.host, asked.port) as listening:
        engine = open_engine(run, asked.gallery, settings.threads)
        try:
            serve_engine(engine, create(engine, settings, asked.host, asked.name), asked.host, listening)
        except KeyboardInterrupt:
            print("ended")
        finally:
            engine.close()
    return 0


def create(engine: SearchEngine, settings: Settings, host: str, names: Sequence[str] = ()) -> FastAPI:
    """The application for one engine, which listens on `host` and goes by `names` too."""
    # A changed photo means a newly written index, so no browser shows the old photo.
    version = version_of(model_key(engine.run), engine.facts.key)
    return create_app(engine, settings, version=version, hosts=own_names(host, names))


def serve_engine(engine: SearchEngine, app: FastAPI, host: str, listening: socket.socket) -> None:
    """Serves one engine on a socket."""
    service: Service = app.state.service
    blank = engine.prepare(np.full((64, 64), 255, np.uint8))
    engine.search([blank], 1)  # since the first pass through a network is slow
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    print(f"{len(engine.gallery)} photos of {engine.gallery.name}: http://{shown}:{port}/  (Ctrl-C ends)", flush=True)
    config = uvicorn.Config(
        app, log_level="warning", limit_concurrency=CONNECTIONS, timeout_keep_alive=KEEP_ALIVE, server_header=False
    )
    stop = threading.Event()
    warming = threading.Thread(target=warm, args=(service.pictures, stop))
    if len(engine.gallery) <= WARM_UP_TO:
        warming.start()
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        # A thread that is killed inside a decoder brings the whole process down.
        stop.set()
        if warming.is_alive():
            warming.join()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    asked = parse(arguments)
    return ended(lambda: serve(asked))


if __name__ == "__main__":
    sys.exit(main())
