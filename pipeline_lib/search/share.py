"""Serving to a phone: the token that admits it, the addresses of this machine, and a QR code of one of them."""

import io
import ipaddress
import secrets
import socket
import sys
from collections.abc import Iterator
from typing import Final, TextIO

import segno

PARAMETER: Final = "token"
"""Of the address that is opened first; a cookie takes over from there."""
# Nothing is sent to these: the system only says which of its own addresses it would send from.
PROBES: Final = ("192.168.255.255", "10.255.255.255", "172.31.255.255", "203.0.113.1")
BLACK, WHITE, PLAIN = "\x1b[40m", "\x1b[97m", "\x1b[0m"


def new_token() -> str:
    """A token that nobody guesses, 128 bits; shorter than usual, since a QR code of few dots is easily read."""
    return secrets.token_urlsafe(16)


def local_addresses() -> list[str]:
    """IPv4 addresses of this machine in its local networks, likeliest first; none where there is no network."""
    found = dict.fromkeys(_candidates())
    return [text for text in found if _reachable(ipaddress.IPv4Address(text))]


def _candidates() -> Iterator[str]:
    for probe in PROBES:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            try:
                asking.connect((probe, 9))
            except OSError:  # there is no way to such a network
                continue
            yield str(asking.getsockname()[0])
    try:
        yield from (str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET))
    except OSError:  # the machine's name leads nowhere
        return


def _reachable(address: ipaddress.IPv4Address) -> bool:
    return not (address.is_loopback or address.is_unspecified or address.is_link_local)


def addresses(host: str, port: int, token: str) -> list[str]:
    """What a phone may open, likeliest first: each address of this machine, or `host` where it listens on one alone."""
    names = local_addresses() if host in {"0.0.0.0", "::", ""} else [host]  # noqa: S104  compared, not listened on
    return [address(name, port, token) for name in names]


def address(host: str, port: int, token: str = "") -> str:
    """The page's address on one host, with the token where there is one."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?{PARAMETER}={token}" if token else "")


def code_as_text(words: str, stream: TextIO | None = None) -> str:
    """A QR code of some words, for a terminal; `stream` is where it will be printed, standard output by default."""
    stream = stream or sys.stdout
    code, drawn = segno.make(words, error="l", micro=False), io.StringIO()
    code.terminal(drawn, border=2, compact=True)
    lines = drawn.getvalue().rstrip("\n").split("\n")
    try:
        "█▀▄".encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        plain = io.StringIO()
        code.save(plain, kind="txt", border=2)
        return "\n".join("".join("##" if dot == "0" else "  " for dot in line) for line in plain.getvalue().split())
    if stream.isatty():  # many readers want dark dots on light, whatever the terminal's colours
        lines = [f"{BLACK}{WHITE}{line}{PLAIN}" for line in lines]
    return "\n".join(lines)


def code_as_picture(words: str) -> str:
    """A QR code of some words as the data address of an SVG, dark on white."""
    return str(segno.make(words, error="m", micro=False).svg_data_uri(border=3, light="#fff", omitsize=True))
