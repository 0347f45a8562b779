"""A reverse proxy below a path, whose server can go, come back as another one, or be too busy."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

KEPT = ("content-type", "content-disposition", "content-security-policy", "cache-control", "location", "set-cookie")


class Unmoved(urllib.request.HTTPRedirectHandler):
    """Hands redirects on instead of following them."""

    def redirect_request(self, *_: object) -> None:
        """Follows none."""


OPENER = urllib.request.build_opener(Unmoved)


def kept_of(headers: Message) -> dict[str, str]:
    """The headers that are handed on."""
    return {name: headers[name] for name in KEPT if headers[name]}


class Server(ThreadingHTTPServer):
    """Without words about browsers that hang up."""

    def handle_error(self, *_: object) -> None:
        """Says nothing."""


class Proxy:
    """Serves `target` below `prefix`; without a target it answers 502, as proxies do.

    Requests whose path holds `busy` are answered as by a server that is too busy.
    """

    def __init__(self, target: str, prefix: str = "/photos/find") -> None:
        self.target, self.prefix, self.busy = target, prefix, ""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.pass_on(None)

            def do_POST(self) -> None:
                self.pass_on(self.rfile.read(int(self.headers.get("content-length", "0"))))

            def pass_on(self, body: bytes | None) -> None:
                status, headers, data = owner.answer(self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}{prefix}/"

    def answer(self, path: str, sent: dict[str, str], body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to one request."""
        if not self.target:
            return 502, {}, b"no server"
        if not path.startswith(self.prefix + "/"):
            return 404, {}, b"not below the prefix"
        if self.busy and self.busy in path:
            return 503, {"retry-after": "1", "content-type": "application/json"}, b'{"detail": "in English"}'
        kept = {name: value for name, value in sent.items() if name.lower() in {"content-type", "cookie", "accept"}}
        asked = urllib.request.Request(self.target + path.removeprefix(self.prefix), body, kept)  # noqa: S310
        try:
            with OPENER.open(asked, timeout=60) as answer:
                return answer.status, kept_of(answer.headers), answer.read()
        except urllib.error.HTTPError as failure:
            return failure.code, kept_of(failure.headers), failure.read()
        except OSError:
            return 502, {}, b"no server"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
