from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.web.browser import Page

TOOLS = ("pen", "eraser", "width", "undo", "redo", "clear", "upload", "example")


def box(page: Page, name: str) -> tuple[float, float]:
    """Where an element begins and ends in the window, in px from its upper edge."""
    script = "const box = document.getElementById(arguments[0]).getBoundingClientRect(); return [box.top, box.bottom]"
    top, bottom = page.driver.execute_script(script, name)
    return top, bottom


def scroll(page: Page, to: float) -> None:
    page.driver.execute_script("window.scrollTo(0, arguments[0])", to)


def inside(page: Page, name: str) -> bool:
    top, bottom = box(page, name)
    return top >= 0 and bottom <= page.driver.execute_script("return window.innerHeight")


@pytest.mark.parametrize("size", [(910, 430), (1280, 540)])  # 910 x 430: a laptop of 1366 x 768 at 150 %
def test_in_a_low_window_one_scrolls_to_the_tools(page: Page, size: tuple[int, int]) -> None:
    page.size(*size)
    page.after(lambda: page.click("example"))
    for name in ("canvas", *TOOLS):
        scroll(page, 0)
        # As on any page: what stands below the window comes into it when one scrolls by that much.
        scroll(page, max(0, box(page, name)[1] + 8 - size[1]))
        assert inside(page, name), name


@pytest.mark.parametrize("size", [(1280, 720), (1280, 580)])
@pytest.mark.parametrize("shape", [(300, 300), (200, 600), (600, 200)])
def test_canvas_and_tools_stay_beside_results_that_scroll(
    page: Page, size: tuple[int, int], shape: tuple[int, int], tmp_path: Path
) -> None:
    page.size(*size)
    Image.linear_gradient("L").resize(shape).save(tmp_path / "picture.png")
    page.after(lambda: page.element("file").send_keys(str(tmp_path / "picture.png")))
    scroll(page, 250)
    assert not inside(page, "gallery")
    for name in ("canvas", *TOOLS):
        assert inside(page, name), name
    width, height = page.driver.execute_script(
        "const c = document.getElementById('canvas'); return [c.clientWidth, c.clientHeight]"
    )
    assert width / height == pytest.approx(shape[0] / shape[1], rel=0.03)


def test_the_keyboards_pen_is_where_its_line_begins_on_a_narrow_picture(page: Page, tmp_path: Path) -> None:
    page.size(1280, 720)
    Image.new("L", (200, 600), 255).save(tmp_path / "picture.png")
    page.after(lambda: page.element("file").send_keys(str(tmp_path / "picture.png")))
    page.element("canvas").send_keys("")
    page.after(lambda: page.keys(*["\ue014"] * 10, " ", " "))  # ten times right from the middle, then a dot
    script = """
        const canvas = document.getElementById("canvas");
        const cursor = document.getElementById("cursor").getBoundingClientRect();
        const paper = canvas.getBoundingClientRect();
        const at = (low, high, from, size, side) => Math.round(((low + high) / 2 - from) / size * side);
        const x = at(cursor.left, cursor.right, paper.left, paper.width, canvas.width);
        const y = at(cursor.top, cursor.bottom, paper.top, paper.height, canvas.height);
        return canvas.getContext("2d").getImageData(x, y, 1, 1).data[0];
    """
    assert page.driver.execute_script(script) < 128
