"""A server that takes a new index of one's own photos without a restart, and without dropping a query.

An application searches one state of the index. When another has been written, a second application is made beside the
first; requests that come from then on go to it, those that are in progress are finished by the first, and so are those
for pictures of photos that the first has found.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from pipeline_lib.errors import PipelineError, printable
from pipeline_lib.search.engine import SearchEngine

LOOK_SECONDS: Final = 2.0
"""Between two looks whether the index has changed."""
LONGEST_SECONDS: Final = 60.0
"""The same where one was found that can't be taken; each look takes twice as long as the one before, up to this."""


@dataclass(frozen=True)
class Renewal:
    """How an index is noticed and opened."""

    engine: SearchEngine  # that is served first
    key: Callable[[], str]  # of the index that is there now
    reopen: Callable[[], SearchEngine]  # opens it
    make: Callable[[SearchEngine], FastAPI]  # an application that searches it


class _Served:
    """An application, the engine behind it, and the requests that it is answering."""

    def __init__(self, app: FastAPI, engine: SearchEngine) -> None:
        self.app = app
        self.engine = engine
        self.busy = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.open = AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.busy += 1
        self.idle.clear()
        try:
            await self.app(scope, receive, send)
        finally:
            self.busy -= 1
            if not self.busy:
                self.idle.set()


class Renewing:
    """An ASGI application that hands requests to the newest of its applications, or to the one that they are of."""

    def __init__(self, app: FastAPI, renewal: Renewal) -> None:
        """Serves `app`, of the renewal's engine, until there is another index."""
        self.renewal = renewal
        self.now = _Served(app, renewal.engine)
        self.before: _Served | None = None  # for pictures of what it has found; its index is closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self.before is not None and scope["path"].startswith(f"/photos/{self.before.app.state.service.version}/"):
            await self.before(scope, receive, send)
        else:
            await self.now(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._start(self.now)
        watching = asyncio.create_task(self._watch())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        for served in (self.now, self.before):
            if served is not None:
                await served.open.aclose()
        if self.now.engine is not self.renewal.engine:  # the first is closed by whoever has opened it
            await asyncio.to_thread(self.now.engine.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, served: _Served) -> None:
        await served.open.enter_async_context(served.app.router.lifespan_context(served.app))

    async def _watch(self) -> None:
        wait, said = LOOK_SECONDS, ""
        while True:
            await asyncio.sleep(wait)
            try:
                await self._renew()
                wait = LOOK_SECONDS
            except (PipelineError, OSError) as failure:
                # It is being written, or is of another model: the one that is open serves on.
                wait = min(2 * wait, LONGEST_SECONDS)
                if wait == LONGEST_SECONDS and str(failure) != said:
                    said = str(failure)
                    print(printable(f"the new index is not taken: {said}"), file=sys.stderr)

    async def _renew(self) -> None:
        """Takes the index that there is now, if it is another."""
        if await asyncio.to_thread(self.renewal.key) == self.now.engine.facts.key:
            return
        engine = await asyncio.to_thread(self.renewal.reopen)
        try:
            fresh = _Served(self.renewal.make(engine), engine)
            await self._start(fresh)
        except BaseException:
            engine.close()
            raise
        oldest, self.before, self.now = self.before, self.now, fresh
        try:
            for served in (self.before, oldest):
                if served is not None:
                    await served.idle.wait()
        finally:
            await asyncio.to_thread(self.before.engine.faiss.close)
            if oldest is not None:
                await oldest.open.aclose()
