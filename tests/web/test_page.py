from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from tests.web.browser import Page
from tests.web.conftest import Served
from tests.web.tracing import Line, trace

# Well-known objects of few lines come first; which of them are found depends on the model.
FAMILIAR = ("1F33C", "1F388", "1F34B", "1F40C", "1F352", "1F3E0", "2602", "1F41F", "1F511", "2693", "1F3A3", "1F390")
PEN = 0.014  # the page's medium pen
CROSS: list[Line] = [[(0.2, 0.2), (0.8, 0.8)], [(0.8, 0.2), (0.2, 0.8)]]


@pytest.fixture(scope="module")
def drawings(served: Served) -> list[tuple[str, list[Line], bytes]]:
    """Three drawings of the catalog that the model itself finds among its first five: id, lines, PNG.

    It finds them as pictures and as the lines that stand for them: what is tested is the page, not the model's luck.
    """
    catalog = read_catalog(served.run.catalog)
    source = open_source(served.run.params.catalog, served.run.root)
    queries = catalog[catalog["role"] == "query"].set_index("instance_id")
    names = [f"openmoji/{stem}" for stem in FAMILIAR if f"openmoji/{stem}" in queries.index]
    names += [name for name in sorted(queries.index) if name not in names][::7]
    chosen = []
    for name in names:
        row = queries.loc[name]
        pixels = source.load(str(row["path"]), "sketch", str(row["image_id"]))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        found = served.post("/api/search/image?top=5", buffer.getvalue())["found"]
        lines, _ = trace(pixels)
        strokes = [{"points": [*line, line[0]] if len(line) > 2 else line, "width": PEN} for line in lines]
        query = json.dumps({"strokes": strokes, "top": 5}).encode()
        drawn = served.post("/api/search/strokes", query, "application/json")["found"] if lines else []
        both = all(name in [hit["image_id"] for hit in hits] for hits in (found, drawn))
        if both and sum(map(len, lines)) < 500:
            chosen.append((name, lines, buffer.getvalue()))
        if len(chosen) == 3:
            return chosen
    pytest.fail(f"of {len(names)} drawings the model finds only {len(chosen)}")


def test_drawing_an_emoji_by_hand_finds_it_among_the_first_ten(
    page: Page, drawings: list[tuple[str, list[Line], bytes]], tmp_path: Path
) -> None:
    for name, lines, _ in drawings:
        found = page.after(lambda lines=lines: page.draw(lines))  # type: ignore[misc]
        assert name in found[:10]
        assert len(found) == 24
        assert re.fullmatch(r"\d+ alike · [\d,]+ ms|Nothing is much alike\.", page.text("status"))
        assert (page.hits()[0].accessible_name).startswith("1: ")
        shot = np.asarray(Image.open(io.BytesIO(page.screenshot(tmp_path / "page.png"))).convert("L"))
        assert shot.std() > 30
        page.after(lambda: page.click("clear"))


def test_results_change_while_a_line_is_still_being_drawn(page: Page) -> None:
    before = page.answers()
    from selenium.webdriver.common.action_chains import ActionChains

    chain = ActionChains(page.driver, duration=0).move_to_element_with_offset(page.element("canvas"), -100, -100)
    chain.click_and_hold().perform()
    for _ in range(10):
        ActionChains(page.driver, duration=30).move_by_offset(12, 15).perform()
    page.wait(lambda: page.answers() > before)
    assert page.found()
    ActionChains(page.driver).release().perform()


def test_undo_and_redo_take_back_lines_and_their_results(page: Page) -> None:
    one = page.after(lambda: page.draw(CROSS[:1]))
    thin = page.ink()
    two = page.after(lambda: page.draw(CROSS[1:]))
    assert page.ink() > 1.5 * thin
    assert two != one
    assert page.after(lambda: page.click("undo")) == one
    assert page.ink() == pytest.approx(thin, rel=0.02)
    assert page.after(lambda: page.click("redo")) == two
    page.after(lambda: page.click("clear"))
    assert page.ink() == 0
    assert page.found() == []
    assert page.after(lambda: page.element("canvas").send_keys(Keys.CONTROL, "z")) == two


def test_the_eraser_takes_ink_away(page: Page) -> None:
    page.after(lambda: page.draw(CROSS))
    before = page.ink()
    page.click("eraser")
    assert page.element("eraser").get_attribute("aria-pressed") == "true"
    page.after(lambda: page.draw([[(0.3, 0.5), (0.7, 0.5)]]))
    assert page.ink() < before


def test_three_pens_draw_lines_of_three_widths(page: Page) -> None:
    inks = []
    for name in ("thin", "medium", "thick"):
        page.click(name)
        assert [page.element(other).get_attribute("aria-pressed") for other in ("thin", "medium", "thick")] == [
            str(other == name).lower() for other in ("thin", "medium", "thick")
        ]
        page.after(lambda: page.draw(CROSS[:1]))
        inks.append(page.ink())
        page.after(lambda: page.click("clear"))
    assert inks[1] == pytest.approx(27 / 14 * inks[0], rel=0.2)
    assert inks[2] == pytest.approx(60 / 27 * inks[1], rel=0.2)


def test_an_uploaded_file_finds_what_the_api_finds(
    page: Page, served: Served, drawings: list[tuple[str, list[Line], bytes]], tmp_path: Path
) -> None:
    name, _, data = drawings[0]
    (tmp_path / "sketch.png").write_bytes(data)
    found = page.after(lambda: page.element("file").send_keys(str(tmp_path / "sketch.png")))
    wanted = served.post("/api/search/image?top=24", data)["found"]
    assert found == [hit["image_id"] for hit in wanted]
    assert name in found[:5]
    assert page.ink() > 0.01
    # A line on top of it makes another query.
    assert page.after(lambda: page.draw(CROSS)) != found


def test_a_file_that_is_no_picture_is_told_in_a_sentence(page: Page, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no picture")
    page.element("file").send_keys(str(tmp_path / "words.png"))
    page.wait(lambda: page.problem)
    assert "no picture that can be read" in page.problem
    # The browser tells of every answer that is not 200; here one is meant.
    assert all("415" in words for words in page.complaints())
    page.after(lambda: page.draw(CROSS))
    assert page.problem == ""


def test_a_pasted_picture_is_searched(page: Page, drawings: list[tuple[str, list[Line], bytes]]) -> None:
    name, _, data = drawings[1]
    script = """
        const bytes = new Uint8Array(arguments[0]);
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
        document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
    """
    assert name in page.after(lambda: page.driver.execute_script(script, list(data)))[:5]


def test_an_example_is_a_drawing_of_the_catalog(page: Page) -> None:
    assert len(page.after(lambda: page.click("example"))) == 24
    assert page.ink() > 0.005


def test_the_second_tab_shows_what_the_network_sees(page: Page, served: Served) -> None:
    page.after(lambda: page.draw(CROSS))
    page.after(lambda: page.click("tab-seen"))
    assert not page.element("results").is_displayed()
    page.wait(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, "#query img")) == 2)
    script = "return [...document.querySelectorAll('#seen img')].map((image) => image.naturalWidth)"
    page.wait(lambda: min(page.driver.execute_script(script)) > 0)
    size = json.loads(served.get("/api/model"))["image_size"]
    assert page.driver.execute_script(script)[1:] == [size] * (1 + 12)
    words = page.driver.find_elements(By.CSS_SELECTOR, "#query figcaption")[1].text
    assert words.startswith(f"What the network sees of it: {size} × {size} px.")
    assert "a drawing's" in words
    assert "whitening" in words
    page.element("tab-seen").send_keys(Keys.ARROW_LEFT)
    assert page.element("results").is_displayed()
    assert page.element("tab-results").get_attribute("aria-selected") == "true"


def test_the_mirror_image_is_searched_while_the_toggle_is_on(page: Page) -> None:
    slant = [[(0.2, 0.2), (0.5, 0.3), (0.8, 0.8)]]
    turned = [[(0.8, 0.2), (0.5, 0.3), (0.2, 0.8)]]
    wanted = page.after(lambda: page.draw(turned))
    page.after(lambda: page.click("clear"))
    plain = page.after(lambda: page.draw(slant))
    mirrored = page.after(lambda: page.click("mirror"))
    assert page.element("mirror").get_attribute("aria-pressed") == "true"
    assert mirrored != plain
    assert len(set(mirrored[:10]) & set(wanted[:10])) >= 8
    assert page.after(lambda: page.click("mirror")) == plain


def test_a_line_that_is_erased_again_finds_nothing(page: Page) -> None:
    page.click("thin")
    page.after(lambda: page.draw(CROSS[:1]))
    page.click("thick")
    page.click("eraser")
    assert page.after(lambda: page.draw(CROSS[:1])) == []
    assert page.ink() == 0
    assert page.text("status") == "That is hardly a line yet. Draw a little more."


def test_one_can_draw_with_the_keyboard_alone(page: Page) -> None:
    page.element("canvas").send_keys("")
    found = page.after(lambda: page.keys(" ", *[Keys.ARROW_RIGHT] * 10, *[Keys.ARROW_DOWN] * 10, " "))
    assert len(found) == 24
    assert page.ink() > 0.005
    page.keys(Keys.TAB)
    focused = page.driver.switch_to.active_element
    assert focused.get_attribute("id") == "pen"


@pytest.mark.parametrize("kind", ["touch", "pen"])
def test_on_a_phone_nothing_is_wider_than_the_screen_and_fingers_draw(page: Page, kind: str) -> None:
    page.phone()
    page.driver.refresh()
    page.wait(lambda: page.text("gallery").endswith("OpenMoji"))
    before = page.answers()
    page.draw([[(0.2, 0.3), (0.5, 0.6), (0.7, 0.2)]], kind)
    page.wait(lambda: page.answers() > before)
    assert page.ink() > 0.005
    wide, window = page.driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window
    # In one look: between two the page may move by a line of text.
    page.unfold()
    tops = """
        return [...document.querySelectorAll("#results .hit")].filter((hit) => hit.checkVisibility()).slice(0, 3)
            .map((hit) => hit.getBoundingClientRect().top);
    """
    found = page.driver.execute_script(tops)
    assert (len(found), len(set(found))) == (3, 1)
    for name in ("pen", "eraser", "undo", "clear", "upload", "example"):
        assert page.element(name).rect["height"] >= 40


def test_light_and_dark_are_readable(page: Page) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        script = "const s = getComputedStyle(document.documentElement); return [s.color, s.backgroundColor]"
        colours[scheme] = [_luminance(words) for words in page.driver.execute_script(script)]
    for ink, back in colours.values():
        assert _contrast(ink, back) > 7  # WCAG 2, level AAA
    assert colours["light"][1] > 0.8
    assert colours["dark"][1] < 0.05


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_hint_on_the_paper_is_readable(page: Page, scheme: str) -> None:
    page.scheme(scheme)
    style = "return getComputedStyle(document.getElementById('hint')).color"
    painted = "return [...document.getElementById('canvas').getContext('2d').getImageData(360, 360, 1, 1).data].join()"
    paper = f"({page.driver.execute_script(painted)})"
    assert _contrast(_luminance(page.driver.execute_script(style)), _luminance(paper)) >= 4.5  # WCAG 2, level AA


def _contrast(one: float, other: float) -> float:
    """Contrast ratio (WCAG 2) of two luminances."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def _luminance(words: str) -> float:
    """Relative luminance (WCAG 2) of `rgb(r, g, b)`."""
    values = np.array([float(part) / 255 for part in words[words.index("(") + 1 : -1].split(",")[:3]])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_footer_says_in_words_which_model_searches_what(page: Page) -> None:
    words = page.text("about")
    assert words.startswith("The model “default” searches ")
    assert "photos of OpenMoji" in words
    page.driver.find_element(By.CSS_SELECTOR, "footer summary").click()
    details = page.text("model")
    for part in ("alexnet", "pretext_whitened", "OpenMoji, CC BY-SA 4.0"):
        assert part in details
    # Of the tree's own default at 256 px, or of the shortened run at 160.
    assert any(f"exact, {numbers} numbers" in details for numbers in (25600, 8704))


def test_every_control_has_a_name(page: Page) -> None:
    page.after(lambda: page.draw(CROSS))
    page.unfold()
    controls = page.driver.find_elements(By.CSS_SELECTOR, "button, input, select, a, canvas, [role=tab]")
    visible = [control for control in controls if control.is_displayed()]
    assert len(visible) > 30
    for control in visible:
        assert control.accessible_name.strip(), control.get_attribute("outerHTML")
