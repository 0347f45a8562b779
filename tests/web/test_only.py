"""Searches among some of one's own photos."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from PIL import Image
from selenium import webdriver

from tests.pipeline.support import ROOT
from tests.search.support import make_run
from tests.web.browser import Page
from tests.web.conftest import Served, opened, serving

CROSS = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]
DATED = 3  # photos whose camera noted a day


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over one's own twelve photos, four of them in a folder `trip`."""
    top = tmp_path_factory.mktemp("own")
    run = make_run(top / "run")
    album, index = top / "album", top / "index"
    (album / "trip").mkdir(parents=True)
    for number, path in enumerate(sorted((top / "run/own photos").glob("*.jpg"))):
        target = album / ("trip" if number < 4 else "") / path.name
        shutil.copy2(path, target)
        if number < DATED:
            photo = Image.open(path)
            taken = photo.getexif()
            taken.get_ifd(0x8769)[36867] = f"2021:05:0{number + 1} 12:00:00"
            photo.save(target, exif=taken)
    command = [sys.executable, "-m", "pipeline_lib.search", "index", str(album), "--index", str(index)]
    subprocess.run([*command, "--run", str(run.folder)], cwd=ROOT, check=True, capture_output=True)
    with serving(run, "--gallery", "own", "--index", str(index)) as server:
        yield server


@pytest.fixture
def page(driver: webdriver.Chrome, own: Served) -> Iterator[Page]:
    with opened(driver, own.first) as found:
        yield found


def enter(page: Page, name: str, value: str) -> None:
    """Puts a value into a field, and leaves it."""
    page.driver.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))", page.element(name), value
    )


def test_a_folder_and_days_narrow_what_is_found_and_the_page_says_so(page: Page) -> None:
    everywhere = page.after(lambda: page.draw(CROSS))
    assert any("trip/" not in name for name in everywhere)
    page.click("only-said")
    found = page.after(lambda: enter(page, "only-folder", "trip"))
    assert found
    assert all("/trip/" in name for name in found)
    assert page.text("only-said") == "Only some photos: trip"
    found = page.after(lambda: enter(page, "only-since", "2021-05-02"))
    assert found
    assert {name[-6:-4] for name in found} <= {"01", "02"}
    found = page.after(lambda: enter(page, "only-until", "2021-05-02"))
    assert [name[-6:-4] for name in found] == ["01"]
    for name in ("folder", "since", "until"):
        enter(page, f"only-{name}", "")
    page.wait(lambda: page.found() == everywhere)
    assert page.text("only-said") == "Only some photos"


def test_a_folder_without_photos_finds_none(page: Page) -> None:
    page.after(lambda: page.draw(CROSS))
    enter(page, "only-folder", "elsewhere")
    page.wait(lambda: page.found() == [])
    assert not page.problem


def test_galleries_that_are_not_of_ones_own_offer_no_choice(driver: webdriver.Chrome, photos: Served) -> None:
    with opened(driver, photos.first) as page:
        assert not page.element("only").is_displayed()
