from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from tests.web.browser import Page
from tests.web.conftest import Served

CROSS = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]


def ring(kind: str) -> bytes:
    image = Image.new("RGB", (200, 300), "white")
    ImageDraw.Draw(image).ellipse((40, 60, 160, 240), outline="black", width=8)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def upload(page: Page, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    page.element("file").send_keys(str(path))


def command(page: Page, key: str) -> None:
    """Ctrl and a key, on whatever has the focus."""
    ActionChains(page.driver).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()


# The pen while something else is done.


def test_undo_lifts_the_keyboards_pen(page: Page) -> None:
    page.element("canvas").send_keys("")
    page.after(lambda: page.keys(" ", *[Keys.ARROW_RIGHT] * 5))
    one = page.ink()
    page.after(lambda: command(page, "z"))
    assert page.ink() == 0
    page.keys(*[Keys.ARROW_DOWN] * 10)  # the pen is up: this moves it
    assert page.ink() == 0
    page.after(lambda: command(page, "y"))
    assert page.ink() == pytest.approx(one, rel=0.02)  # the line as it was, without what came after it
    page.after(lambda: page.keys(" ", *[Keys.ARROW_LEFT] * 5, " "))
    assert page.ink() > 1.5 * one  # one press of Space begins a line


def test_undo_in_the_middle_of_a_line_ends_it(page: Page) -> None:
    def move(x: int, y: int) -> None:
        ActionChains(page.driver, duration=0).move_by_offset(x, y).perform()

    canvas = page.element("canvas")
    page.after(
        lambda: (
            ActionChains(page.driver, duration=0)
            .move_to_element_with_offset(canvas, -100, -100)
            .click_and_hold()
            .move_by_offset(60, 0)
            .perform()
        )
    )
    one = page.ink()
    page.after(lambda: command(page, "z"))
    move(60, 60)
    assert page.ink() == 0
    page.after(lambda: command(page, "y"))
    assert page.ink() == pytest.approx(one, rel=0.02)
    move(60, 60)
    assert page.ink() == pytest.approx(one, rel=0.02)
    ActionChains(page.driver).release().perform()
    page.after(lambda: page.draw(CROSS[:1]))
    assert page.ink() > 1.5 * one


def test_a_picture_that_arrives_lifts_the_pen(page: Page, tmp_path: Path) -> None:
    page.element("canvas").send_keys("")
    page.after(lambda: page.keys(" ", Keys.ARROW_RIGHT))
    page.after(lambda: upload(page, tmp_path / "ring.png", ring("PNG")))
    plain = page.ink()
    page.element("canvas").send_keys("")
    page.after(lambda: page.keys(" ", *[Keys.ARROW_RIGHT] * 3, " "))
    assert page.ink() > plain


# The focus.


def test_the_farthest_photo_keeps_the_focus_and_the_arrow_keys(photo_page: Page) -> None:
    page = photo_page
    page.after(lambda: page.draw(CROSS))
    page.open(11)
    farther = page.element("viewer-after")
    assert farther.get_attribute("aria-disabled") == "false"
    farther.send_keys(Keys.ENTER)
    assert page.text("viewer-facts").startswith("Rank 12, ")
    assert farther.get_attribute("aria-disabled") == "true"
    assert page.focused() == "viewer-after"
    page.keys(Keys.ENTER, Keys.ARROW_RIGHT)  # there is none farther
    assert page.text("viewer-facts").startswith("Rank 12, ")
    page.keys(Keys.ARROW_LEFT)
    assert page.text("viewer-facts").startswith("Rank 11, ")
    page.keys(*[Keys.ARROW_LEFT] * 9)
    page.element("viewer-before").send_keys(Keys.ENTER)
    assert page.text("viewer-facts").startswith("Rank 1, ")
    assert page.focused() == "viewer-before"
    page.keys(Keys.ARROW_RIGHT, Keys.ESCAPE)
    assert page.text("viewer-facts") == ""  # closed


@pytest.mark.parametrize("name", ["undo", "clear"])
def test_a_tool_with_nothing_left_to_do_keeps_the_focus(page: Page, name: str) -> None:
    page.after(lambda: page.draw(CROSS[:1]))
    assert page.element(name).get_attribute("aria-disabled") == "false"
    page.after(lambda: page.element(name).send_keys(Keys.ENTER))
    assert page.element(name).get_attribute("aria-disabled") == "true"
    assert page.focused() == name
    page.keys(Keys.ENTER)
    assert page.ink() == 0
    assert page.focused() == name


def pressed(page: Page, name: str) -> bool:
    return page.element(name).get_attribute("aria-pressed") == "true"


def test_letters_choose_tools_on_the_canvas_alone(page: Page) -> None:
    page.element("upload").send_keys("e")
    page.driver.execute_script("document.activeElement.blur()")
    page.keys("e", "3")
    assert not pressed(page, "eraser")
    assert pressed(page, "medium")
    page.element("canvas").send_keys("e")
    assert pressed(page, "eraser")
    page.element("save").send_keys("p")
    assert pressed(page, "eraser")
    page.element("canvas").send_keys("P")
    assert not pressed(page, "eraser")
    command(page, "e")  # the browser's own
    assert not pressed(page, "eraser")


def test_keys_choose_widths_undo_redo_and_clear(page: Page) -> None:
    canvas = page.element("canvas")
    for key, name in (("1", "thin"), ("3", "thick"), ("2", "medium")):
        canvas.send_keys(key)
        assert pressed(page, name)
    one = page.after(lambda: page.draw(CROSS[:1]))
    two = page.after(lambda: page.draw(CROSS[1:]))
    assert page.after(lambda: page.keys("u")) == one
    assert page.after(lambda: page.keys("r")) == two
    assert page.after(lambda: page.keys("c")) == []
    assert page.ink() == 0
    assert page.after(lambda: page.keys("u")) == two


def test_after_clearing_the_pen_draws_again(page: Page) -> None:
    page.after(lambda: page.draw(CROSS))
    page.click("eraser")
    page.after(lambda: page.click("clear"))
    assert pressed(page, "pen")
    assert not pressed(page, "eraser")
    page.after(lambda: page.draw(CROSS))
    assert page.ink() > 0.005


# Problems, and what is shown beside them.


def test_a_drawing_that_is_taken_back_takes_its_problem_with_it(page: Page, tmp_path: Path) -> None:
    # The browser can't show a TIFF, so it can't shrink it either; the server refuses it for its length.
    upload(page, tmp_path / "large.tif", ring("TIFF") + bytes(10_000_001))
    page.wait(lambda: page.problem)
    assert "10 MB" in page.problem
    page.complaints()  # an answer that is not 200, as meant
    page.after(lambda: page.draw(CROSS))
    assert page.problem == ""


def test_an_upload_of_50_megapixels_is_shrunk_before_it_is_sent(page: Page, tmp_path: Path) -> None:
    large = Image.linear_gradient("L").resize((8660, 5774)).convert("RGB")
    ImageDraw.Draw(large).ellipse((2000, 1500, 6000, 4500), outline="black", width=400)
    large.save(tmp_path / "large.jpg", quality=90)
    page.keep_sent()
    found = page.after(lambda: page.element("file").send_keys(str(tmp_path / "large.jpg")))
    assert len(found) == 24
    assert page.problem == ""
    assert 0 < max(page.sent()) < 500_000 < (tmp_path / "large.jpg").stat().st_size


def test_a_picture_of_usual_size_is_sent_as_it_is(page: Page, tmp_path: Path) -> None:
    page.keep_sent()
    page.after(lambda: upload(page, tmp_path / "ring.png", ring("PNG")))
    assert page.sent() == [len(ring("PNG"))]


def test_a_picture_can_be_taken_as_a_photo_or_as_a_drawing(page: Page, tmp_path: Path) -> None:
    assert not page.element("kind").is_displayed()
    automatic = page.after(lambda: upload(page, tmp_path / "ring.png", ring("PNG")))
    choice = Select(page.element("kind"))
    assert [option.text for option in choice.options] == ["automatic: drawing", "as a drawing", "as a photo"]
    photo = page.after(lambda: choice.select_by_value("photo"))
    assert photo != automatic
    assert page.after(lambda: choice.select_by_value("drawing")) == automatic
    page.after(lambda: page.click("clear"))
    assert not page.element("kind").is_displayed()


def test_a_picture_that_the_browser_cannot_show_is_a_picture_like_any(
    page: Page, served: Served, tmp_path: Path
) -> None:
    data = ring("TIFF")
    wanted = [hit["image_id"] for hit in served.post("/api/search/image?top=24", data)["found"]]
    lines = page.after(lambda: page.draw(CROSS))
    assert page.after(lambda: upload(page, tmp_path / "ring.tif", data)) == wanted
    assert "can't show your picture" in page.text("hint")
    assert page.ink() == 0  # the lines that had been there are no part of the query
    # The second tab: all but the picture itself.
    page.after(lambda: page.click("tab-seen"))
    captions = [each.text for each in page.driver.find_elements(By.CSS_SELECTOR, "#query figcaption")]
    assert [words.split(":")[0] for words in captions] == ["What the network sees of it"]
    page.click("tab-results")
    assert page.found() == wanted
    # Undo, redo and clear.
    assert page.after(lambda: page.click("undo")) == lines
    assert not page.element("hint").is_displayed()
    assert page.after(lambda: page.click("redo")) == wanted
    page.after(lambda: page.click("clear"))
    assert (page.found(), page.text("status"), page.text("hint")) == ([], "Draw something.", "Draw here")
    assert page.after(lambda: page.click("undo")) == wanted
    # Nobody draws on what isn't shown: lines stand for themselves.
    assert page.after(lambda: page.draw(CROSS)) == lines
    assert not page.element("hint").is_displayed()
    page.click("undo")
    assert page.after(lambda: page.click("undo")) == wanted


def test_a_file_that_nobody_can_read_leaves_the_drawing_as_it_is(page: Page, tmp_path: Path) -> None:
    lines = page.after(lambda: page.draw(CROSS))
    ink = page.ink()
    upload(page, tmp_path / "words.tif", b"no picture")
    page.wait(lambda: page.problem)
    assert all("415" in words for words in page.complaints())
    assert (page.found(), page.ink()) == (lines, ink)


def test_an_example_from_a_server_that_has_gone_is_a_problem_in_a_sentence(page: Page) -> None:
    with page.offline():
        page.click("example")
        page.wait(lambda: page.problem)
        assert page.problem == "The server does not answer. Is it still running? Trying again …"
    page.wait(lambda: not page.problem)  # it is back
    said = page.complaints()
    assert said
    assert all("ERR_INTERNET_DISCONNECTED" in words for words in said)  # and no rejection that nobody took
    assert len(page.after(lambda: page.click("example"))) == 24
