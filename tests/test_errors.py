"""What is told of a failure can be shown on any terminal."""

import os
import pickle

import pytest

from pipeline_lib.errors import PipelineError, in_words, printable

ALARM = "a\x1b[31m\a\x9b.jpg"


@pytest.mark.parametrize("words", [f"{ALARM}: is damaged", os.fsdecode(b"\xff\xfe.jpg"), "a\u202egpj.exe"])
def test_names_of_files_give_a_terminal_no_orders(words: str) -> None:
    told = str(PipelineError(words))
    assert told.isprintable()
    assert told == printable(words) == printable(told)
    told.encode("utf-8")


def test_words_in_any_script_and_lines_stay_as_they_are() -> None:
    words = "Zürich/猫 🐈.jpg: can't be used:\n  because"
    assert str(PipelineError(words)) == words


def test_the_systems_own_words_are_told_likewise() -> None:
    assert in_words(OSError(28, "No space left on device", ALARM)).isprintable()


def test_a_failure_travels_between_processes() -> None:
    failure = pickle.loads(pickle.dumps(PipelineError(ALARM)))
    assert str(failure) == printable(ALARM)
    assert type(failure) is PipelineError
