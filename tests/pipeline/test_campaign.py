"""A short part of the campaign, and that it counts, tells and repeats what fails."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from campaign import __main__ as campaign
from campaign.images import blamed, clear
from campaign.kills import unlike
from campaign.pictures import mutated, whole_files
from campaign.reading import digest
from campaign.rot import Target, damage, fault_of
from campaign.tally import Plan, Tally
from pipeline_lib.data.images import decode


def rows(table: Path) -> dict[str, dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        return {row["what"]: row for row in csv.DictReader(stream)}


def test_a_part_replaces_its_rows_and_nothing_fails(tmp_path: Path) -> None:
    table = tmp_path / "campaign.csv"
    table.write_text("what,tried,held,failed\nparams: files,9,8,1\nother,1,1,0\n", encoding="utf-8")
    assert campaign.main(["params", "--share", "0.1", "--out", str(table)]) == 0
    found = rows(table)
    assert found["other"]["tried"] == "1"
    assert {name: row["failed"] for name, row in found.items()} == dict.fromkeys(found, "0")
    assert int(found["params: values of every key"]["tried"]) > 500
    assert found["params: files"]["tried"] != "9"


def test_what_fails_is_counted_and_told_with_what_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally("rot: all")
    tally.count()
    tally.count("it was read in silence", "seed 3, index 7: byte 5, bit 1 flipped")
    assert tally.row == {"what": "rot: all", "tried": "2", "held": "1", "failed": "1"}
    assert (
        capsys.readouterr().out == "FAILED rot: all: seed 3, index 7: byte 5, bit 1 flipped: it was read in silence\n"
    )


def test_an_attempt_does_the_same_whatever_was_tried_before(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20
    for number in range(40):
        (first, how), again = (damage(data, Plan(tmp_path, tmp_path, 1).random("x", number)) for _ in range(2))
        assert (first, how) == again
        assert first != data or "lost" in how
    assert len({damage(data, Plan(tmp_path, tmp_path, seed).random("x", 0)) for seed in range(9)}) == 9


def test_silence_and_messages_that_name_nothing_are_faults() -> None:
    target = Target(Path("/run/catalog.parquet"), "catalog", Path("/run/catalog.parquet"), 1)
    same = {"read": "a"}
    assert fault_of(same, same, target) == ""
    assert fault_of({"refused": "/run/catalog.parquet: is damaged"}, same, target) == ""
    assert "no file" in fault_of({"refused": "something is wrong"}, same, target)
    assert "silence" in fault_of({"read": "b"}, same, target)
    assert fault_of({"broke": "the process ended with status -11"}, same, target) == "the process ended with status -11"


def test_what_is_read_is_compared_by_all_of_it_and_never_by_where_it_lies() -> None:
    names = [f"{number}.jpg" for number in range(99)]
    changed = [*names[:50], "other.jpg", *names[51:]]
    first, second = (digest({"names": pa.array(each), "score": np.float32(0.5)}) for each in (names, changed))
    assert first != second
    assert first == digest({"names": names, "score": np.float32(0.5)})
    with pytest.raises(TypeError):
        digest([object()])


def test_a_command_that_fails_as_a_whole_is_laid_to_the_file_that_it_fails_of(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(9)]
    found = blamed(files, lambda some: "it ended" if files[5] in some else {path.name: "" for path in some})
    assert {name for name, fault in found.items() if fault} == {"5.jpg"}
    assert len(found) == 9
    together = blamed(files[:2], lambda some: "it ended" if len(some) == 2 else {path.name: "" for path in some})
    assert [name for name, fault in together.items() if fault] == ["0.jpg to 1.jpg together"]


@pytest.mark.parametrize("reason", ["", "IndexError", "Traceback (most recent call last)"])
def test_a_reason_without_words_is_a_fault(reason: str) -> None:
    assert clear(reason)
    assert not clear("the file is cut")


def test_whole_files_are_pictures_in_twelve_formats_and_mutated_ones_differ(tmp_path: Path) -> None:
    files = whole_files()
    assert len({name.rpartition(".")[2] for name in files}) >= 12
    for name, data in files.items():
        if not name.endswith(".svg"):
            assert min(decode(data, max_pixels=1 << 20).shape[:2]) >= 50, name
        assert sum(mutated(data, Plan(tmp_path, tmp_path).random(name, number))[0] != data for number in range(20)) > 15


def test_two_indexes_are_told_apart() -> None:
    vector = np.ones(3, np.float32)
    wanted = {"a": ("x", vector)}
    assert unlike({"a": ("x", vector + 1e-6)}, wanted) == ""
    assert "other photos" in unlike({}, wanted)
    assert "another vector" in unlike({"a": ("x", vector + 0.1)}, wanted)
