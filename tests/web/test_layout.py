from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.web.browser import Page

TOOLS = (
    "pen", "eraser", "thin", "medium", "thick", "undo", "redo", "clear", "mirror", "upload", "example", "save",
    "drawings",
)  # fmt: skip
CROSS = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]
IN_WINDOW = """
    return [...document.querySelectorAll("#results .frame")].map((frame) => frame.getBoundingClientRect())
        .filter((box) => box.width > 0 && box.top >= 0 && box.bottom <= innerHeight && box.left >= 0
            && box.right <= innerWidth).length;
"""
# Which photos are alike depends on the model: here all are.
ALIKE = """
    const real = Response.prototype.json;
    Response.prototype.json = async function () {
        const answer = await real.call(this);
        for (const hit of answer?.found ?? []) hit.alike = true;
        return answer;
    };
"""
# On the paper a picture of another shape may come.
SHIFT = """
    window.shifts = [];
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
        if (entry.sources.some(({ node }) => !(node?.parentElement ?? node)?.closest(".paper"))) {
            window.shifts.push(entry.value);
        }
    })).observe({ type: "layout-shift", buffered: true });
"""


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
    page.driver.execute_script(ALIKE)
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
    narrow = Image.new("L", (200, 600), 255)
    narrow.paste(0, (40, 40, 60, 200))
    narrow.save(tmp_path / "picture.png")
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


def test_six_hits_and_all_tools_are_seen_on_a_phone(page: Page) -> None:
    page.phone()
    page.driver.execute_script(ALIKE)
    page.after(lambda: page.click("example"))
    scroll(page, 0)
    assert page.driver.execute_script(IN_WINDOW) >= 6
    for name in ("canvas", *TOOLS):
        assert inside(page, name), name
    for name in TOOLS:
        size = page.element(name).rect
        assert min(size["width"], size["height"]) >= 40, name  # of a fingertip


def test_a_phone_on_its_side_shows_tools_paper_and_results(page: Page) -> None:
    page.phone(844, 390)
    page.driver.execute_script(ALIKE)
    page.after(lambda: page.click("example"))
    scroll(page, 0)
    for name in ("canvas", *TOOLS, "tab-results"):
        assert inside(page, name), name
    assert page.driver.execute_script(IN_WINDOW) >= 3
    scroll(page, 400)
    for name in ("canvas", *TOOLS):
        assert inside(page, name), name  # beside results that scroll
    wide, window = page.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window


def test_results_beside_the_canvas_use_a_wide_screen(page: Page) -> None:
    page.size(2560, 1300)
    page.driver.execute_script(ALIKE)
    page.after(lambda: page.click("example"))
    script = "const box = document.getElementById('results').getBoundingClientRect(); return [box.left, box.right]"
    left, right = page.driver.execute_script(script)
    assert right > 2560 - 80
    assert left < 800
    assert page.driver.execute_script(IN_WINDOW) >= 16


@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_nothing_jumps_while_one_draws_and_looks(page: Page, size: tuple[int, int], tmp_path: Path) -> None:
    page.size(*size)
    page.driver.refresh()
    page.driver.execute_script(SHIFT)
    page.wait(lambda: page.text("gallery"))
    page.after(lambda: page.draw(CROSS))
    page.after(lambda: page.click("clear"))
    Image.linear_gradient("L").resize((600, 200)).save(tmp_path / "picture.png")
    before = box(page, "pen")
    page.after(lambda: page.element("file").send_keys(str(tmp_path / "picture.png")))
    page.after(lambda: page.click("example"))
    assert box(page, "pen") == before
    page.click("tab-seen")
    page.click("tab-results")
    assert sum(page.driver.execute_script("return window.shifts")) < 0.02


def test_a_problem_is_in_the_window_wherever_one_has_scrolled_to(page: Page, tmp_path: Path) -> None:
    page.size(1280, 720)
    page.after(lambda: page.click("example"))
    page.unfold()
    scroll(page, 600)
    (tmp_path / "words.png").write_text("no picture")
    page.element("file").send_keys(str(tmp_path / "words.png"))
    page.wait(lambda: page.problem)
    page.complaints()  # an answer that is not 200, as meant
    assert inside(page, "problem")
    page.click("problem-close")
    assert page.problem == ""
