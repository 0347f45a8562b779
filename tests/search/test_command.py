from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline_lib.run import Run
from pipeline_lib.search.__main__ import main
from tests.search.support import PHOTOS


@pytest.fixture
def sketches(finished_run: Run) -> list[str]:
    folder = Path(finished_run.params.catalog.root) / "sketches"
    return [str(path) for path in sorted(folder.glob("*.png"))]


def arguments(run: Run, *more: str) -> list[str]:
    return [*more, "--run", str(run.folder)]


def test_ranks_scores_and_paths_are_printed_for_each_sketch(
    finished_run: Run, sketches: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(finished_run, *sketches[:2], "--top", "3")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[4]] == sketches[:2]
    for line in lines[1:4]:
        rank, score, path = line.split(maxsplit=2)
        assert rank == str(lines.index(line))
        assert -1 <= float(score) <= 1
        assert (Path(finished_run.params.catalog.root) / path).is_file()


def test_json_holds_the_same_for_programs(
    finished_run: Run, sketches: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(finished_run, *sketches, "--json", "--top", "200")) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["sketch"] for entry in found] == sketches
    for entry in found:
        assert len(entry["found"]) == PHOTOS
        assert [hit["rank"] for hit in entry["found"]] == list(range(1, PHOTOS + 1))
        assert all(hit["distance"] == pytest.approx(1 - hit["score"], abs=2e-6) for hit in entry["found"])


def test_json_has_an_entry_for_each_sketch_that_is_given_and_can_be_read(
    finished_run: Run, sketches: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = [sketches[1], sketches[0], sketches[1]]
    assert main(arguments(finished_run, *again, "--json", "--top", "2")) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["sketch"] for entry in found] == again
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
        assert "caf\\xe9.png" in (json.loads(said.out)[0]["sketch"] if kind else said.out)
        assert "caf\\xe9.jpg: No such file" in said.err
    assert main([odd, "--run", str(tmp_path / os.fsdecode(b"\xe9"))]) == 1
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


def test_sketches_that_cannot_be_read_are_named_and_the_others_searched(
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
    assert main([sketches[0], "--run", str(tmp_path / "none")]) == 1
    assert "none: there is no finished run" in capsys.readouterr().err
    for record, words in (
        ("{", "can't be read"),
        ("3", "no record"),
        ('{"params": 3, "weights": ""}', "can't be used"),
    ):
        (tmp_path / "run.json").write_text(record)
        assert main([sketches[0], "--run", str(tmp_path)]) == 1
        assert words in capsys.readouterr().err


def test_searching_own_photos_before_they_are_indexed_says_how(
    finished_run: Run, sketches: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(finished_run, sketches[0], "--gallery", "own")) == 1
    assert "make index PHOTOS=" in capsys.readouterr().err
