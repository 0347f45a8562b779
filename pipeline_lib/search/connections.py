"""Time limits and room for connections, which uvicorn does not know: it waits without end for a request to come.

While the server waits for its client, a connection has a deadline. Where there are too many, a new one takes the place
of the one whose deadline is nearest: of those that are silent, the one that has been so for longest. Where none has
one, it takes that of the request whose body has been coming for longest. Whoever asks at once and reads the answer is
never closed for another.
"""

import asyncio
import socket
from typing import Any, Final, Literal

from uvicorn.protocols.http.h11_impl import H11Protocol

Phase = Literal["head", "body", "work", "answer", "idle"]
SECONDS: Final[dict[Phase, float]] = {"head": 5.0, "answer": 30.0, "idle": 20.0}
"""Time limits: for a request to come whole but for its body, which `guard.BodyLimit` waits for; for the client to take
enough of an answer that more can be sent; and between two requests."""
MOST: Final = 200
"""Connections at once; macOS gives a process 256 files by default."""
OF_ONE_ADDRESS: Final = 128
"""A browser opens six; behind a proxy all come from one address."""


class LimitedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._phase: Phase = "work"
        self._since = 0.0  # by the loop's clock
        self._limit: asyncio.TimerHandle | None = None

    @property
    def turn(self) -> tuple[int, float] | None:
        """How soon it has to make room, the least first; None while it waits for this server."""
        if self._limit:
            return 0, self._limit.when()
        return (1, self._since) if self._phase == "body" else None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection; another may have to make room for it."""
        super().connection_made(transport)
        # asyncio does so only for sockets that name their protocol, which those of `socket.create_server` do not. The
        # end of an answer would wait for the client to acknowledge its beginning, which may take 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._enter("head")
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets it."""
        self._enter("work")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request."""
        super().data_received(data)
        self._follow("head")

    def on_response_complete(self) -> None:
        """Waits for the next request, or begins it where it has come already."""
        super().on_response_complete()
        self._follow("idle")

    def pause_writing(self) -> None:
        """Waits for the client to read."""
        super().pause_writing()
        self._follow("idle")

    def resume_writing(self) -> None:
        """Goes on."""
        super().resume_writing()
        self._follow("idle")

    def _follow(self, between: Phase) -> None:
        """Notices what is waited for now; `between` requests, whether one has begun to come."""
        if self.flow.write_paused:
            self._enter("answer")
        elif self.cycle is None or self.cycle.response_complete:
            self._enter(between)
        else:
            self._enter("body" if self.cycle.more_body else "work")

    def _enter(self, phase: Phase) -> None:
        if phase == self._phase:
            return
        self._phase, self._since = phase, self.loop.time()
        if self._limit:
            self._limit.cancel()
        seconds = SECONDS.get(phase)
        # Not `close`, which would wait for what is not sent yet to be read.
        self._limit = self.loop.call_later(seconds, self.transport.abort) if seconds else None

    def _make_room(self) -> None:
        others = [
            each
            for each in self.connections
            if isinstance(each, LimitedProtocol) and each is not self and not each.transport.is_closing()
        ]
        mine = [each for each in others if each.client and self.client and each.client[0] == self.client[0]]
        crowd = mine if len(mine) >= OF_ONE_ADDRESS else others if len(others) >= MOST else []
        if not crowd:
            return
        turns = [(turn, place) for place, each in enumerate(crowd) if (turn := each.turn) is not None]
        leaves = crowd[min(turns)[1]] if turns else self
        leaves.transport.abort()
