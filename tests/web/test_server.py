"""The page and its server: gone and back, another gallery, below a path, behind a token, in other languages."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from pipeline_lib.search.share import PARAMETER
from tests.web.browser import WAIT, Page
from tests.web.conftest import Served, opened, serving
from tests.web.proxy import Proxy

CROSS = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]
GONE = "The server does not answer. Is it still running? Trying again …"


@pytest.fixture
def proxy(served: Served) -> Iterator[Proxy]:
    with Proxy(served.address) as started:
        yield started


@pytest.fixture
def behind(driver: webdriver.Chrome, proxy: Proxy) -> Iterator[Page]:
    """The page behind a proxy, below a path."""
    with opened(driver, proxy.address) as page:
        yield page


def look(page: Page) -> None:
    """Lets the page look after its server, as it does every few seconds and when it comes into view."""
    page.driver.execute_script("document.dispatchEvent(new Event('visibilitychange'))")


def test_below_a_path_the_page_works(behind: Page) -> None:
    assert len(behind.after(lambda: behind.click("example"))) == 24
    behind.open(1)
    image = behind.element("viewer-image")
    loaded = "return arguments[0].complete && arguments[0].naturalWidth"
    behind.wait(lambda: behind.driver.execute_script(loaded, image))
    behind.after(lambda: behind.click("viewer-like"))
    behind.after(lambda: behind.click("tab-seen"))
    behind.wait(lambda: len(behind.driver.find_elements(By.CSS_SELECTOR, "#pairs img")) == 12)
    script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert all("/photos/find/" in name for name in behind.driver.execute_script(script) if name.startswith("http"))


def test_what_is_drawn_while_the_server_is_gone_is_searched_when_it_is_back(
    behind: Page, proxy: Proxy, served: Served
) -> None:
    before = behind.after(lambda: behind.draw(CROSS[:1]))
    proxy.target = ""
    behind.draw(CROSS[1:])
    behind.wait(lambda: behind.problem == GONE)
    assert behind.found() == before  # they are still those of the server that was
    proxy.target = served.address
    behind.wait(lambda: not behind.problem)
    behind.wait(lambda: behind.found() != before)
    assert len(behind.found()) == 24
    assert all("502" in words for words in behind.complaints())


def test_a_server_that_goes_while_nobody_draws_is_noticed(behind: Page, proxy: Proxy, served: Served) -> None:
    proxy.target = ""
    look(behind)
    behind.wait(lambda: behind.problem == GONE)
    proxy.target = served.address
    behind.wait(lambda: not behind.problem)
    assert behind.text("news-words") == ""  # the same server as before
    behind.complaints()


def test_a_page_that_is_opened_before_its_server_finds_it(driver: webdriver.Chrome, served: Served) -> None:
    with Proxy(served.address) as proxy, opened(driver, proxy.address) as page:
        page.driver.execute_cdp_cmd("Network.enable", {})
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/api/model"]})
        page.driver.refresh()
        page.wait(lambda: page.problem == GONE)
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
        page.wait(lambda: page.text("gallery") and not page.problem)
        page.complaints()


def test_another_gallery_behind_the_same_address_is_noticed_by_itself(
    behind: Page, proxy: Proxy, photos: Served
) -> None:
    behind.after(lambda: behind.draw(CROSS))
    behind.open(1)
    proxy.target = photos.address
    look(behind)
    behind.wait(lambda: behind.text("news-words"))
    assert behind.text("news-words") == "The photos that are searched have changed: 12 photos of your folder."
    assert not behind.element("viewer").is_displayed()
    behind.wait(lambda: len(behind.found()) == 12)  # the drawing is searched again
    assert behind.text("gallery") == "12 photos of your folder"
    behind.click("news-close")
    assert behind.text("news-words") == ""
    assert all("410" in words for words in behind.complaints())  # pictures that were still on their way


def test_another_gallery_is_noticed_by_the_next_search(behind: Page, proxy: Proxy, photos: Served) -> None:
    behind.after(lambda: behind.draw(CROSS[:1]))
    proxy.target = photos.address
    behind.draw(CROSS[1:])
    behind.wait(lambda: behind.text("gallery") == "12 photos of your folder")
    behind.wait(lambda: len(behind.found()) == 12)
    assert all("410" in words for words in behind.complaints())


def test_a_number_of_an_old_gallery_never_shows_another_photo(behind: Page, proxy: Proxy, photos: Served) -> None:
    behind.after(lambda: behind.draw(CROSS))
    behind.hits()
    old = behind.driver.execute_script("return document.querySelector('#results img').getAttribute('src')")
    script = """
        const done = arguments[1];
        fetch(arguments[0], { cache: "no-store" }).then((answer) => done(answer.status));
    """
    assert behind.driver.execute_async_script(script, old) == 200
    proxy.target = photos.address
    assert behind.driver.execute_async_script(script, old) == 410
    behind.hits()[2].click()  # its picture is one of the old gallery, so the viewer closes at once
    behind.wait(lambda: behind.text("news-words"))
    assert not behind.element("viewer").is_displayed()
    assert all("410" in words for words in behind.complaints())


def test_a_photo_of_the_old_gallery_goes_on_as_a_picture(behind: Page, proxy: Proxy, photos: Served) -> None:
    behind.after(lambda: behind.draw(CROSS))
    behind.open(1)
    behind.after(lambda: behind.click("viewer-like"))
    proxy.target = photos.address
    behind.keep_sent()
    look(behind)
    behind.wait(lambda: len(behind.found()) == 12)
    assert behind.sent()
    assert behind.problem == ""
    assert all("410" in words for words in behind.complaints())


def test_a_busy_server_is_told_in_words_of_the_page_and_asked_again_by_itself(behind: Page, proxy: Proxy) -> None:
    proxy.busy = "api/search"
    behind.draw(CROSS)
    behind.wait(lambda: behind.problem == "The server is busy. Trying again …")
    proxy.busy = ""
    behind.wait(lambda: not behind.problem)
    assert len(behind.found()) == 24
    proxy.busy = "examples"
    behind.click("example")
    behind.wait(lambda: behind.problem == "The server is busy. Trying again …")
    proxy.busy = ""
    behind.after(lambda: None)
    behind.wait(lambda: not behind.problem)
    assert all("503" in words for words in behind.complaints())


def test_pictures_that_a_busy_server_refused_are_asked_for_again(behind: Page, proxy: Proxy) -> None:
    proxy.busy = "thumbnail"
    behind.after(lambda: behind.draw(CROSS))
    script = (
        "return [...document.querySelectorAll('#results .hit img')].filter((image) => image.naturalWidth > 0).length"
    )
    assert behind.driver.execute_script(script) == 0
    proxy.busy = ""
    behind.wait(lambda: behind.driver.execute_script(script) > 0)
    assert all("503" in words for words in behind.complaints())


# The token.


@contextmanager
def another_site(link: str) -> Iterator[str]:
    """The address of a page of another site with a link."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = f'<!DOCTYPE html><title>mail</title><a id="link" href="{link}">photos</a>'.encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_address[1]}/"  # not the site of 127.0.0.1
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def shared(photos: Served) -> Iterator[Served]:
    with serving(photos.run, "--share", "--host", "127.0.0.1") as server:
        yield server


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_shared_address_opens_the_page_and_leaves_no_token_in_it(
    driver: webdriver.Chrome, shared: Served, elsewhere: bool
) -> None:
    driver.get(shared.address)
    driver.delete_all_cookies()
    driver.get(shared.address)
    assert "scan the code" in driver.find_element(By.TAG_NAME, "body").text
    if elsewhere:
        with another_site(shared.first) as site:
            driver.get(site)
            driver.find_element(By.ID, "link").click()
            WebDriverWait(driver, WAIT).until(lambda opened: opened.find_elements(By.ID, "gallery"))
            page = Page(driver)
            page.complaints()
    else:
        page = Page(driver, shared.first)
        page.complaints()
    assert PARAMETER not in driver.current_url
    assert driver.execute_script("return document.cookie") == ""  # scripts can't read it
    assert len(page.after(lambda: page.draw(CROSS))) == 12
    page.hits()
    script = "return [...document.querySelectorAll('#results img')].every((image) => image.naturalWidth > 0)"
    page.wait(lambda: driver.execute_script(script))
    # On this machine the page shows the address to others.
    page.click("share")
    assert page.text("share-address") == shared.first
    assert driver.execute_script("return document.getElementById('share-code').naturalWidth") > 100
    page.click("sharing-close")
    assert page.complaints() == []
    driver.execute_script("localStorage.clear()")


# Languages.


@pytest.mark.parametrize(
    ("languages", "language", "hint"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de", "Hier zeichnen"),
        ("fr-CA", "fr", "Dessinez ici"),
        ("pt-BR,es-MX;q=0.9", "es", "Dibuje aquí"),
        ("ja", "ja", "ここに描いてください"),
        ("zh-CN", "zh", "在这里画"),
        ("sv-SE,fi", "en", "Draw here"),
    ],
)
def test_the_page_speaks_the_browsers_language(page: Page, languages: str, language: str, hint: str) -> None:
    agent = page.driver.execute_script("return navigator.userAgent")
    wish = {"userAgent": agent, "acceptLanguage": languages}
    page.driver.execute_cdp_cmd("Emulation.setUserAgentOverride", wish)
    try:
        page.driver.refresh()
        page.wait(lambda: page.text("gallery"))
        assert page.driver.execute_script("return document.documentElement.lang") == language
        assert page.text("hint") == hint
        assert page.element("canvas").accessible_name
        page.after(lambda: page.draw(CROSS))
        page.hits()[0].click()
        page.wait(lambda: page.text("viewer-facts"))
        page.click("viewer-close")
        wide, window = page.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window
        script = "return document.body.innerText.includes('undefined') || /\\{\\w+\\}/.test(document.body.innerText)"
        assert not page.driver.execute_script(script)
    finally:
        page.driver.execute_cdp_cmd("Emulation.setUserAgentOverride", {**wish, "acceptLanguage": "en-US,en"})
