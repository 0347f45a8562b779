"""Serving to a phone: the token, the addresses and the QR code."""

from __future__ import annotations

import io
import ipaddress
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import resvg_py
from fastapi.testclient import TestClient
from PIL import Image

from pipeline_lib.search import share
from pipeline_lib.search.api import PAGE, create_app
from pipeline_lib.search.engine import SearchEngine
from pipeline_lib.search.service import Settings

TOKEN = "a-token_of-22-characters"  # noqa: S105  of these tests
ADDRESS = f"http://192.168.1.7:8000/?token={TOKEN}"


@pytest.fixture
def app(engine: SearchEngine) -> Any:
    return create_app(engine, Settings(), version="v1", hosts=("testserver",), token=TOKEN, shared=ADDRESS)


@pytest.fixture
def client(app: Any) -> Iterator[TestClient]:
    with TestClient(app, follow_redirects=False) as opened:
        yield opened


def test_without_the_token_every_answer_is_401(client: TestClient) -> None:
    asked = [("GET", path) for path in (*PAGE, "/api/health", "/api/model", "/api/share", "/openapi.json", "/nowhere")]
    asked += [("GET", f"/photos/v1/0{kind}") for kind in ("", "/thumbnail", "/input", "/original")]
    asked += [("POST", f"/api/search/{kind}") for kind in ("strokes", "image", "photo/0")]
    asked += [("GET", f"/?token={wrong}") for wrong in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "%C3%A4")]
    for method, path in asked:
        answer = client.request(method, path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "open the address" in answer.json()["detail"]
        assert "set-cookie" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_someone_who_opens_the_page_without_the_token_reads_a_sentence(client: TestClient) -> None:
    answer = client.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/html")
    assert "scan the code" in answer.text


def test_the_first_visit_leaves_a_cookie_and_leads_to_the_address_without_the_token(client: TestClient) -> None:
    answer = client.get(f"/api/model?token={TOKEN}&x=1")
    assert answer.status_code == 303
    assert answer.headers["location"] == "./model?x=1"  # relative, for servers below a path
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert client.get("/?token=" + TOKEN).headers["location"] == "./"
    assert client.get("/api/model").status_code == 200  # the client keeps the cookie
    assert client.get("/").status_code == 200
    assert client.post("/api/search/photo/0").status_code == 200


def test_a_link_of_another_site_leads_there_too(client: TestClient) -> None:
    answer = client.get(f"/?token={TOKEN}", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert answer.headers["refresh"] == "0; url=./"
    assert "set-cookie" in answer.headers


def test_odd_addresses_lead_nowhere_else(client: TestClient) -> None:
    for path in ("//evil.example", "/%0d%0aset-cookie:a=b", "/\\evil.example", "/ä", "/a?b=%0d%0a"):
        answer = client.get(f"{path}{'&' if '?' in path else '?'}token={TOKEN}")
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("./")
        assert "\n" not in answer.headers["location"]


def test_programs_send_the_token_with_each_request(client: TestClient) -> None:
    assert client.get("/api/health", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.post(f"/api/search/photo/0?token={TOKEN}").status_code == 200
    for words in ("Bearer", f"Basic {TOKEN}", TOKEN, "Bearer " + TOKEN[:-1]):
        assert client.get("/api/health", headers={"authorization": words}).status_code == 401


def test_the_cookie_of_another_server_on_the_same_host_does_not_count(client: TestClient, engine: SearchEngine) -> None:
    other = create_app(engine, Settings(), version="v1", hosts=("testserver",), token="other", shared="")  # noqa: S106
    with TestClient(other, follow_redirects=False) as second:
        client.get(f"/?token={TOKEN}")
        second.cookies = client.cookies
        assert second.get("/").status_code == 401
        second.get("/?token=other")
        assert second.get("/").status_code == 200
        assert client.get("/").status_code == 200  # neither took the other's place


def test_without_a_token_everyone_is_admitted(engine: SearchEngine) -> None:
    with TestClient(create_app(engine, Settings(), version="v1", hosts=("testserver",))) as client:
        assert client.get("/api/health").status_code == 200
        assert client.get("/?token=anything").status_code == 200
        assert client.get("/api/share").json() is None


@pytest.mark.parametrize(("caller", "told"), [("127.0.0.1", True), ("::1", True), ("192.168.1.30", False)])
def test_only_this_machine_is_shown_the_address(app: Any, caller: str, told: bool) -> None:
    with TestClient(app, client=(caller, 5000), headers={"authorization": f"Bearer {TOKEN}"}) as client:
        answer = client.get("/api/share").json()
    if not told:
        assert answer is None
        return
    assert answer["address"] == ADDRESS
    assert answer["code"].startswith("data:image/svg+xml")


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {share.new_token() for _ in range(50)}
    assert len(tokens) == 50
    assert min(map(len, tokens)) >= 22  # 128 bits


def test_addresses_are_those_of_this_machine_in_its_networks() -> None:
    for found in share.local_addresses():
        address = ipaddress.ip_address(found)
        assert not address.is_loopback
        assert not address.is_unspecified


def test_a_server_on_one_address_is_shared_by_that_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share.addresses("192.168.1.7", 8000, "t") == ["http://192.168.1.7:8000/?token=t"]
    assert share.addresses("fd00::1", 80, "t") == ["http://[fd00::1]:80/?token=t"]
    monkeypatch.setattr(share, "local_addresses", lambda: ["192.168.1.7", "10.0.0.2"])
    wanted = ["http://192.168.1.7:8000/?token=t", "http://10.0.0.2:8000/?token=t"]
    assert share.addresses("0.0.0.0", 8000, "t") == share.addresses("::", 8000, "t") == wanted  # noqa: S104


class Terminal(io.StringIO):
    def __init__(self, encoding: str, terminal: bool) -> None:
        super().__init__()
        self.told, self.terminal = encoding, terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.told

    def isatty(self) -> bool:
        return self.terminal


def read_code(dots: np.ndarray) -> str:
    """What a QR code says; dots are bool[H, W], True where it is dark."""
    image = np.kron(np.where(dots, 0, 255), np.ones((8, 8))).astype(np.uint8)
    return str(cv2.QRCodeDetector().detectAndDecode(np.pad(image, 32, constant_values=255))[0])


@pytest.mark.parametrize("terminal", [True, False])
def test_the_code_in_a_terminal_says_the_address(terminal: bool) -> None:
    drawn = share.code_as_text(ADDRESS, Terminal("utf-8", terminal))
    if terminal:
        assert all(line.startswith("\x1b") and line.endswith("\x1b[0m") for line in drawn.split("\n"))
    lines = [line.removeprefix("\x1b[40m\x1b[97m").removesuffix("\x1b[0m") for line in drawn.split("\n")]
    halves = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}  # light above, light below
    dots = [[halves[place][half] for place in line] for line in lines for half in (0, 1)]
    assert read_code(np.array(dots, bool)) == ADDRESS


def test_a_terminal_without_blocks_gets_a_code_of_plain_signs() -> None:
    drawn = share.code_as_text(ADDRESS, Terminal("cp1252", terminal=False))
    assert drawn.isascii()
    dots = np.array([[place == " " for place in line[::2]] for line in drawn.split("\n")])
    assert read_code(dots) == ADDRESS


def test_the_code_on_the_page_says_the_address() -> None:
    from urllib.parse import unquote

    drawing = unquote(share.code_as_picture(ADDRESS).partition(",")[2])
    data = bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=400, height=400))
    image = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    assert cv2.QRCodeDetector().detectAndDecode(image)[0] == ADDRESS
