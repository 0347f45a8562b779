from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from pipeline_lib.search.api import PAGE, create_app
from pipeline_lib.search.engine import SearchEngine
from pipeline_lib.search.service import Settings
from pipeline_lib.search.strokes import rasterise
from pipeline_lib.search.wire import MOST_POINTS, Stroke
from tests.search.support import PHOTOS, SKETCHES

DRAWN = Stroke(points=[(0.2, 0.2), (0.8, 0.7), (0.3, 0.9)], width=0.05)
LINE = {"points": [[0.2, 0.2], [0.8, 0.7], [0.3, 0.9]], "width": 0.05}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(upload_bytes=300_000, upload_pixels=500_000)


@pytest.fixture(scope="module")
def app(engine: SearchEngine, settings: Settings) -> FastAPI:
    return create_app(engine, settings, version="v1", hosts=("testserver",))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as opened:
        yield opened


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "white").save(buffer, kind)
    return buffer.getvalue()


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_drawing_of_the_catalog_finds_what_the_engine_finds(client: TestClient, engine: SearchEngine) -> None:
    for row in range(SKETCHES):
        wanted = engine.search([engine.prepare(engine.examples.load(row))], 5)[0]
        example = client.get(f"/examples/{row}").content
        found = client.post("/api/search/image?top=5", content=example).json()["found"]
        assert [hit["image_id"] for hit in found] == [engine.gallery.image_ids[hit.row] for hit in wanted]
        np.testing.assert_allclose([hit["score"] for hit in found], [hit.score for hit in wanted], atol=1e-5)
        assert [hit["rank"] for hit in found] == [1, 2, 3, 4, 5]


def test_strokes_find_what_their_picture_finds(client: TestClient) -> None:
    by_strokes = client.post("/api/search/strokes", json={"strokes": [LINE], "top": 4}).json()
    drawn = rasterise([DRAWN])
    by_image = client.post("/api/search/image?top=4", content=png(drawn)).json()
    assert by_strokes["found"] == by_image["found"]
    assert by_strokes["milliseconds"] > 0


def test_a_picture_may_be_the_body_or_the_file_of_a_form(client: TestClient) -> None:
    data = picture()
    bare = client.post("/api/search/image", content=data).json()["found"]
    form = client.post("/api/search/image", files={"file": ("../../etc/passwd", data, "text/html")})
    assert form.status_code == 200
    assert form.json()["found"] == bare
    assert len(bare) == PHOTOS


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_all_common_formats_are_taken_whatever_they_are_called(client: TestClient, kind: str) -> None:
    answer = client.post("/api/search/image", content=picture(kind), headers={"content-type": "text/css"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 422, "holds no picture"),
        (b"no picture", 415, "no picture of a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "no picture of a known format"),
        (picture()[:70], 422, "damaged"),
        (picture(size=(1000, 1000)), 413, "0.5 million pixels"),
        (bytes(300_001), 413, "0.3 MB"),
    ],
)
def test_what_is_no_usable_picture_is_refused_with_a_sentence(
    client: TestClient, data: bytes, status: int, words: str
) -> None:
    for answer in (
        client.post("/api/search/image", content=data),
        client.post("/api/search/image", files={"file": ("x.png", data)}) if 0 < len(data) < 300_000 else None,
    ):
        if answer is not None:
            assert answer.status_code == status, answer.text
            assert words in answer.json()["detail"]


def test_a_body_whose_length_is_not_told_is_cut_off_at_the_limit(client: TestClient) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 10_000
            yield bytes(10_000)

    assert client.post("/api/search/image", content=pieces()).status_code == 413


def test_a_large_upload_leaves_nothing_on_the_disk(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    import tempfile

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a file was made")

    monkeypatch.setattr(tempfile, "_TemporaryFileWrapper", refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    data = png(noise)
    assert 200_000 < len(data) < settings.upload_bytes
    assert client.post("/api/search/image", files={"file": ("x.png", data)}).status_code == 200


def test_broken_forms_are_refused(client: TestClient) -> None:
    for kind, body in (
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=a", b"--a\r\nno header\r\n--a--"),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\ncontent-disposition: form-data; name="file"\r\n\r\nx\r\n--a--\r\n',
        ),
    ):
        answer = client.post("/api/search/image", content=body, headers={"content-type": kind})
        assert answer.status_code in {400, 422}
        assert answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"strokes": []},
        {"strokes": [{"points": []}]},
        {"strokes": [{"points": [[0.1]]}]},
        {"strokes": [{"points": [[0.1, 1e9]]}]},
        {"strokes": [{"points": [[0.1, 0.1]], "width": 0}]},
        {"strokes": [LINE], "top": 0},
        {"strokes": [LINE], "top": 10_000},
        {"strokes": [LINE], "colour": "red"},
        {"strokes": [{"points": [[0.5, 0.5]] * 5001}]},
        [],
    ],
)
def test_strokes_out_of_range_are_refused(client: TestClient, body: Any) -> None:
    assert client.post("/api/search/strokes", json=body).status_code == 422


def test_a_drawing_may_have_only_so_many_points_in_all(client: TestClient) -> None:
    longest = {"points": [[0.5, 0.5]] * MOST_POINTS}
    answers = [
        client.post("/api/search/strokes", json={"strokes": strokes})
        for strokes in ([longest] * 20, [*[longest] * 20, LINE])
    ]
    assert [answer.status_code for answer in answers] == [200, 422]
    assert "more than 100000 points" in answers[1].json()["detail"]


def test_json_that_is_too_long_or_holds_nan_is_refused(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    assert client.post("/api/search/strokes", content=b" " * 4_000_001, headers=headers).status_code == 413
    nan = b'{"strokes": [{"points": [[NaN, 0.5]]}]}'
    answer = client.post("/api/search/strokes", content=nan, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "body.strokes.0.points.0.0: Input should be a finite number"


def test_what_the_network_sees_is_told_when_asked_for(client: TestClient) -> None:
    body = {"strokes": [LINE], "top": 1}
    assert client.post("/api/search/strokes", json=body).json()["seen"] is None
    seen = client.post("/api/search/strokes", json={**body, "seen": True}).json()["seen"]
    images = {}
    for name in ("input", "edges"):
        start, _, data = seen[name].partition(",")
        assert start == "data:image/png;base64"
        images[name] = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))
    size = client.get("/api/model").json()["image_size"]
    assert images["input"].shape == (size, size)
    wanted = Image.fromarray(rasterise([DRAWN])).resize((size, size))
    assert np.abs(images["input"].astype(float) - np.asarray(wanted, float)).mean() < 3
    assert set(np.unique(images["edges"])) == {0, 255}


def test_photos_their_thumbnails_and_edges_are_those_of_the_catalog(client: TestClient, engine: SearchEngine) -> None:
    found = client.post("/api/search/strokes", json={"strokes": [LINE]}).json()["found"]
    assert {hit["image_id"] for hit in found} == set(engine.gallery.image_ids)
    hit = found[0]
    row = engine.gallery.image_ids.index(hit["image_id"])
    original = engine.gallery.load(row)
    for name, kind in (("photo", "JPEG"), ("thumbnail", "JPEG"), ("edges", "PNG")):
        answer = client.get(hit[name])
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.format == kind
            assert not image.getexif()
            if name != "edges":
                shrunk = Image.fromarray(original).resize(image.size, Image.Resampling.BOX)
                assert np.abs(np.asarray(image, float) - np.asarray(shrunk, float)).mean() < 8


@pytest.mark.parametrize("path", ["/photos/12", "/photos/999999999999", "/photos/12/thumbnail", "/examples/5"])
def test_numbers_beyond_the_gallery_are_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["detail"] == "there is no such picture"


@pytest.mark.parametrize(
    "path",
    ["/photos/-1", "/photos/x", "/photos/..%2f..%2fparams.yaml", "/photos/1e1", "/static/app.js", "/params.yaml",
     "/../params.yaml", "/page/index.html", "/docs", "/redoc"],
)  # fmt: skip
def test_no_path_of_a_request_leads_to_a_file(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in {404, 422}


def test_a_photo_that_is_gone_is_told_and_the_rest_goes_on(
    client: TestClient, engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ("gone.jpg", *engine.gallery.paths[1:])
    monkeypatch.setitem(engine.gallery.__dict__, "paths", paths)
    answer = client.get("/photos/0")
    assert answer.status_code == 404
    assert "can't be read any more" in answer.json()["detail"]
    assert client.get("/photos/1").status_code == 200


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    answers = [client.get(path) for path in (*PAGE, "/api/health", "/photos/0", "/nowhere")]
    answers.append(client.post("/api/search/image", content=b"x"))
    answers.append(client.get("/", headers={"host": "evil.example"}))
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    for path, (_, kind) in PAGE.items():
        answer = client.get(path)
        assert answer.headers["content-type"] == kind
        addresses = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "//" not in addresses.replace("// ", "").replace("://", "http") or "http" not in addresses
        assert "style=" not in answer.text or path != "/"


def test_other_names_of_the_server_are_not_answered(client: TestClient) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost", ""):
        answer = client.get("/api/health", headers={"host": host})
        assert answer.status_code == 400
        assert "does not go by that name" in answer.json()["detail"]
        assert "--name" in answer.json()["detail"]


def test_an_address_in_numbers_is_no_name_of_another_site(client: TestClient) -> None:
    for host in ("127.0.0.1", "127.0.0.1:8000", "192.168.1.7:8000", "[::1]:8000", "[fe80::1]", "TestServer:80"):
        assert client.get("/api/health", headers={"host": host}).status_code == 200


def test_the_api_describes_itself(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert {"/api/search/image", "/api/search/strokes", "/api/health", "/api/model"} <= described["paths"].keys()
    body = described["paths"]["/api/search/image"]["post"]["requestBody"]["content"]
    assert set(body) == {"image/*", "multipart/form-data"}
    assert "503" in described["paths"]["/api/search/strokes"]["post"]["responses"]


def test_model_and_health_are_told(client: TestClient) -> None:
    model = client.get("/api/model").json()
    assert (model["run"], model["embedding"]) == ("default", "fc6")
    assert model["photos"] == PHOTOS
    assert model["alignment"] == "pretext_whitened"
    assert model["index"] == "exact, 32 numbers"
    assert model["version"] == "v1"
    health = client.get("/api/health").json()
    assert health["status"] == "ok"
    assert health["waiting"] == 0


def test_searches_beyond_the_queue_are_refused_with_503_and_the_others_answered(
    engine: SearchEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(settings, queue=2, batch=1)
    go, real, batches = threading.Event(), SearchEngine.search, []

    def slow(self: SearchEngine, prepared: Any, top: int) -> Any:
        go.wait(20)
        batches.append(len(prepared))
        return real(self, prepared, top)

    monkeypatch.setattr(SearchEngine, "search", slow)
    with (
        TestClient(create_app(engine, small, version="v", hosts=("testserver",))) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        sent = [pool.submit(client.post, "/api/search/strokes", json={"strokes": [LINE]}) for _ in range(8)]
        refused = [future for future in sent if _wait(future)]
        go.set()
        answers = [future.result(30) for future in sent]
        assert len(refused) == 5
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 5
        busy = next(answer for answer in answers if answer.status_code == 503)
        assert "too many searches" in busy.json()["detail"]
        assert busy.headers["retry-after"] == "1"
        health = client.get("/api/health").json()
        assert (health["waiting"], health["answered"], health["refused"]) == (0, 3, 5)
    assert batches == [1, 1, 1]


def _wait(future: Any) -> bool:
    """Whether it is answered soon, though nothing is searched: refused."""
    try:
        future.result(3)
    except TimeoutError:
        return False
    return True


def test_searches_at_the_same_time_are_embedded_together(
    engine: SearchEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go, real, batches = threading.Event(), threading.Event(), SearchEngine.search, []

    def slow(self: SearchEngine, prepared: Any, top: int) -> Any:
        entered.set()
        go.wait(20)
        batches.append(len(prepared))
        return real(self, prepared, top)

    monkeypatch.setattr(SearchEngine, "search", slow)
    with (
        TestClient(create_app(engine, settings, version="v", hosts=("testserver",))) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        tops = [3, 1, 2, 4, 5, 6]
        first = pool.submit(client.post, "/api/search/strokes", json={"strokes": [LINE], "top": tops[0]})
        assert entered.wait(20)
        sent = [pool.submit(client.post, "/api/search/strokes", json={"strokes": [LINE], "top": n}) for n in tops[1:]]
        while client.get("/api/health").json()["waiting"] < 6:
            pass
        threading.Event().wait(0.5)
        go.set()
        found = [future.result(30).json()["found"] for future in [first, *sent]]
    assert [len(hits) for hits in found] == tops
    assert batches[0] == 1
    assert max(batches) > 1
    assert sum(batches) == 6


def test_an_answer_is_plain_json(client: TestClient) -> None:
    answer = client.post("/api/search/strokes", json={"strokes": [LINE], "top": 2})
    assert answer.headers["content-type"] == "application/json"
    assert set(json.loads(answer.content)) == {"found", "milliseconds", "seen"}
