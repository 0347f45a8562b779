"""`python -m pipeline_lib.search.serve`: the web page and the HTTP API, on this machine alone unless told otherwise."""

import argparse
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import uvicorn
from fastapi import FastAPI

from pipeline_lib.data.images import BadImage
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of
from pipeline_lib.models.device import keep_freed_memory
from pipeline_lib.run import Run
from pipeline_lib.search.api import create_app
from pipeline_lib.search.command import add_gallery, add_run, ended, up_to
from pipeline_lib.search.engine import SearchEngine, open_engine
from pipeline_lib.search.guard import LOOPBACK
from pipeline_lib.search.own_record import model_key
from pipeline_lib.search.pictures import Pictures
from pipeline_lib.search.service import WARM_UP_TO, Service, Settings

LIMITS = {
    "threads": "for each batch of queries; more help only where cores are idle",
    "batch": "waiting queries that are embedded together at most",
    "queue": "queries that may wait; further ones are answered with 503",
}


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


def serve(asked: argparse.Namespace) -> int:
    """Serves until it is interrupted."""
    run = Run.open(asked.run)
    settings = Settings(asked.threads, asked.batch, asked.queue)
    keep_freed_memory()
    with (
        bind(asked.host, asked.port) as listening,
        closing(open_engine(run, asked.gallery, settings.threads)) as engine,
    ):
        try:
            serve_engine(engine, create(engine, settings, asked.host, asked.name), asked.host, listening)
        except KeyboardInterrupt:
            print("ended")
    return 0


def create(engine: SearchEngine, settings: Settings, host: str, names: Sequence[str] = ()) -> FastAPI:
    """The application for one engine, which listens on `host` and goes by `names` too."""
    # A changed photo means a newly written index, so no browser shows the old photo.
    version = digest_of(model_key(engine.run), engine.facts.key)[:12]
    machine = socket.gethostname()
    return create_app(engine, settings, version=version, hosts=(*LOOPBACK, machine, f"{machine}.local", host, *names))


def serve_engine(engine: SearchEngine, app: FastAPI, host: str, listening: socket.socket) -> None:
    """Serves one engine on a socket."""
    service: Service = app.state.service
    blank = engine.prepare(np.full((64, 64), 255, np.uint8))
    engine.search([blank], 1)  # since the first pass through a network is slow
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    print(f"{len(engine.gallery)} photos of {engine.gallery.name}: http://{shown}:{port}/  (Ctrl-C ends)", flush=True)
    config = uvicorn.Config(app, log_level="warning", limit_concurrency=512, timeout_keep_alive=15, server_header=False)
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
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_lib.search.serve", description="Serves the page that finds photos by drawing."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument(
        "--name", action="append", default=[], help="a further host name of the server; may be repeated"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    for name, words in LIMITS.items():
        parser.add_argument(
            f"--{name}", type=up_to(1024), default=getattr(Settings, name), help=f"{words} (default: %(default)s)"
        )
    add_gallery(parser)
    add_run(parser)
    return ended(serve, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
