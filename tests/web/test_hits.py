"""What a photo that was found leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.web.browser import Page
from tests.web.conftest import Served

CROSS = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]
LIKENESS = """
    const [count, stacked] = arguments;
    const real = Response.prototype.json;
    Response.prototype.json = async function () {
        const answer = await real.call(this);
        (answer?.found ?? []).forEach((hit, place) => {
            hit.likeness = Math.max(0.05, 0.95 - place / 20);
            hit.alike = place < count;
            if (place === 0 && stacked) hit.stack = answer.found.slice(1, 3);
        });
        return answer;
    };
"""


def likeness(page: Page, alike: int, *, stacked: bool = False) -> None:
    """Lets the first so many photos be alike, which depends on the model else; and two stand behind the first."""
    page.driver.execute_script(LIKENESS, alike, stacked)


def clipboard(page: Page) -> str:
    script = "navigator.clipboard.readText().then(arguments[0], (failure) => arguments[0](String(failure)))"
    return str(page.driver.execute_async_script(script))


def test_a_photo_opens_large_and_leads_to_its_neighbours(photo_page: Page) -> None:
    page = photo_page
    page.after(lambda: page.draw(CROSS))
    page.open(2)
    assert page.text("viewer-facts").startswith("Rank 2, likeness ")
    image = page.element("viewer-image")
    page.wait(lambda: page.driver.execute_script("return arguments[0].complete && arguments[0].naturalWidth", image))
    page.click("viewer-before")
    assert page.text("viewer-facts").startswith("Rank 1, ")
    assert page.element("viewer-before").get_attribute("aria-disabled") == "true"
    page.keys(Keys.ESCAPE)
    page.wait(lambda: not page.element("viewer").is_displayed())


def test_a_photo_tells_where_it_lies_and_offers_its_file(photo_page: Page, photos: Served) -> None:
    page = photo_page
    found = page.after(lambda: page.draw(CROSS))
    page.open(3)
    shown, root = Path(page.text("viewer-path")), Path(photos.run.params.catalog.root)
    file = root.parent / shown  # from the name of the folder on
    assert shown.parts[0] == root.name
    assert found[2] == f"photo/{file.name}"
    assert file.is_file()
    assert page.text("viewer-folder") == str(shown.parent)
    original = page.element("viewer-original").get_attribute("href") or ""
    assert photos.get(original.removeprefix(photos.address)) == file.read_bytes()
    download = page.element("viewer-download")
    assert download.get_attribute("href") == original
    assert download.get_attribute("download") == file.name
    page.click("viewer-original")
    windows = page.driver.window_handles
    page.driver.switch_to.window(windows[-1])
    page.wait(lambda: page.driver.execute_script("return document.images[0]?.naturalWidth") == 240)
    page.driver.close()
    page.driver.switch_to.window(windows[0])
    assert all("favicon.ico" in words for words in page.complaints())  # asked for by the browser itself


@pytest.mark.parametrize("secure", [True, False])
def test_the_path_can_be_copied_in_every_browser(photo_page: Page, photos: Served, secure: bool) -> None:
    page = photo_page
    allowed: dict[str, Any] = {"origin": photos.address, "permissions": ["clipboardReadWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", allowed)
    page.after(lambda: page.draw(CROSS))
    page.open(1)
    if not secure:  # as over plain HTTP from another machine
        page.driver.execute_script("navigator.clipboard.writeText = () => Promise.reject(new Error())")
    page.click("viewer-copy")
    page.wait(lambda: page.text("viewer-copy") == "Copied")
    assert clipboard(page) == page.text("viewer-path")
    page.click("viewer-after")
    assert page.text("viewer-copy") == "Copy the path"


def test_more_like_a_photo_is_searched_and_can_be_undone(photo_page: Page) -> None:
    page = photo_page
    drawn = page.after(lambda: page.draw(CROSS))
    page.open(5)
    found = page.after(lambda: page.click("viewer-like"))
    assert not page.element("viewer").is_displayed()
    assert found[0] == drawn[4]
    assert not page.element("kind").is_displayed()  # a photo is a photo
    assert page.after(lambda: page.click("undo")) == drawn
    card = page.hits()[2]
    ActionChains(page.driver).move_to_element(card).perform()
    like = page.driver.find_elements(By.CSS_SELECTOR, "#results .like")[2]
    page.wait(like.is_displayed)
    assert page.after(like.click)[0] == drawn[2]


def test_lines_on_a_photo_make_another_query(photo_page: Page) -> None:
    page = photo_page
    page.after(lambda: page.draw(CROSS))
    page.open(1)
    alike = page.after(lambda: page.click("viewer-like"))
    page.click("thick")
    page.keep_sent()
    page.after(lambda: page.draw(CROSS))
    assert page.sent()
    page.after(lambda: page.click("undo"))
    assert page.after(lambda: page.click("undo")) == alike


def test_photos_that_are_less_alike_are_behind_a_fold(page: Page) -> None:
    likeness(page, 5)
    found = page.after(lambda: page.draw(CROSS))
    assert len(found) == 24
    shown = page.driver.find_elements(By.CSS_SELECTOR, "#grid .hit")
    assert [hit.get_attribute("data-id") for hit in shown] == found[:5]
    assert page.text("status").startswith("5 alike · ")
    assert page.text("fold") == "Less alike (19)"
    assert not page.element("unalike").is_displayed()
    page.element("fold").send_keys(Keys.ENTER)
    assert page.element("fold").get_attribute("aria-expanded") == "true"
    assert page.element("unalike").is_displayed()
    page.after(lambda: page.click("undo"))
    assert page.element("unalike").is_displayed()  # stays open for the next drawing
    page.click("fold")
    assert not page.element("unalike").is_displayed()


def test_where_nothing_is_alike_the_page_says_so_and_shows_the_nearest(page: Page) -> None:
    likeness(page, 0)
    page.after(lambda: page.draw(CROSS))
    assert page.text("status") == "Nothing is much alike."
    assert page.text("nothing").startswith("No photo looks much like it.")
    assert page.element("unalike").is_displayed()
    likeness(page, 5)
    page.after(lambda: page.click("undo"))
    assert not page.element("nothing").is_displayed()
    assert not page.element("unalike").is_displayed()  # it was not opened by hand


def test_likeness_is_a_bar_and_a_number_for_screen_readers(page: Page) -> None:
    likeness(page, 24)
    page.after(lambda: page.draw(CROSS))
    script = """
        return [...document.querySelectorAll("#grid .hit")].map((hit) => {
            const [bar, part] = [hit.querySelector(".bar"), hit.querySelector(".bar span")];
            return part.getBoundingClientRect().width / bar.getBoundingClientRect().width;
        });
    """
    bars = page.driver.execute_script(script)
    assert bars[0] == pytest.approx(0.95, abs=0.02)
    assert bars[10] == pytest.approx(0.45, abs=0.02)
    assert bars[:18] == sorted(bars[:18], reverse=True)
    assert page.hits()[0].accessible_name.endswith(", likeness 95%")
    assert "0." not in page.hits()[0].text


def test_scrolling_brings_more_photos_up_to_200(page: Page) -> None:
    likeness(page, 200)
    page.size(1280, 720)
    first = page.after(lambda: page.draw(CROSS))
    counts = [len(first)]
    while counts[-1] < 200:
        page.after(lambda: page.driver.execute_script("window.scrollTo(0, document.body.scrollHeight)"))
        counts.append(len(page.found()))
        assert counts[-1] > counts[-2]
    found = page.found()
    assert counts[0] == 24
    assert found[:24] == first
    assert len(set(found)) == 200
    page.driver.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    # The next drawing begins with its best photos, at the top.
    assert len(page.after(lambda: page.click("undo"))) == 24
    assert page.driver.execute_script("return window.scrollY") == 0


def test_near_duplicates_stand_behind_one_photo(photo_page: Page) -> None:
    page = photo_page
    likeness(page, 12, stacked=True)
    found = page.after(lambda: page.draw(CROSS))
    assert page.hits()[0].accessible_name.endswith("2 near-duplicates with it")
    assert page.driver.find_element(By.CSS_SELECTOR, "#grid .count").text == "+2"
    page.open(1)
    small = page.driver.find_elements(By.CSS_SELECTOR, "#viewer-stacked button")
    assert len(small) == 3
    small[2].click()
    assert f"photo/{page.text('viewer-title')}" == found[2]
    assert Path(page.text("viewer-path")).name == page.text("viewer-title")
    page.click("viewer-after")
    assert not page.element("viewer-stack").is_displayed()
