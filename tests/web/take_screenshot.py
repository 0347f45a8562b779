"""Takes the README's picture of the page: `python -m tests.web.take_screenshot docs/pictures/page.png`.

The tree's own default model searches; what is drawn is a drawing of the catalog, traced and drawn by pointer events.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from pathlib import Path

from PIL import Image

from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.run import Run
from tests.pipeline.support import ROOT
from tests.web.browser import Page, start
from tests.web.tracing import trace

PENS = {"thin": 0.008, "medium": 0.014, "thick": 0.03}
FRAMES = {"light": "", "dark": "-dark", "phone": "-phone", "seen": "-seen"}


def main() -> None:
    """Starts server and browser, draws, and saves what is seen."""
    parser = argparse.ArgumentParser(description="takes a picture of the page")
    parser.add_argument("out", type=Path)
    parser.add_argument("--emoji", default="1F6B2", help="which drawing, by its code points")
    parser.add_argument("--all", action="store_true", help="in dark, on a phone and of the second tab, too")
    asked = parser.parse_args()
    run = Run.open(ROOT / "data")
    catalog = read_catalog(run.catalog).set_index("image_id")
    name = f"openmoji/{asked.emoji}/sketch"
    pixels = open_source(run.params.catalog, run.root).load(str(catalog.loc[name, "path"]), "sketch", name)
    lines, width = trace(pixels)
    command = [sys.executable, "-m", "pipeline_lib.search", "serve", "--port", "0", "--gallery", "pipeline"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = "http://" + server.stdout.readline().split("http://")[1].split("/")[0]
            driver = start(1280, 860)
            page = Page(driver, address)
            page.click(min(PENS, key=lambda name: abs(PENS[name] - width)))
            page.after(lambda: page.draw(lines))
            for frame, suffix in FRAMES.items():
                if asked.all or frame == "light":
                    page.scheme("dark" if frame == "dark" else "light")
                    if frame == "seen":
                        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
                        page.after(lambda: page.click("tab-seen"))
                    if frame == "phone":
                        page.phone()
                    place = asked.out.with_stem(asked.out.stem + suffix)
                    save(page.screenshot(place), place)
            driver.quit()
        finally:
            server.terminate()


def save(data: bytes, path: Path) -> None:
    """Writes a picture of at most 256 colours, which is a third of the size."""
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
