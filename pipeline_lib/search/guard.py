"""Middleware for every request: security headers, host names that are answered, the token, a limit on bodies."""

import asyncio
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline_lib.search.share import PARAMETER

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
HOST: Final = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]+))(?::[0-9]*)?")
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
BODY_SECONDS: Final = 10.0
"""Time limit for a body to arrive,"""
BODY_RATE: Final = 100_000
"""and a further second for so many bytes of it."""
MOST_BODIES: Final = 32
"""Bodies that may be on their way at once; the slowest makes room for the newest."""
MOST_BYTES: Final = 64_000_000
"""Of the bodies of all requests in progress."""
JSON_BYTES: Final = 4_000_000
FORM_BYTES: Final = 10_000
"""Bytes of a form beside its file, at most."""


class SecurityHeaders:
    """Adds the security headers to every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class KnownHosts:
    """Answers only requests for the server's own names, against DNS rebinding, and sent by its own page.

    Such an attack needs a name, so numeric addresses are always answered. What a page of another site sends, such as a
    form, carries that site as its origin; programs send none.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = host_name(headers.get("host", ""))
            if host not in self.hosts and not _is_address(host):
                words = (
                    "this server does not go by that name; ask for it by its address, or start it with "
                    "`drawfind serve --name` and the name"
                )
                await JSONResponse({"detail": words}, 400)(scope, receive, send)
                return
            if scope["method"] not in SAFE and not self._is_own(headers):
                words = "this was sent by a page of another site; search on the server's own page"
                await JSONResponse({"detail": words}, 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _is_own(self, headers: Headers) -> bool:
        """Whether a request was sent by the server's own page, or by no page at all."""
        if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            return False
        origin = headers.get("origin")
        if origin is None:
            return True
        place = origin.partition("://")[2].lower()
        # A proxy may ask by another name than the browser did; other servers of this machine differ by their port.
        name = host_name(place)
        return place == headers.get("host", "").lower() or (name in self.hosts and name not in LOOPBACK)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def host_name(header: str) -> str:
    """The name in a Host header, without port and brackets; "" where it is none."""
    found = HOST.fullmatch(header)
    return (found["address"] or found["name"]).lower() if found else ""


class TokenOnly:
    """Admits only requests that know the token: in the address at first, then in a cookie, or as a bearer token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        """Stands before `app`; without a `token` everyone is admitted."""
        self.app = app
        self.token = token
        # Browsers give a host's cookies to all of its ports, so servers side by side need names of their own.
        self.cookie = f"drawfind-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or not self.token:
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        first = self._is(request.query_params.get(PARAMETER, ""))
        if first and request.method in {"GET", "HEAD"}:
            await self._welcome(request)(scope, receive, send)
        elif first or self._is(request.cookies.get(self.cookie, "")) or self._is(_bearer(request)):
            await self.app(scope, receive, send)
        else:
            await _stranger(request)(scope, receive, send)

    def _is(self, told: str) -> bool:
        return hmac.compare_digest(told.encode(), self.token.encode())

    def _welcome(self, request: Request) -> Response:
        """Leads to the same address without the token, which a cookie keeps; relative, for servers below a path."""
        others = [(name, value) for name, value in request.query_params.multi_items() if name != PARAMETER]
        place = "./" + quote(request.scope["path"].rpartition("/")[2]) + (f"?{urlencode(others)}" if others else "")
        response: Response
        if request.headers.get("sec-fetch-site") == "cross-site":
            # Behind a link of another site, browsers would not send a strict cookie after a redirect.
            response = Response(headers={"refresh": f"0; url={place}"}, media_type="text/html")
        else:
            response = RedirectResponse(place, 303)
        secure = request.url.scheme == "https"
        response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", secure=secure)
        return response


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _stranger(request: Request) -> Response:
    words = "this server is shared by a token; open the address, or scan the code, that it printed when it started"
    headers = {"www-authenticate": "Bearer"}
    if "text/html" in request.headers.get("accept", ""):
        head = '<!DOCTYPE html><html lang="en"><meta name="viewport" content="width=device-width"><title>401</title>'
        return HTMLResponse(f"{head}<p>{words}</p></html>", 401, headers)
    return JSONResponse({"detail": words}, 401, headers)


class Body:
    """The body of one request, while it arrives."""

    def __init__(self) -> None:
        self.started = asyncio.get_running_loop().time()
        self.size = 0
        self.whole = False
        self.displaced = False
        self.waits: asyncio.Timeout | None = None

    @property
    def deadline(self) -> float:
        """When it must have come, the later the more of it has come; by the loop's clock."""
        return self.started + BODY_SECONDS + self.size / BODY_RATE

    def displace(self) -> None:
        """Refuses it, so that another has room."""
        self.displaced = True
        if self.waits and not self.waits.expired():
            self.waits.reschedule(0)

    def _refusal(self) -> HTTPException:
        if self.displaced:
            return HTTPException(503, "too many uploads at once; try again", {"retry-after": "1"})
        return HTTPException(408, "the request took too long to arrive")

    async def next(self, receive: Receive) -> Message:
        """Its next part.

        Raises:
            HTTPException: 408 where it is late, 503 where it was displaced.
        """
        if self.displaced:
            raise self._refusal()
        try:
            async with asyncio.timeout_at(self.deadline) as self.waits:
                message = await receive()
        except TimeoutError as failure:
            raise self._refusal() from failure
        finally:
            self.waits = None
        self.size += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        return message


class BodyLimit:
    """Refuses bodies that are too long, at once where the length is announced, and those that arrive too slowly.

    All together are limited too, in number and in bytes: where there are too many, the slowest makes room.
    """

    def __init__(self, app: ASGIApp, upload_bytes: int) -> None:
        """Stands before `app`; a picture may take `upload_bytes`."""
        self.app = app
        self.upload_bytes = upload_bytes
        self._bodies: set[Body] = set()

    def limit(self, content_type: str) -> int:
        """Bytes that a body may take."""
        if content_type.startswith("application/json"):
            return JSON_BYTES
        return self.upload_bytes + (FORM_BYTES if content_type.startswith("multipart/") else 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self.limit(headers.get("content-type", ""))
        words = f"the request takes more than {limit / 1e6:g} MB; send less"
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            await JSONResponse({"detail": words}, 413)(scope, receive, send)
            return
        body = Body()

        async def counted() -> Message:
            if body.whole:
                return await receive()
            self._bodies.add(body)
            self._make_room(body)
            message = await body.next(receive)
            if body.size > limit:
                raise HTTPException(413, words)
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._bodies.discard(body)

    def _make_room(self, newest: Body) -> None:
        """Displaces the slowest body on its way, if they are too many."""
        staying = [body for body in self._bodies if not body.displaced]
        arriving = [body for body in staying if not body.whole]
        if len(arriving) > MOST_BODIES or sum(body.size for body in staying) > MOST_BYTES:
            others = [body for body in arriving if body is not newest]
            min(others or arriving, key=lambda body: body.deadline, default=newest).displace()
