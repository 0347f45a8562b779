from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw

from pipeline_lib.errors import PipelineError
from pipeline_lib.search.api import PAGE, create_app
from pipeline_lib.search.engine import SearchEngine
from pipeline_lib.search.gallery import Gallery
from pipeline_lib.search.pace import WITHIN
from pipeline_lib.search.queries import of_pixels
from pipeline_lib.search.service import Settings
from pipeline_lib.search.strokes import rasterise
from pipeline_lib.search.wire import MOST_POINTS, Stroke
from tests.search.support import PHOTOS, SKETCHES

DRAWN = Stroke(points=[(0.2, 0.2), (0.8, 0.7), (0.3, 0.9)], width=0.02)
LINE = {"points": [[0.2, 0.2], [0.8, 0.7], [0.3, 0.9]], "width": 0.02}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(upload_bytes=300_000, upload_pixels=900_000)


@pytest.fixture(scope="module")
def app(engine: SearchEngine, settings: Settings) -> FastAPI:
    return create_app(engine, settings, version="v1", hosts=("testserver",))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as opened:
        yield opened


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    drawn = Image.new("RGB", size, "white")
    ImageDraw.Draw(drawn).ellipse((12, 8, 50, 54), outline="black", width=2)
    drawn.save(buffer, kind)
    return buffer.getvalue()


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def scores(answer: Any) -> dict[str, float]:
    """image_id -> score of what was found."""
    return {hit["image_id"]: hit["score"] for hit in answer["found"]}


def decoded(address: str) -> Any:
    """The pixels of a PNG's data address."""
    start, _, data = address.partition(",")
    assert start == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_a_drawing_of_the_catalog_finds_what_the_engine_finds(client: TestClient, engine: SearchEngine) -> None:
    drawn = [of_pixels(engine.examples.load(row)) for row in range(SKETCHES)]
    assert sum(not query.blank for query in drawn) >= 3
    for row, query in enumerate(drawn):
        example = client.get(f"/examples/v1/{row}").content
        answer = client.post("/api/search/image?top=5", content=example).json()
        assert answer["blank"] == query.blank
        if query.blank:
            continue
        wanted, found = engine.search([engine.prepare(query.pixels)], 5)[0], answer["found"]
        assert [hit["image_id"] for hit in found] == [engine.gallery.image_ids[hit.row] for hit in wanted]
        np.testing.assert_allclose([hit["score"] for hit in found], [hit.score for hit in wanted], atol=1e-5)
        assert [hit["rank"] for hit in found] == [1, 2, 3, 4, 5]


def test_strokes_find_what_their_picture_finds(client: TestClient) -> None:
    by_strokes = client.post("/api/search/strokes", json={"strokes": [LINE], "top": 4}).json()
    drawn = rasterise([DRAWN])
    by_image = client.post("/api/search/image?top=4", content=png(drawn)).json()
    assert scores(by_strokes) == pytest.approx(scores(by_image), abs=1e-3)
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
        (b"no picture", 415, "no picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'", 415, "no picture that can be read"),
        (picture()[:70], 422, "damaged"),
        (picture(size=(1000, 1000)), 413, "1000 x 1000 px are more than max_pixels 900000"),
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


def test_what_the_network_sees_is_told_when_asked_for(client: TestClient, engine: SearchEngine) -> None:
    body = {"strokes": [LINE], "top": 1}
    assert client.post("/api/search/strokes", json=body).json()["seen"] is None
    answer = client.post("/api/search/strokes", json={**body, "seen": True}).json()
    prepared = engine.prepare(of_pixels(rasterise([DRAWN]), "drawing").pixels, "sketch")
    assert len(answer["seen"]["inputs"]) == len(prepared.pixels)
    for told, pixels in zip(answer["seen"]["inputs"], prepared.pixels, strict=True):
        np.testing.assert_array_equal(decoded(told), pixels)
    assert answer["seen"]["alignment"] == engine.facts.alignment
    photo = client.get(answer["found"][0]["input"]).content
    row = engine.gallery.image_ids.index(answer["found"][0]["image_id"])
    (wanted,) = engine.prepare(engine.gallery.load(row), "photo").pixels
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(photo)).convert("RGB")), wanted)


def test_a_drawing_can_be_searched_mirrored(client: TestClient) -> None:
    turned = {**LINE, "points": [(1 - x, y) for x, y in DRAWN.points]}
    asked = [(LINE, True), (turned, False)]
    by_toggle, by_hand = (
        client.post("/api/search/strokes", json={"strokes": [line], "mirror": mirror, "seen": True}).json()
        for line, mirror in asked
    )
    toggled, drawn = (decoded(answer["seen"]["inputs"][0]).astype(float) for answer in (by_toggle, by_hand))
    assert np.abs(toggled - drawn).mean() < 2
    by_image = client.post("/api/search/image?mirror=true", content=png(rasterise([DRAWN]))).json()
    assert scores(by_image) == pytest.approx(scores(by_toggle), abs=1e-3)


def test_a_picture_is_taken_for_what_it_is_or_for_what_one_says(client: TestClient, engine: SearchEngine) -> None:
    photo, drawing = png(engine.gallery.load(0)), png(rasterise([DRAWN]))
    assert client.post("/api/search/image", content=photo).json()["kind"] == "photo"
    assert client.post("/api/search/image", content=drawing).json()["kind"] == "drawing"
    assert client.post("/api/search/strokes", json={"strokes": [LINE]}).json()["kind"] == "drawing"
    for kind in ("drawing", "photo"):
        for data in (photo, drawing):
            answer = client.post(f"/api/search/image?kind={kind}", content=data)
            assert (answer.status_code, answer.json()["kind"]) == (200, kind)
    assert client.post("/api/search/image?kind=painting", content=drawing).status_code == 422


@pytest.mark.parametrize(
    "strokes",
    [
        [{**LINE, "erase": True}],
        [LINE, {**LINE, "erase": True, "width": 0.2}],
        [{"points": [[-0.9, -0.9], [-0.5, -0.2]]}],  # beside the paper
    ],
)
def test_a_blank_drawing_says_so_and_finds_nothing(
    client: TestClient, strokes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("searched")

    monkeypatch.setattr(SearchEngine, "search", refuse)
    answer = client.post("/api/search/strokes", json={"strokes": strokes}).json()
    assert (answer["blank"], answer["found"]) == (True, [])
    white = client.post("/api/search/image", content=png(np.full((40, 60), 255, np.uint8))).json()
    assert (white["blank"], white["found"]) == (True, [])


def test_a_photo_of_the_gallery_finds_itself_first_and_more_like_it(client: TestClient, engine: SearchEngine) -> None:
    for row in (0, 7):
        answer = client.post(f"/api/search/photo/{row}?top=3&version=v1").json()
        assert answer["found"][0]["number"] == row
        assert answer["found"][0]["score"] == pytest.approx(1, abs=1e-3)
        assert (answer["kind"], answer["blank"], len(answer["found"])) == ("photo", False, 3)
        wanted = engine.search([engine.prepare(engine.gallery.load(row), "photo")], 3)[0]
        assert [hit["number"] for hit in answer["found"]] == [hit.row for hit in wanted]
    assert client.post("/api/search/photo/12").status_code == 404


def test_likeness_divides_what_is_alike_from_what_is_less(client: TestClient) -> None:
    found = client.post("/api/search/photo/3").json()["found"]
    assert [hit["alike"] for hit in found] == [hit["likeness"] >= 0.5 for hit in found]
    assert found[0]["alike"]
    assert all(0 <= hit["likeness"] <= 1 for hit in found)
    likeness = [hit["likeness"] for hit in found]
    assert likeness == sorted(likeness, reverse=True)


def test_near_duplicates_stand_behind_the_best_of_them(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = client.post("/api/search/photo/3?top=5").json()["found"]
    assert [hit["stack"] for hit in alone] == [[]] * 5
    monkeypatch.setattr(Gallery, "stacked", lambda _, rows: [[0, 2, 4], [1], [3]] if len(rows) == 5 else [])
    stacked = client.post("/api/search/photo/3?top=5").json()["found"]
    assert [hit["rank"] for hit in stacked] == [1, 2, 3]
    assert [hit["number"] for hit in stacked] == [alone[place]["number"] for place in (0, 1, 3)]
    behind = stacked[0]["stack"]
    assert behind == [{key: alone[place][key] for key in behind[0]} for place in (2, 4)]
    assert {"path", "original", "thumbnail", "label"} <= behind[0].keys()


def test_photos_and_their_thumbnails_are_those_of_the_catalog(client: TestClient, engine: SearchEngine) -> None:
    found = client.post("/api/search/strokes", json={"strokes": [LINE]}).json()["found"]
    assert {hit["image_id"] for hit in found} == set(engine.gallery.image_ids)
    hit = found[0]
    row = engine.gallery.image_ids.index(hit["image_id"])
    original = engine.gallery.load(row)
    for name in ("photo", "thumbnail"):
        answer = client.get(hit[name])
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.format == "JPEG"
            assert not image.getexif()
            shrunk = Image.fromarray(original).resize(image.size, Image.Resampling.BOX)
            assert np.abs(np.asarray(image, float) - np.asarray(shrunk, float)).mean() < 8


def test_a_hit_leads_to_its_file(client: TestClient, engine: SearchEngine) -> None:
    for hit in client.post("/api/search/strokes", json={"strokes": [LINE]}).json()["found"]:
        path = Path(hit["path"])
        assert (str(path.parent), path.name) == (hit["folder"], hit["label"])
        assert path.parts[0] == engine.gallery.folders[0]
        file = engine.gallery.file(hit["number"])
        assert file is not None
        answer = client.get(hit["original"])
        assert answer.content == file.read_bytes()
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["content-disposition"].startswith("inline")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src")  # and no script
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "immutable" not in answer.headers["cache-control"]


def test_a_file_that_browsers_cannot_show_is_downloaded(
    client: TestClient, engine: SearchEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, data in (("scan.tif", picture("TIFF")), ("photo.jpg", b"<script>alert(1)</script>")):
        (tmp_path / name).write_bytes(data)
        monkeypatch.setitem(engine.gallery.__dict__, "paths", (str(tmp_path / name), *engine.gallery.paths[1:]))
        answer = client.get("/photos/v1/0/original")
        assert answer.content == data
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    (tmp_path / "photo.jpg").unlink()
    assert client.get("/photos/v1/0/original").status_code == 404


@pytest.mark.parametrize("version", ["v0", "v10", "V1", "0"])
def test_a_number_of_another_gallery_shows_nothing(client: TestClient, version: str) -> None:
    paths = [f"/photos/{version}/0{kind}" for kind in ("", "/thumbnail", "/input", "/original")]
    answers = [client.get(path) for path in (*paths, f"/examples/{version}/0")]
    answers.append(client.post(f"/api/search/photo/0?version={version}"))
    for answer in answers:
        assert answer.status_code == 410
        assert "searches other photos by now" in answer.json()["detail"]
        assert "immutable" not in answer.headers["cache-control"]


def test_answers_tell_the_version_that_their_addresses_carry(client: TestClient) -> None:
    answer = client.post("/api/search/strokes", json={"strokes": [LINE], "top": 1}).json()
    assert answer["version"] == "v1" == client.get("/api/health").json()["version"]
    hit = answer["found"][0]
    for name in ("photo", "thumbnail", "input", "original"):
        assert hit[name].startswith(f"photos/v1/{hit['number']}")  # relative, for servers below a path


@pytest.mark.parametrize(
    "path",
    [f"/photos/v1/{place}" for place in ("12", "999999999999", "12/thumbnail", "12/input", "12/original")]
    + ["/examples/v1/5"],
)
def test_numbers_beyond_the_gallery_are_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["detail"] == "there is no such picture"


@pytest.mark.parametrize(
    "path",
    ["/photos/v1/-1", "/photos/v1/x", "/photos/v1/..%2f..%2fparams.yaml", "/photos/v1/1e1", "/static/app.js",
     "/photos/v1/0/..%2f..%2foriginal", "/params.yaml", "/../params.yaml", "/page/index.html", "/docs", "/redoc"],
)  # fmt: skip
def test_no_path_of_a_request_leads_to_a_file(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in {404, 422}


def test_a_photo_that_is_gone_is_told_and_the_rest_goes_on(
    client: TestClient, engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ("gone.jpg", *engine.gallery.paths[1:])
    monkeypatch.setitem(engine.gallery.__dict__, "paths", paths)
    answer = client.get("/photos/v1/0")
    assert answer.status_code == 404
    assert "can't be read any more" in answer.json()["detail"]
    assert client.get("/photos/v1/1").status_code == 200


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    answers = [client.get(path) for path in (*PAGE, "/api/health", "/photos/v1/0", "/nowhere")]
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


def test_all_that_the_page_names_is_served_below_any_path(client: TestClient) -> None:
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', client.get("/").text))
    scripts = [path for path, (_, kind) in PAGE.items() if kind.startswith("text/javascript")]
    for path in scripts:
        named |= set(re.findall(r'from "([^"]+)"', client.get(path).text))
    assert len(named) >= len(PAGE) - 1
    for address in named:
        assert not address.startswith("/")  # which would lead past the path of a proxy
        assert f"/{address.removeprefix('./')}" in PAGE


def test_other_names_of_the_server_are_not_answered(client: TestClient) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost", ""):
        answer = client.get("/api/health", headers={"host": host})
        assert answer.status_code == 400
        assert "does not go by that name" in answer.json()["detail"]
        assert "--name" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://testserver"}, 200),
        ({"origin": "https://testserver"}, 200),
        ({"origin": "http://testserver:8000"}, 200),
        ({"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000"}, 200),
        ({"origin": "http://[::1]:8000", "host": "[::1]:8000"}, 200),
        ({"origin": "http://testserver", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://127.0.0.1:9000", "host": "127.0.0.1:8000"}, 403),
        ({"origin": "http://localhost:8000", "host": "127.0.0.1:8000"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "https://testserver.evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_what_another_sites_page_sends_is_not_searched(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    assert client.post("/api/search/image", content=picture(), headers=headers).status_code == status


@pytest.mark.parametrize("host", ["[::1]evil.example", "[::1", "::1", "127.0.0.1:80:80", "a]b", "testserver:x"])
def test_a_host_that_is_no_host_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/health", headers={"host": host}).status_code == 400


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


def test_searches_that_would_wait_too_long_are_refused_with_503_and_the_others_answered(
    engine: SearchEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, batches = SearchEngine.search, []

    def slow(self: SearchEngine, prepared: Any, top: int, among: Any) -> Any:
        threading.Event().wait(0.4)
        batches.append(len(prepared))
        return real(self, prepared, top, among)

    monkeypatch.setattr(SearchEngine, "search", slow)
    app = create_app(engine, replace(settings, batch=1), version="v", hosts=("testserver",))
    with TestClient(app) as client, ThreadPoolExecutor(16) as pool:

        def ask() -> tuple[float, Any]:
            started = time.monotonic()
            answer = client.post("/api/search/strokes", json={"strokes": [LINE]})
            return time.monotonic() - started, answer

        ask()  # one is measured
        answers = [future.result(30) for future in [pool.submit(ask) for _ in range(16)]]
        refused = [answer for _, answer in answers if answer.status_code == 503]
        assert 0 < len(refused) < 16
        assert {answer.status_code for _, answer in answers} == {200, 503}
        assert max(seconds for seconds, _ in answers) < WITHIN + 0.5
        assert refused[0].json()["detail"] == "the server is busy; try again in a moment"
        assert int(refused[0].headers["retry-after"]) >= 1
        health = client.get("/api/health").json()
        assert (health["waiting"], health["answered"], health["refused"]) == (0, 17 - len(refused), len(refused))
        # However slow it has been, whoever comes when nobody waits is admitted.
        assert ask()[1].status_code == 200
    assert set(batches) == {1}


def test_whoever_is_not_answered_in_time_is_told_so_in_time(
    engine: SearchEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, real = threading.Event(), SearchEngine.search

    def hanging(self: SearchEngine, prepared: Any, top: int, among: Any) -> Any:
        go.wait(20)
        return real(self, prepared, top, among)

    with TestClient(create_app(engine, settings, version="v", hosts=("testserver",))) as client:
        with monkeypatch.context() as patched:
            patched.setattr(SearchEngine, "search", hanging)
            started = time.monotonic()
            assert client.post("/api/search/strokes", json={"strokes": [LINE]}).status_code == 503
            assert WITHIN - 0.1 < time.monotonic() - started < WITHIN + 1
            started = time.monotonic()
            assert client.post("/api/search/strokes", json={"strokes": [LINE]}).status_code == 503
            assert time.monotonic() - started < 1  # a search that has taken so long says nothing of its end
            go.set()
        end = time.monotonic() + 10  # the one that hung may take a moment to end
        while client.post("/api/search/strokes", json={"strokes": [LINE]}).status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_pictures_that_must_be_decoded_wait_in_a_queue_that_is_short_enough(
    engine: SearchEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Gallery.load

    def slow(self: Gallery, row: int, short_side: int = 0) -> Any:
        threading.Event().wait(0.3)
        return real(self, row, short_side)

    monkeypatch.setattr(Gallery, "load", slow)
    app = create_app(engine, settings, version="v1", hosts=("testserver",))
    with TestClient(app) as client, ThreadPoolExecutor(40) as pool:
        client.get("/photos/v1/0")
        started = time.monotonic()
        answers = [future.result(30) for future in [pool.submit(client.get, "/photos/v1/1") for _ in range(40)]]
        assert time.monotonic() - started < WITHIN + 1.5
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
        # Strokes, and thumbnails that are there, do not wait behind them.
        client.get("/photos/v1/2/thumbnail")
        waiting = [pool.submit(client.get, "/photos/v1/1") for _ in range(40)]
        started = time.monotonic()
        assert client.post("/api/search/strokes", json={"strokes": [LINE]}).status_code == 200
        assert client.get("/photos/v1/2/thumbnail").status_code == 200
        assert time.monotonic() - started < 1
        assert {future.result(30).status_code for future in waiting} == {200, 503}


def test_a_failure_of_the_index_names_no_file_to_whoever_searches(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> Any:
        raise PipelineError("/photos/of/someone/index: has changed; start again")

    monkeypatch.setattr(SearchEngine, "search", fails)
    answer = client.post("/api/search/strokes", json={"strokes": [LINE]})
    assert answer.status_code == 503
    assert "/photos/of" not in answer.text
    assert "/photos/of/someone/index: has changed" in capsys.readouterr().err


def test_no_answer_holds_an_absolute_path(client: TestClient, engine: SearchEngine) -> None:
    found = client.post("/api/search/strokes", json={"strokes": [LINE], "seen": True}).json()["found"]
    paths = ["/api/model", "/api/health", "/openapi.json", "/photos/v1/99", "/photos/v0/1", "/photos/v1/1/original"]
    texts = [json.dumps(found)]
    for path in paths:
        answer = client.get(path)
        texts += [str(answer.headers), "" if path.endswith("original") else answer.text]
    texts.append(client.post("/api/search/image", content=b"x").text)
    folder = engine.gallery.file(0)
    assert folder is not None
    for above in folder.parents:
        if len(above.parts) > 2:
            assert not any(str(above) in text for text in texts)


def test_searches_at_the_same_time_are_embedded_together(
    engine: SearchEngine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go, real, batches = threading.Event(), threading.Event(), SearchEngine.search, []

    def slow(self: SearchEngine, prepared: Any, top: int, among: Any) -> Any:
        entered.set()
        go.wait(20)
        batches.append(len(prepared))
        return real(self, prepared, top, among)

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
    assert set(json.loads(answer.content)) == {"found", "blank", "kind", "version", "milliseconds", "seen"}
