"""A real server over the embedded data set, and a real browser before it.

After `make repro`, the server searches with the tree's own default model. Elsewhere, as in a fresh clone, the real
stages run first in a copy, shortened: about a minute and a half.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from selenium import webdriver

from pipeline_lib.run import Run
from tests.pipeline.support import ROOT, copy_program, environment, set_params, stage
from tests.search.support import make_run
from tests.web.browser import Page, start

# Smaller images also keep searches short while another worker of the tests trains on the same cores.
SHORT = {"patches.draws": 1, "train.epochs": 1, "train.bootstrap": 100, "embed.image_size": 160}


@dataclass(frozen=True)
class Served:
    """A server and the run that it searches."""

    address: str  # without a slash at its end
    run: Run
    first: str  # to be opened first, with the token where there is one

    def post(self, path: str, body: bytes, kind: str = "image/png") -> Any:
        """The answer to a request, as JSON."""
        request = urllib.request.Request(f"{self.address}{path}", body, {"content-type": kind})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.loads(answer.read())

    def get(self, path: str) -> bytes:
        """What lies at an address."""
        with urllib.request.urlopen(f"{self.address}{path}", timeout=60) as answer:  # noqa: S310
            return bytes(answer.read())


@pytest.fixture(scope="session")
def openmoji_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on the embedded data set."""
    if (ROOT / "data" / "run.json").exists():
        own = Run.open(ROOT / "data")
        if own.params.catalog.dataset == "openmoji" and (own.index / "photos.faiss").exists():
            return own
    top = tmp_path_factory.mktemp("web")
    tree = copy_program(top / "repository")
    for name in ("requirements-data.txt", "requirements-weights.txt"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    set_params(tree, SHORT)
    env = environment(top / "home", OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "2"))
    for name in ("catalog", "edges", "patches", "train", "embed", "index"):
        code, said = stage(tree, name, env=env)
        assert code == 0, said
    return Run.open(tree / "data", tree)


@contextmanager
def serving(run: Run, *options: str) -> Iterator[Served]:
    """A server in a process of its own, on a free port."""
    command = [sys.executable, "-m", "pipeline_lib.search", "serve", "--port", "0", "--gallery", "pipeline", *options]
    command += ["--run", str(run.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            assert "http://" in said, said
            first = "http://" + said.split("http://")[1].split()[0]
            yield Served(first.rpartition("/")[0], run, first)
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def served(openmoji_run: Run) -> Iterator[Served]:
    """A server over the embedded data set."""
    with serving(openmoji_run) as server:
        yield server


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server over a folder of twelve photos, which have files of their own."""
    with serving(make_run(tmp_path_factory.mktemp("photos"))) as server:
        yield server


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    opened = start()
    yield opened
    opened.quit()


@contextmanager
def opened(driver: webdriver.Chrome, address: str) -> Iterator[Page]:
    """The page at an address, freshly opened in a desktop window of an English browser that keeps nothing yet."""
    for command in ("Emulation.clearDeviceMetricsOverride", "Emulation.setEmulatedMedia"):
        driver.execute_cdp_cmd(command, {})
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    page = Page(driver, address)
    page.complaints()  # the log goes on from the test before
    yield page
    assert page.complaints() == []
    driver.execute_script("localStorage.clear()")


@pytest.fixture
def page(driver: webdriver.Chrome, served: Served) -> Iterator[Page]:
    """The page over the embedded data set."""
    with opened(driver, served.address) as page:
        yield page


@pytest.fixture
def photo_page(driver: webdriver.Chrome, photos: Served) -> Iterator[Page]:
    """The page over the folder of photos."""
    with opened(driver, photos.address) as page:
        yield page
