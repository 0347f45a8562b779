"""A headless Chromium, and what the tests do with the page in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

Value = TypeVar("Value")
WAIT = 60.0  # seconds; a busy machine may take its time
MISSING = (
    "the browser tests need Chromium and its driver: run `make test-web`, which installs them where it may, or install "
    "the packages chromium and chromium-driver"
)


def start(width: int = 1360, height: int = 900) -> webdriver.Chrome:
    """A new browser window; fails, and never skips, where there is no browser."""
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.fail(MISSING, pytrace=False)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for words in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--lang=en-US",
    ):
        options.add_argument(words)
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


class Page:
    """The page, as its user has it before them."""

    def __init__(self, driver: webdriver.Chrome, address: str = "") -> None:
        self.driver = driver
        if address:
            driver.get(address)
        self.wait(lambda: self.text("gallery"))

    def element(self, name: str) -> WebElement:
        """The element of an id."""
        return self.driver.find_element(By.ID, name)

    def text(self, name: str) -> str:
        """What the element of an id says."""
        return self.element(name).text

    def click(self, name: str) -> None:
        """Clicks on the element of an id."""
        self.element(name).click()

    def wait(self, ready: Callable[[], Value]) -> Value:
        """Waits until something holds; returns it."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            if value := ready():
                return value
            time.sleep(0.05)
        raise AssertionError(f"nothing happened in {WAIT} s; the page says: {self.text('status')} {self.problem}")

    @property
    def problem(self) -> str:
        """The failure that the page tells, or nothing."""
        return self.text("problem-words")

    def found(self) -> list[str]:
        """image_ids of the photos that were found, nearest first; those that are less alike may be folded away."""
        script = "return [...document.querySelectorAll('#results .hit')].map((hit) => hit.dataset.id)"
        ids: list[str] = self.driver.execute_script(script)
        return ids

    def after(self, action: Callable[[], None]) -> list[str]:
        """Does something and waits until the page has answered it and rests; returns what is shown then."""
        before = self.answers()
        action()
        self.wait(lambda: self.answers() > before)
        return self.rested()

    def reload(self) -> list[str]:
        """Loads the page again; returns what it finds by itself."""
        self.driver.refresh()
        self.wait(lambda: self.text("gallery") and self.answers() > 0)
        return self.rested()

    def rested(self) -> list[str]:
        """What is shown once the page has answered everything."""
        last = -1
        while last != self.answers():
            last = self.answers()
            time.sleep(0.6)
        return self.found()

    def answers(self) -> int:
        """How often the page has shown an answer."""
        return int(self.element("grid").get_attribute("data-done") or 0)

    def draw(self, lines: Sequence[Sequence[tuple[float, float]]], kind: str = "mouse") -> None:
        """Draws lines, in fractions of the canvas, by pointer events of a mouse, pen or touch."""
        canvas = self.element("canvas")
        box = canvas.rect
        for line in lines:
            device: Any = PointerInput  # Selenium tells no types here
            actions = ActionBuilder(self.driver, mouse=device(kind, f"{kind} pointer"), duration=0)
            pointer: Any = actions.pointer_action
            for place, (x, y) in enumerate([*line, line[0]] if len(line) > 2 else line):
                offset = (round((x - 0.5) * box["width"]), round((y - 0.5) * box["height"]))
                pointer.move_to(canvas, *offset)
                if place == 0:
                    pointer.pointer_down()
            pointer.pointer_up()
            actions.perform()

    def ink(self) -> float:
        """How much of the canvas is dark, 0 to 1."""
        script = """
            const canvas = document.getElementById("canvas");
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            let dark = 0;
            for (let place = 0; place < data.length; place += 4) if (data[place] < 128) dark += 1;
            return dark / (data.length / 4);
        """
        time.sleep(0.1)  # the canvas is painted with the next frame
        return float(self.driver.execute_script(script))

    def keys(self, *keys: str) -> None:
        """Presses keys on whatever has the focus."""
        chain = ActionChains(self.driver)
        for key in keys:
            chain.send_keys(key)
        chain.perform()

    def complaints(self) -> list[str]:
        """What the browser's console says of failures, refused addresses among them."""
        driver: Any = self.driver
        return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]

    def focused(self) -> str:
        """The id of what has the focus; nothing where it has none."""
        return str(self.driver.execute_script("return document.activeElement.id"))

    def size(self, width: int, height: int) -> None:
        """Gives the window's inside a size, in CSS px."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    @contextmanager
    def offline(self) -> Iterator[None]:
        """No server can be reached, as where it has ended."""
        lost = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.clearBrowserCache", {})  # what is kept needs no server
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", lost)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**lost, "offline": False})

    def phone(self, width: int = 390, height: int = 844) -> None:
        """Makes the window a phone's, with touch."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def unfold(self) -> None:
        """Shows the photos that are less alike, too."""
        if self.element("fold").is_displayed() and self.element("fold").get_attribute("aria-expanded") == "false":
            self.click("fold")

    def hits(self) -> list[WebElement]:
        """The photos that can be clicked, nearest first."""
        self.unfold()
        return self.driver.find_elements(By.CSS_SELECTOR, "#results .hit")

    def open(self, rank: int) -> None:
        """Opens the photo of a rank large."""
        self.hits()[rank - 1].click()
        self.wait(lambda: self.element("viewer").is_displayed())

    def keep_sent(self) -> None:
        """Notes from now on how many bytes of pictures the page sends, for `sent`."""
        script = """
            const real = window.fetch;
            window.sent = [];
            window.fetch = (address, options = {}) => {
                if (options.body instanceof Blob) window.sent.push(options.body.size);
                return real(address, options);
            };
        """
        self.driver.execute_script(script)

    def sent(self) -> list[int]:
        """Bytes of the pictures sent since `keep_sent`."""
        sizes: list[int] = self.driver.execute_script("return window.sent")
        return sizes

    def scheme(self, name: str) -> None:
        """Prefers `light` or `dark`."""
        wish = {"features": [{"name": "prefers-color-scheme", "value": name}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)

    def screenshot(self, path: Path) -> bytes:
        """Writes what is visible as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data: bytes = self.driver.get_screenshot_as_png()
        path.write_bytes(data)
        return data
