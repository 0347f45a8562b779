"""What daily life does to an index of one's own photos: moves, unplugged drives, kills, several machines."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline_lib.embedding.vectors import EmbeddingTable, vector_table
from pipeline_lib.errors import PipelineError
from pipeline_lib.index.facts import index_key
from pipeline_lib.run import Run
from pipeline_lib.search import __main__ as command
from pipeline_lib.search import own_files, own_shards, renewing
from pipeline_lib.search.api import create_app
from pipeline_lib.search.engine import SearchEngine, open_engine
from pipeline_lib.search.gallery import Among
from pipeline_lib.search.index_photos import Part, update
from pipeline_lib.search.own_files import Files
from pipeline_lib.search.own_record import own_folder, own_home
from pipeline_lib.search.renewing import Renewal, Renewing
from pipeline_lib.search.service import Settings
from tests.conftest import scene
from tests.data.photo_files import saved
from tests.pipeline.support import ROOT
from tests.search.test_own_photos import Counting, names_of, vectors_of

PATHS = st.sets(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=60)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos, three of them in a folder below."""
    folder = tmp_path / "my photos"
    for number in range(7):
        place = folder / ("summer" if number % 2 else ".")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(100 + number)).save(place / f"{number}.jpg")
    return folder


@pytest.fixture
def small_shards() -> Iterator[None]:
    """Shards of two photos at most."""
    before, own_files.MOST_ROWS = own_files.MOST_ROWS, 2  # type: ignore[misc]
    yield
    own_files.MOST_ROWS = before  # type: ignore[misc]


def layout(paths: Iterable[str]) -> dict[str, list[str]]:
    """The bits of each shard, and its photos."""
    files = Files.of((path, "") for path in paths)
    return {bits: [path for path, _ in files.named(low, high)] for bits, low, high in files.shards()}


def shards_of(run: Run) -> dict[str, bytes]:
    """What the shards of the index hold, by their names."""
    return {path.name: path.read_bytes() for path in (own_folder(run) / "vectors").iterdir()}


@pytest.mark.usefixtures("small_shards")
@given(PATHS, st.text(st.characters(codec="utf-8"), min_size=1, max_size=8))
def test_shards_follow_from_the_paths_alone_and_a_new_one_opens_two_at_most(paths: set[str], new: str) -> None:
    files = Files.of((path, "") for path in paths)
    assert all(files.below(bits) == (low, high) for bits, low, high in files.shards())
    before = layout(sorted(paths))
    assert sorted(path for some in before.values() for path in some) == sorted(paths)
    assert max(map(len, before.values())) <= 2
    assert layout(sorted(paths, reverse=True)) == before
    after = layout([*paths, new] if new not in paths else paths)
    gone = {bits for bits, some in before.items() if some and bits not in after}
    changed = {bits for bits, some in after.items() if bits in before and some != before[bits]}
    assert len(gone | changed) <= 2


def test_vectors_at_rest_take_two_bytes_a_number(tmp_path: Path) -> None:
    made = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float16)
    names = [f"/photos of the family/2024/IMG_{row:04d}.jpg" for row in range(512)]
    table = vector_table(names, [""] * 512, names, made)
    own_shards._write_shard(tmp_path / "shard.parquet", [table.append_column("signature", pa.array(names))])
    assert (tmp_path / "shard.parquet").stat().st_size <= 2.1 * made.size
    found = EmbeddingTable.open(tmp_path / "shard.parquet").read()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, made.astype(np.float32))


@pytest.mark.usefixtures("small_shards")
def test_a_new_photo_opens_two_shards_at_most(run: Run, photos: Path) -> None:
    update(run, [photos], Counting(run))
    before = shards_of(run)
    assert len(before) > 3
    for number in range(5):
        Image.fromarray(scene(300 + number)).save(photos / f"a new one {number}.png")
        assert update(run, [photos], Counting(run)).added == 1
        after = shards_of(run)
        assert len([name for name, data in before.items() if after.get(name) != data]) <= 2
        before = after
    assert all(pq.read_metadata(io.BytesIO(data)).num_rows <= 2 for data in before.values())


def test_a_folder_that_was_moved_or_renamed_is_not_embedded_again_and_leaves_nothing_behind(
    run: Run, photos: Path
) -> None:
    update(run, [photos], Counting(run))
    before = vectors_of(run)
    (photos / "other place").mkdir()
    (photos / "summer").rename(photos / "other place" / "sommer")
    opener = Counting(run)
    done = update(run, [photos], opener)
    assert (done.photos, done.added, done.kept, done.removed, done.offline, opener.opened) == (7, 0, 3, 3, {}, 0)
    after = vectors_of(run)
    for name in ("1.jpg", "3.jpg", "5.jpg"):
        moved = after[f"{photos.as_posix()}/other place/sommer/{name}"]
        assert np.array_equal(moved, before[f"{photos.as_posix()}/summer/{name}"])
    assert update(run, [photos], opener).settings == ""


@pytest.mark.parametrize("way", ["missing", "empty", "unreadable"])
def test_photos_of_a_folder_that_is_not_there_are_kept_and_marked_until_they_are_pruned(
    run: Run, photos: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    update(run, [photos], Counting(run))
    away = (photos / "summer").rename(photos.parent / "unplugged")
    if way == "empty":  # as the place is where a drive is mounted
        (photos / "summer").mkdir()
    elif way == "unreadable":
        if os.name == "nt" or os.geteuid() == 0:
            pytest.skip("whoever runs this may read everything")
        away.rename(photos / "summer").chmod(0)
    (photos / "0.jpg").unlink()  # of a folder that is there
    assert command.main(["index", "--run", str(run.folder)]) == 0
    said = capsys.readouterr().out
    assert f"offline {photos}/summer: its 3 photos are kept; --prune drops them" in said
    assert "6 photos in" in said
    with closing(open_engine(run)) as engine:
        gallery = engine.gallery
        row = gallery.paths.index("summer/1.jpg")
        assert gallery.is_away(row)
        assert not gallery.is_away(gallery.paths.index("2.jpg"))
        assert gallery.picture(row, 64).shape[2] == 3
        assert gallery.thumbnail(row) is not None
    (photos / "drawing.png").write_bytes(saved(scene(101), "PNG"))
    asked = [
        "search",
        str(photos / "drawing.png"),
        "--photo",
        "--run",
        str(run.folder),
        "--grid",
        str(photos / "g.png"),
    ]
    assert command.main(asked) == 0
    assert f"{photos}/summer/1.jpg  (offline)" in capsys.readouterr().out
    (photos / "drawing.png").unlink()
    (photos / "g.png").unlink()
    if way == "unreadable":
        (photos / "summer").chmod(0o700)
    elif way == "empty":
        (photos / "summer").rmdir()
    if way != "unreadable":
        away.rename(photos / "summer")
    back = Counting(run)
    done = update(run, [], back)
    assert (done.photos, done.offline, done.settings, back.opened) == (6, {}, "", 0)
    shutil.rmtree(photos / "summer")
    done = update(run, [], Counting(run), prune=True)
    assert (done.photos, done.removed, done.offline) == (3, 3, {})


def test_copies_on_a_drive_that_is_unplugged_stay_beside_those_that_are_there(run: Run, photos: Path) -> None:
    shutil.copytree(photos, photos / "backup")
    assert update(run, [photos], Counting(run)).photos == 14
    shutil.rmtree(photos / "backup")
    Image.fromarray(scene(8)).save(photos / "new.png")
    done = update(run, [photos], Counting(run))
    assert (done.photos, done.added, sum(done.offline.values())) == (15, 1, 7)


def test_what_is_excluded_or_moved_out_of_a_folder_is_not_offline(run: Run, photos: Path) -> None:
    update(run, [photos], Counting(run))
    done = update(run, [photos], Counting(run), exclude=["SUMMER"])
    assert (done.photos, done.removed, done.offline) == (4, 3, {})


@pytest.mark.usefixtures("small_shards")
def test_shards_of_an_earlier_version_are_taken_over_without_embedding(run: Run, photos: Path) -> None:
    update(run, [photos], Counting(run))
    names, before = names_of(run, photos), vectors_of(run)
    shards = own_folder(run) / "vectors"
    rows = pa.concat_tables([pq.read_table(path) for path in sorted(shards.iterdir())])
    shutil.rmtree(shards)
    shards.mkdir()
    place, made = rows.schema.get_field_index("vector"), np.array(rows["vector"].to_pylist(), np.float32)
    single = vector_table(names, names, names, made)["vector"]
    rows = rows.set_column(place, pa.field("vector", single.type), single)
    for number in range(2):
        pq.write_table(rows.slice(4 * number, 4), shards / f"part-{number:05d}.parquet")
    opener = Counting(run)
    assert update(run, [photos], opener).photos == 7
    assert opener.opened == 0
    assert not list(shards.glob("part-*"))
    assert names_of(run, photos) == names
    after = vectors_of(run)
    assert all(np.array_equal(after[name], before[name]) for name in before)


class CutError(BaseException):
    """The process is killed."""


@pytest.mark.usefixtures("small_shards")
def test_an_update_that_is_killed_at_any_write_ends_in_the_same_index(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_shards, "SHARD_ROWS", 1)
    update(run, [photos], Counting(run))
    base = own_home(run).rename(photos.parent / "base")
    (photos / "summer").rename(photos / "sommer")
    (photos / "0.jpg").unlink()
    Image.fromarray(scene(8)).save(photos / "new.png")
    real, left = Path.replace, [0]

    def replace(self: Path, target: Path) -> Path:
        if "vectors" in str(target):
            left[0] -= 1
            if left[0] == 0:
                raise CutError
        return real(self, target)

    wanted: dict[str, bytes] = {}  # path -> its vector
    for cut in range(40):
        shutil.rmtree(own_home(run), ignore_errors=True)
        shutil.copytree(base, own_home(run))
        left[0] = cut
        monkeypatch.setattr(Path, "replace", replace)
        finished = False
        try:
            update(run, [photos], Counting(run))
            finished = True
        except CutError:
            monkeypatch.setattr(Path, "replace", real)
            update(run, [photos], Counting(run))
        assert names_of(run, photos) == ["2.jpg", "4.jpg", "6.jpg", "new.png", *(f"sommer/{n}.jpg" for n in (1, 3, 5))]
        found = {name: vector.tobytes() for name, vector in vectors_of(run).items()}
        wanted = wanted or found
        assert found == wanted
        if cut and finished:
            break
    assert cut > 5


def test_an_update_that_the_system_kills_ends_in_the_same_index(run: Run, photos: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "pipeline_lib.search", "index", str(photos), "--run", str(run.folder)]
    started = time.monotonic()
    subprocess.run([*arguments, "--index", str(tmp_path / "whole")], cwd=ROOT, check=True, capture_output=True)
    seconds = time.monotonic() - started
    for part in np.random.default_rng(0).uniform(0.5, 1, 3):
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(part * seconds)
            process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    assert update(run, [photos], Counting(run)).photos == 7
    whole = pq.read_table(tmp_path / "whole/1/index/photos.parquet").select(["image_id", "content"])
    assert pq.read_table(own_folder(run) / "index/photos.parquet").select(["image_id", "content"]) == whole


@pytest.mark.usefixtures("small_shards")
def test_parts_on_several_machines_make_the_index_that_one_makes(run: Run, photos: Path) -> None:
    whole = Counting(run)
    update(run, [photos], whole)
    wanted, shards = vectors_of(run), shards_of(run)
    shutil.rmtree(own_home(run))
    openers = [Counting(run) for _ in range(3)]
    with ThreadPoolExecutor(3) as machines:
        parts = [
            machines.submit(update, run, [photos], opener, part=Part(number, 3))
            for number, opener in enumerate(openers, start=1)
        ]
        assert sum(part.result().added for part in parts) == 7
    with pytest.raises(PipelineError, match="indexing was started and is not finished"):
        open_engine(run, "own")
    merge = Counting(run)
    assert update(run, [photos], merge).photos == 7
    assert merge.opened == 0
    assert shards_of(run).keys() == shards.keys()
    for name, vector in vectors_of(run).items():
        np.testing.assert_allclose(vector, wanted[name], rtol=2e-3, atol=1e-4)
    with FileLock(own_home(run) / ".lock-2-of-3"), pytest.raises(PipelineError, match="updated by another process"):
        update(run, [photos], Counting(run))
    assert not any(".tmp" in path.name for path in own_home(run).rglob("*"))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["index", "--part", text])
    assert "is not one of the parts 1/N to N/N" in capsys.readouterr().err or text.startswith("-")


def test_a_search_can_be_kept_to_a_folder_and_to_days(run: Run, photos: Path, tmp_path: Path) -> None:
    for name, day in (("old.jpg", "2019:05:06"), ("summer/late.jpg", "2024:05:06")):
        exif = Image.Exif()
        exif[0x0110] = "Camera"
        exif.get_ifd(0x8769)[0x9003] = f"{day} 23:59:59"
        (photos / name).write_bytes(saved(scene(len(name)), "JPEG", exif=exif))
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(scene(1)).save(other / "0.jpg")
    update(run, [photos, other], Counting(run))
    with closing(open_engine(run)) as engine:
        asked = [engine.prepare(engine.gallery.load(0), "photo")]

        def found(among: Among) -> set[str]:
            (hits,) = engine.search(asked, 20, among)
            return {Path(engine.gallery.image_ids[hit.row]).relative_to(tmp_path).as_posix() for hit in hits}

        below = {f"my photos/summer/{name}.jpg" for name in ("1", "3", "5", "late")}
        assert found(Among("summer")) == found(Among(str(photos / "summer"))) == below
        assert found(Among(str(other))) == {"other/0.jpg"}
        assert found(Among("summ")) == set()
        assert found(Among(since=date(2019, 5, 7))) == {"my photos/summer/late.jpg"}
        assert found(Among(until=date(2019, 5, 6))) == {"my photos/old.jpg"}
        assert found(Among("summer", since=date(2019, 1, 1))) == {"my photos/summer/late.jpg"}
        assert len(found(Among())) == 10
    with (
        closing(open_engine(run, "pipeline")) as engine,
        pytest.raises(PipelineError, match="among your own photos alone"),
    ):
        engine.search([engine.prepare(engine.gallery.load(0))], 3, Among("summer"))


def test_a_server_takes_a_new_index_without_dropping_a_query(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing, "LOOK_SECONDS", 0.05)
    update(run, [photos], Counting(run))
    engine = open_engine(run, "own")

    def make(opened: SearchEngine) -> FastAPI:
        return create_app(opened, Settings(), version=str(abs(hash(opened.facts.key))), hosts=("testserver",))

    renewal = Renewal(
        engine,
        lambda: index_key(own_folder(run) / "index"),
        lambda: open_engine(run, "own", encoder=engine.encoder),
        make,
    )
    drawing = saved(scene(3), "PNG")
    with closing(engine), TestClient(Renewing(make(engine), renewal)) as client:
        first = client.post("/api/search/image?top=20&kind=photo", content=drawing).json()
        shown = first["found"][0]["thumbnail"]
        for number in range(2):
            (photos / f"{2 * number}.jpg").unlink()
            Image.fromarray(scene(500 + number)).save(photos / f"new {number}.png")
            Image.fromarray(scene(600 + number)).save(photos / f"newer {number}.png")
            update(run, [photos], Counting(run))
            end = time.monotonic() + 30
            while client.get("/api/health").json()["photos"] != 8 + number:
                assert client.post("/api/search/image?top=20&kind=photo", content=drawing).status_code == 200
                assert time.monotonic() < end
            assert client.get(f"/{shown}").status_code == (200 if number == 0 else 410)
        answer = client.post("/api/search/image?top=20&kind=photo", content=drawing).json()
        assert answer["version"] != first["version"]
        assert sum(1 + len(hit["stack"]) for hit in answer["found"]) == 9
    assert not engine.faiss.alive


def test_the_api_searches_below_a_folder_and_refuses_that_where_there_are_none(
    run: Run, photos: Path, engine: SearchEngine
) -> None:
    update(run, [photos], Counting(run))
    drawing = saved(scene(3), "PNG")
    with closing(open_engine(run)) as own:
        for searched, status, count in ((own, 200, 3), (engine, 422, 0)):
            with TestClient(create_app(searched, Settings(), version="v", hosts=("testserver",))) as client:
                answer = client.post("/api/search/image?kind=photo&folder=my photos/summer", content=drawing)
                assert answer.status_code == status
                stacks = [1 + len(hit["stack"]) for hit in answer.json().get("found", [])]
                assert sum(stacks) == count
                late = client.post("/api/search/image?kind=photo&since=2999-01-01", content=drawing)
                assert late.json().get("found", []) == []
