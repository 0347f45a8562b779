"""What the page keeps, in this browser alone."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver.common.by import By

from tests.web.browser import Page
from tests.web.test_tools import CROSS, ring, upload


def kept(page: Page, name: str) -> int:
    """How many drawings are in a list."""
    return len(page.driver.find_elements(By.CSS_SELECTOR, f"#{name}-list li"))


def test_a_drawing_survives_a_reload(page: Page) -> None:
    page.click("thick")
    page.after(lambda: page.draw(CROSS))
    page.click("eraser")
    found = page.after(lambda: page.draw([[(0.4, 0.5), (0.6, 0.5)]]))
    ink = page.ink()
    assert page.reload() == found
    assert page.ink() == pytest.approx(ink, rel=0.01)
    page.after(lambda: page.click("undo"))  # line by line, as before
    assert page.ink() > ink
    page.after(lambda: page.click("clear"))
    assert page.reload() == []
    assert page.ink() == 0


def test_a_picture_and_lines_on_it_survive_a_reload(page: Page, tmp_path: Path) -> None:
    page.after(lambda: upload(page, tmp_path / "ring.png", ring("PNG")))
    page.after(lambda: page.draw(CROSS))
    ink = page.ink()
    found = page.found()
    again = page.reload()
    assert page.ink() == pytest.approx(ink, rel=0.05)
    assert len(set(again[:10]) & set(found[:10])) >= 7  # it is kept small, so the list may differ a little


def test_a_photo_that_is_searched_by_survives_a_reload(photo_page: Page) -> None:
    page = photo_page
    page.after(lambda: page.draw(CROSS))
    page.open(4)
    found = page.after(lambda: page.click("viewer-like"))
    assert page.reload() == found


def test_damaged_storage_is_an_empty_paper(page: Page) -> None:
    for words in ("{", "7", '[{"points": "x"}, {"picture": 1}, null]', '[{"points": [[null, 1]], "width": 1}]'):
        page.driver.execute_script("localStorage.setItem('drawfind.drawing', arguments[0])", words)
        page.reload()
        assert page.ink() == 0
        assert len(page.after(lambda: page.draw(CROSS))) == 24


def test_saved_drawings_are_there_after_a_reload_and_can_be_removed(page: Page) -> None:
    found = page.after(lambda: page.draw(CROSS))
    page.click("save")
    assert page.text("status") == "Saved."
    page.after(lambda: page.click("clear"))
    page.reload()
    page.click("drawings")
    assert kept(page, "saved") == 1
    first = page.driver.find_element(By.CSS_SELECTOR, "#saved-list button")
    page.wait(lambda: page.driver.execute_script("return document.querySelector('#saved-list canvas').width") == 160)
    assert page.after(first.click) == found
    assert not page.element("keeper").is_displayed()
    page.click("drawings")
    page.driver.find_element(By.CSS_SELECTOR, "#saved-list .remove").click()
    assert kept(page, "saved") == 0
    assert page.element("saved-none").is_displayed()
    page.reload()
    page.click("drawings")
    assert kept(page, "saved") == 0


def test_drawings_that_were_cleared_are_recent_searches(page: Page) -> None:
    lists = []
    for lines in (CROSS, CROSS[:1], CROSS):
        lists.append(page.after(lambda lines=lines: page.draw(lines)))  # type: ignore[misc]
        page.after(lambda: page.click("clear"))
    page.click("drawings")
    assert kept(page, "recent") == 2  # the same drawing twice is one
    recent = page.driver.find_elements(By.CSS_SELECTOR, "#recent-list li > button:first-child")
    assert page.after(recent[1].click) == lists[1]
    page.click("drawings")
    page.click("recent-all")
    assert kept(page, "recent") == 0
    stored = page.driver.execute_script("return localStorage.getItem('drawfind.recent')")
    assert json.loads(stored) == []


def test_a_full_storage_says_so_and_the_search_goes_on(page: Page, tmp_path: Path) -> None:
    page.driver.execute_script("localStorage.setItem('other', 'x'.repeat(5 * 1024 * 1024 - 100))")
    noise = Image.effect_noise((400, 400), 90)
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    assert len(page.after(lambda: upload(page, tmp_path / "noise.png", buffer.getvalue()))) == 24
    page.click("save")
    assert page.text("status").startswith("This browser keeps no more drawings.")
    page.driver.execute_script("localStorage.clear()")


def test_drawings_are_sent_nowhere_but_to_the_search(page: Page) -> None:
    page.after(lambda: page.draw(CROSS))
    page.click("save")
    page.after(lambda: page.click("clear"))
    script = "return performance.getEntriesByType('resource').map((entry) => new URL(entry.name).pathname)"
    asked = {path for path in page.driver.execute_script(script) if path.startswith("/api/")}
    assert asked <= {"/api/model", "/api/share", "/api/health", "/api/search/strokes"}
