"""Single requests that no page sends, each with what the server may answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from campaign.clients import request

REFUSED: Final = frozenset(range(400, 500))
UNREADABLE: Final = REFUSED | {0}
"""Of what is no HTTP, the connection may simply be closed."""
STROKES: Final = "POST /api/search/strokes"
IMAGE: Final = "POST /api/search/image"


class Attempt(NamedTuple):
    """A request, and the statuses that are fine."""

    name: str
    data: bytes
    allowed: frozenset[int]


def attempts(version: str, photo: bytes) -> Iterator[Attempt]:
    """All of them.

    Args:
        version: of what is searched, as the server tells it.
        photo: a file that it serves.
    """
    yield from bodies(photo)
    yield from names()
    yield from paths(version)
    yield from ranges(version)
    yield from protocols()


def stroke(**changes: Any) -> dict[str, Any]:
    """A drawing of one stroke, with some keys changed."""
    return {"strokes": [{"points": [[0.1, 0.1], [0.9, 0.9]]}], **changes}


def bodies(photo: bytes) -> Iterator[Attempt]:
    """Drawings and pictures that are none."""
    line = [[0.1, 0.1], [0.9, 0.9]]
    values: dict[str, Any] = {
        "nothing": {},
        "list": [],
        "null": None,
        "number": 1e308,
        "no strokes": stroke(strokes=[]),
        "no points": stroke(strokes=[{"points": []}]),
        "three numbers": stroke(strokes=[{"points": [[1, 2, 3]]}]),
        "far away": stroke(strokes=[{"points": [[1e308, -1e308]]}]),
        "width 0": stroke(strokes=[{"points": line, "width": 0}]),
        "wide": stroke(strokes=[{"points": line, "width": 1e9}]),
        "top 0": stroke(top=0),
        "top": stroke(top=10**30),
        "top text": stroke(top="many"),
        "unknown": stroke(file="/etc/passwd"),
        "too many": stroke(strokes=[{"points": [[0.5, 0.5]]}] * 2001),
        "too long": stroke(strokes=[{"points": line * 2501}]),
        "too much": stroke(strokes=[{"points": line * 2500}] * 21),
    }
    raw = {
        "empty": b"",
        "cut": b'{"strokes": [',
        "deep": b"[" * 100_000,
        "not UTF-8": b'{"strokes": "\xff"}',
        "nan": b'{"strokes": [{"points": [[NaN, Infinity]]}]}',
        "digits": b'{"top": ' + b"9" * 100_000 + b"}",
        "long": b'{"strokes": "' + b"x" * 4_100_000 + b'"}',
        "surrogate": b'{"\\ud800": "\\ud800"}',
    }
    for name, body in (raw | {name: json.dumps(value).encode() for name, value in values.items()}).items():
        yield Attempt(f"strokes: {name}", request(STROKES, body, Content_Type="application/json"), REFUSED)
    yield Attempt("strokes: as text", request(STROKES, b"x", Content_Type="text/plain"), REFUSED)
    pictures = {"empty": b"", "words": b"no picture" * 9, "cut": photo[: len(photo) // 2], "nul": bytes(5000)}
    for name, body in pictures.items():
        yield Attempt(f"picture: {name}", request(IMAGE, body, Content_Type="image/jpeg"), REFUSED)
    form = "multipart/form-data"
    part = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="../../x"\r\n\r\n'
    forms = {
        "no boundary": (form, b"x"),
        "no end": (f"{form}; boundary=x", part % b"file" + b"y"),
        "no file": (f"{form}; boundary=x", part % b"other" + b"y\r\n--x--\r\n"),
        "two files": (f"{form}; boundary=x", part % b"file" + b"y\r\n" + part % b"file" + b"y\r\n--x--\r\n"),
        "long boundary": (f"{form}; boundary={'x' * 5000}", b"x"),
        "many parts": (f"{form}; boundary=x", part % b"a" * 999),
    }
    for name, (kind, body) in forms.items():
        yield Attempt(f"form: {name}", request(IMAGE, body, Content_Type=kind), REFUSED)
    for query in ("top=0", "top=201", "top=x", "kind=film", f"top={'9' * 5000}", "mirror=perhaps"):
        yield Attempt(f"query: {query[:20]}", request(f"{IMAGE}?{query}", photo), REFUSED)
    for length in ("11000000", "-1", "x", "9" * 40, "1, 2"):
        yield Attempt(f"length {length[:10]}", request(IMAGE, b"x", Content_Length=length), UNREADABLE)
    chunked = {"Content_Length": None, "Transfer_Encoding": "chunked"}
    for body in (b"zz\r\nx\r\n", b"-1\r\n", b"ffffffffffffffff\r\nx\r\n0\r\n\r\n"):
        yield Attempt(f"chunk {body[:6]!r}", request(IMAGE, body, **chunked), UNREADABLE)


def names() -> Iterator[Attempt]:
    """Requests by other names than the server's, and from pages of other sites."""
    for host in (
        "evil.example", "[::1]evil.com", "127.0.0.1.evil.com", "localhost@evil.com", "localhost:80:80", "[::1", "",
        "evil.com/127.0.0.1", "127.0.0.1,evil.com", "ｌocalhost".encode().decode("latin-1"),
    ):  # fmt: skip
        yield Attempt(f"host {host!r}", request("GET /api/health", Host=host), REFUSED)
    yield Attempt("no host", request("GET /api/health", Host=None), REFUSED)
    yield Attempt("two hosts", request("GET /api/health", Host="127.0.0.1\r\nHost: evil.com"), REFUSED)
    body = json.dumps(stroke()).encode()
    for origin in ("http://evil.com", "null", "http://localhost.evil.com", "http://127.0.0.1:1", "file://"):
        yield Attempt(
            f"origin {origin}", request(STROKES, body, Origin=origin, Content_Type="application/json"), REFUSED
        )
    for site in ("cross-site", "same-site"):
        data = request(STROKES, body, Sec_Fetch_Site=site, Content_Type="application/json")
        yield Attempt(f"page of {site}", data, REFUSED)


def paths(version: str) -> Iterator[Attempt]:
    """Paths that lead out of what is served."""
    photo = f"/photos/{version}"
    for path in (
        "/../../../etc/passwd", "/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/style.css/../../api.py",
        "/..%5c..%5cetc", "/%00", "/style.css%00", "/~", f"{photo}/../../etc/passwd", f"{photo}/..%2f..%2fetc%2fpasswd",
        f"{photo}/-1", f"{photo}/999999", f"{photo}/{'9' * 400}", f"{photo}/1e1", f"{photo}/0x0", f"{photo}/%30%00",
        f"{photo}/0/original/..", f"{photo}/0/original%00", f"{photo}/0/../../../etc/passwd", "/photos/other/0",
        f"/examples/{version}/99999", f"/{'a' * 60_000}", "/api/search/photo/0", "/api", "/.git/config", "/record.json",
    ):  # fmt: skip
        yield Attempt(f"path {path[:60]}", request(f"GET {path}"), UNREADABLE)
    for number in ("-1", "999999", "9" * 400, "x"):
        yield Attempt(f"more like {number[:9]}", request(f"POST /api/search/photo/{number}"), REFUSED)


def ranges(version: str) -> Iterator[Attempt]:
    """Parts of a file."""
    for part in (
        "bytes=0-", "bytes=-1", "bytes=0-0", "bytes=999999999-", "bytes=5-2", "bytes=x", "lines=1", "bytes=-0",
        f"bytes={'9' * 400}-", f"bytes={','.join(['0-'] * 1000)}", f"bytes={','.join(f'{n}-{n}' for n in range(500))}",
    ):  # fmt: skip
        data = request(f"GET /photos/{version}/0/original", Range=part)
        yield Attempt(f"range {part[:40]}", data, REFUSED | {200, 206})


def protocols() -> Iterator[Attempt]:
    """What is no HTTP, or hardly any."""
    many: dict[str, Any] = {f"X{number}": "x" for number in range(20_000)}
    for name, data in {
        "garbage": b"\x00\x01\x02\r\n\r\n", "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/0.9": b"GET /etc/passwd\r\n\r\n",
        "long header": request("GET /api/health", X=f"{'x' * 1_000_000}"),
        "many headers": request("GET /api/health", **many),
        "folded": b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n evil.com\r\n\r\n",
        "proxy": b"GET http://evil.com/ HTTP/1.1\r\nHost: evil.com\r\n\r\n",
        "connect": b"CONNECT evil.com:443 HTTP/1.1\r\nHost: evil.com\r\n\r\n",
    }.items():  # fmt: skip
        yield Attempt(f"protocol: {name}", data, UNREADABLE)
    for method in ("TRACE", "PUT", "DELETE", "PATCH", "BREW"):
        yield Attempt(f"method {method}", request(f"{method} /api/search/strokes"), UNREADABLE)
