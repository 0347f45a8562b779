from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline_lib.run import Run
from pipeline_lib.search.__main__ import COMMANDS, main
from tests.pipeline.support import ROOT
from tests.search.support import PHOTOS

LINE = re.compile(r" *(?P<rank>\d+)  (?P<bar>#*\.*) +(?P<percent>\d+) %  (?P<path>.*)")


@pytest.fixture
def sketches(finished_run: Run) -> list[str]:
    paths = sorted((Path(finished_run.params.catalog.root) / "sketches").glob("*.png"))
    return [str(path) for path in paths if np.asarray(Image.open(path)).min() == 0]  # one of the scenes has no edges


def arguments(run: Run, *more: str) -> list[str]:
    return ["search", *more, "--run", str(run.folder)]


@pytest.fixture
def photos(finished_run: Run) -> list[str]:
    return [str(path) for path in sorted(Path(finished_run.params.catalog.root).glob("*.jpg"))]


def test_ranks_likeness_and_paths_are_printed_for_each_drawing(
    finished_run: Run, sketches: list[str], photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(finished_run, *sketches[:2], "--top", "3")) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.strip() != "less alike:"]
    assert [said[0], said[4]] == sketches[:2]
    for number, line in enumerate(said[1:4], start=1):
        found = LINE.fullmatch(line)
        assert found
        assert int(found["rank"]) == number
        assert len(found["bar"]) == 10
        assert found["bar"].count("#") == pytest.approx(int(found["percent"]) / 10, abs=0.6)
        assert found["path"] in photos


def test_what_is_less_alike_comes_behind_a_line_that_says_so(
    finished_run: Run, sketches: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(finished_run, sketches[0], "--top", "200")) == 0
    alike, _, less = capsys.readouterr().out.partition("      less alike:\n")
    shares = [[int(found["percent"]) for found in LINE.finditer(part)] for part in (alike, less)]
    assert len(shares[0]) + len(shares[1]) == PHOTOS
    assert all(share >= 50 for share in shares[0])
    assert all(share <= 50 for share in shares[1])


def test_json_holds_the_same_for_programs(
    finished_run: Run, sketches: list[str], photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(finished_run, *sketches, "--json", "--top", "200")) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["query"] for entry in found] == sketches
    for entry in found:
        assert entry["kind"] == "drawing"
        assert [hit["rank"] for hit in entry["found"]] == list(range(1, PHOTOS + 1))
        assert sorted(hit["path"] for hit in entry["found"]) == photos
        assert all(0 <= hit["likeness"] <= 1 for hit in entry["found"])
        assert [hit["likeness"] for hit in entry["found"]] == sorted(
            (hit["likeness"] for hit in entry["found"]), reverse=True
        )


def test_json_has_an_entry_for_each_drawing_that_is_given_and_can_be_read(
    finished_run: Run, sketches: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = [sketches[1], sketches[0], sketches[1]]
    assert main(arguments(finished_run, *again, "--json", "--top", "2")) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["query"] for entry in found] == again
    assert found[0] == found[2]
    assert main(arguments(finished_run, str(tmp_path / "missing.png"), "--json")) == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == []
    assert "missing.png: No such file" in said.err


def test_names_that_are_not_utf_8_are_printed_all_the_same(
    finished_run: Run, sketches: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    shutil.copy(sketches[0], odd)
    missing = odd.replace(".png", ".jpg")
    for kind in ((), ("--json",)):
        assert main(arguments(finished_run, odd, missing, "--top", "1", *kind)) == 1
        said = capsys.readouterr()
        assert "caf\\xe9.png" in (json.loads(said.out)[0]["query"] if kind else said.out)
        assert "caf\\xe9.jpg: No such file" in said.err
    assert main(["search", odd, "--run", str(tmp_path / os.fsdecode(b"\xe9"))]) == 1
    assert "\\xe9: there is no finished run" in capsys.readouterr().err


def test_a_grid_shows_the_sketch_and_what_was_found(
    finished_run: Run, sketches: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "grid.png"
    assert main(arguments(finished_run, sketches[0], "--grid", str(out), "--top", "12")) == 0
    capsys.readouterr()
    with Image.open(out) as page:
        assert page.format == "PNG"
        assert page.width > 10 * 160  # a sketch and ten photos in a line; the other two in a second
        assert page.height > 2 * 160
        photo = page.convert("RGB").crop((190, 10, 340, 150))
    assert len(set(photo.resize((8, 8)).tobytes())) > 8


def test_drawings_that_cannot_be_read_are_named_and_the_others_searched(
    finished_run: Run, sketches: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.png").write_text("no picture")
    bad = [str(tmp_path / "words.png"), str(tmp_path / "missing.png"), str(tmp_path)]
    assert main(arguments(finished_run, *bad, sketches[0])) == 1
    said = capsys.readouterr()
    assert said.out.startswith(sketches[0])
    errors = said.err.splitlines()
    assert len(errors) == 3
    assert "words.png: not an image of a known format" in errors[0]
    assert "missing.png: No such file" in errors[1]
    assert "Is a directory" in errors[2]


@pytest.mark.parametrize("top", ["0", "-3", "many", "1000"])
def test_a_number_of_photos_out_of_range_is_refused(
    finished_run: Run, sketches: list[str], top: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments(finished_run, sketches[0], f"--top={top}"))
    assert "is not a number from 1 to" in capsys.readouterr().err


def test_failures_are_one_sentence_without_a_traceback(
    sketches: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", sketches[0], "--run", str(tmp_path / "none")]) == 1
    assert "none: there is no finished run" in capsys.readouterr().err
    for record, words in (
        ("{", "can't be read"),
        ("3", "no record"),
        ('{"params": 3, "weights": ""}', "can't be used"),
    ):
        (tmp_path / "run.json").write_text(record)
        assert main(["search", sketches[0], "--run", str(tmp_path)]) == 1
        assert words in capsys.readouterr().err


def test_a_photo_finds_itself_first_and_is_told_from_a_drawing(
    finished_run: Run, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(finished_run, photos[3], "--photo", "--json", "--top", "1")) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["kind"] == "photo"
    assert entry["found"][0]["path"] == photos[3]
    with pytest.raises(SystemExit):
        main(arguments(finished_run, photos[3], "--photo", "--drawing"))
    assert "not allowed with argument" in capsys.readouterr().err


def test_the_mirror_image_of_a_mirrored_photo_is_the_photo(
    finished_run: Run, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(photos[3]) as photo:
        photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    query = str(tmp_path / "mirrored.png")
    assert main(arguments(finished_run, query, "--photo", "--mirror", "--json", "--top", "1")) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["found"][0]["path"] == photos[3]


def test_a_drawing_is_read_from_standard_input(
    finished_run: Run, sketches: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments(finished_run, sketches[1], "--json")) == 0
    (named,) = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(sketches[1]).read_bytes())))
    assert main(arguments(finished_run, "-", "--json")) == 0
    (piped,) = json.loads(capsys.readouterr().out)
    assert piped == {**named, "query": "standard input"}


def test_nothing_is_searched_by_a_blank_drawing(
    finished_run: Run, sketches: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((300, 300), 255, np.uint8)).save(tmp_path / "blank.png")
    blank = str(tmp_path / "blank.png")
    assert main(arguments(finished_run, blank, "--json")) == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == []
    assert "blank.png: there is nothing on it" in said.err
    assert main(arguments(finished_run, blank, sketches[0], "--json", "--top", "1")) == 1
    assert [entry["query"] for entry in json.loads(capsys.readouterr().out)] == [sketches[0]]


def test_searching_own_photos_before_they_are_indexed_says_how(
    finished_run: Run, sketches: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(finished_run, sketches[0], "--gallery", "own")) == 1
    assert "make index PHOTOS=" in capsys.readouterr().err


def test_the_commands_are_listed_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, status in (["--help"], 0), ([], 2), (["find"], 2):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == status
        said = capsys.readouterr()
        assert all(name in said.out + said.err for name in (COMMANDS if words else ()))


@pytest.mark.parametrize(
    "setting", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}], ids=str
)
def test_output_that_is_not_utf_8_ends_no_command_in_a_traceback(
    finished_run: Run, sketches: list[str], tmp_path: Path, setting: dict[str, str]
) -> None:
    folder = tmp_path / "Fotos für später 写真"
    folder.mkdir()
    shutil.copy(sketches[0], folder / "Bär.png")
    (folder / "kaputt é.jpg").write_bytes(b"\xff\xd8\xff no picture")
    model = ("--run", str(finished_run.folder))
    index = ("--index", str(tmp_path / "Verzeichnis é"))
    for words in (
        ("index", str(folder), *model, *index),
        ("search", str(folder / "Bär.png"), str(folder / "kaputt é.jpg"), *model, *index),
        ("search", str(folder / "fehlt é.png"), *model),
        ("serve", "--port", "0", *model, "--index", str(tmp_path / "nichts é")),
    ):
        command = [sys.executable, "-m", "pipeline_lib.search", *words]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **setting}, capture_output=True, check=False, timeout=120
        )
        said = done.stdout + done.stderr
        assert b"Traceback" not in said
        assert said.isascii() or "PYTHONIOENCODING" not in setting
        if "PYTHONUTF8" in setting:
            continue  # Python takes such names for ones that are not UTF-8, which are refused in a sentence
        assert done.returncode == (0 if words[0] == "index" else 1)
    if "PYTHONUTF8" in setting:
        return
    command = [sys.executable, "-m", "pipeline_lib.search", "search", str(folder / "Bär.png"), "--json", *model, *index]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **setting}, capture_output=True, check=True)
    (entry,) = json.loads(done.stdout)
    assert entry["found"][0]["path"] == str(folder / "Bär.png")
