"""What the page says, in every language."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import pytest

PAGE = resources.files("pipeline_lib.search") / "page"
SCRIPTS = [file.read_text(encoding="utf-8") for file in PAGE.iterdir() if file.name.endswith(".js")]
WORDS: dict[str, dict[str, Any]] = json.loads(
    (PAGE / "words.js").read_text(encoding="utf-8").partition("WORDS = ")[2].rstrip(";\n")
)


def forms(words: Any) -> list[str]:
    """The sentence of a key, or its forms for one and for more."""
    return list(words.values()) if isinstance(words, dict) else [words]


def places(words: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", words))


def test_english_and_five_other_languages() -> None:
    assert list(WORDS) == ["en", "de", "fr", "es", "ja", "zh"]


@pytest.mark.parametrize("language", WORDS)
def test_every_language_says_everything(language: str) -> None:
    assert WORDS[language].keys() == WORDS["en"].keys()
    for key, words in WORDS[language].items():
        wanted = {place for form in forms(WORDS["en"][key]) for place in places(form)}
        for form in forms(words):
            assert form.strip(), key
            assert places(form) == wanted, key
        if isinstance(words, dict):
            assert {"one", "other"} == words.keys(), key


@pytest.mark.parametrize("language", [name for name in WORDS if name != "en"])
def test_sentences_are_translated(language: str) -> None:
    sentences = [key for key, words in WORDS["en"].items() if len(forms(words)[0].split()) > 2]
    same = [key for key in sentences if WORDS[language][key] == WORDS["en"][key]]
    assert len(sentences) > 50
    assert same == []


def test_all_that_the_page_asks_for_is_there_and_nothing_else() -> None:
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    asked = set(re.findall(r'data-(?:say|label|title)="([^"]+)"', html))
    for script in SCRIPTS:
        asked |= {word for word in re.findall(r'"([\w.]+)"', script) if word in WORDS["en"]}
        # Keys that are put together: `kind.${...}`.
        starts = re.findall(r"`([\w.]+\.)\$\{", script)
        asked |= {key for key in WORDS["en"] if any(key.startswith(start) for start in starts)}
    assert asked == WORDS["en"].keys()
