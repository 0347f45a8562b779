"""SVG drawings: checked, since a small file can ask for endless work or for other files, and drawn by resvg."""

import re
from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

import resvg_py

from pipeline_lib.data.images import BadImage

START: Final = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*<(?:\?xml|!DOCTYPE\s+svg|!--|(?:\w+:)?svg[\s>])", re.IGNORECASE)
MOST_BYTES: Final = 8_000_000
MOST_ELEMENTS: Final = 20_000
"""Elements that are drawn, those that references draw again among them."""
DEEPEST: Final = 150
REFUSED: Final = {"script", "foreignobject", "image", "feimage", "filter", "marker"}
"""Elements that run programs, read other files, or let a few bytes ask for any amount of work."""
GRADIENTS: Final = {"lineargradient", "radialgradient"}
REFERENCE: Final = re.compile(r"url\(\s*['\"]?\s*([^'\")]*)")


def is_svg(data: bytes) -> bool:
    """Whether some bytes begin as an SVG does."""
    return START.match(data) is not None and b"svg" in data[:4096].lower()


def rasterise_svg(data: bytes, side: int) -> bytes:
    """Draws an SVG as large as it fits into a square.

    Args:
        data: the file's bytes.
        side: of the square, px.

    Returns:
        A PNG's bytes, transparent where nothing is drawn. Text is left out: fonts differ from machine to machine.

    Raises:
        BadImage: it is broken, or holds something that is refused; says what.
    """
    if len(data) > MOST_BYTES:
        raise BadImage(f"the SVG has more than {MOST_BYTES // 10**6} MB; save it with fewer details")
    if b"<!ENTITY" in data:
        raise BadImage("the SVG declares entities; save it as plain SVG")
    try:
        root = ET.fromstring(data)  # noqa: S314  without entities there is nothing to expand
    except (ET.ParseError, ValueError, LookupError) as failure:
        raise BadImage(f"the SVG is broken: {failure}") from failure
    _check(root)
    text = ET.tostring(root, encoding="unicode")  # what was checked, and nothing else
    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=text, width=side, height=side, skip_system_fonts=True))
    except ValueError as failure:
        raise BadImage(f"the SVG can't be drawn: {failure}") from failure


def _check(root: Element) -> None:
    """Raises BadImage for what is refused."""
    by_id: dict[str, Element] = {}
    styled: set[str] = set()
    for element, depth in _walk(root):
        name = _local(element.tag)
        if depth > DEEPEST:
            raise BadImage(f"the SVG is nested more than {DEEPEST} deep; save it with fewer groups")
        if name in REFUSED:
            raise BadImage(f"the SVG holds a <{name}>, which is not drawn; save it as plain SVG, or as PNG")
        if name == "style" and "@import" in (element.text or ""):
            raise BadImage("the SVG imports another file's style; save it as plain SVG, or as PNG")
        styled |= set(_targets(element)) if name == "style" else set()
        for target in _targets(element):
            if not target.startswith("#"):
                raise BadImage("the SVG refers to something outside of itself; save it as plain SVG, or as PNG")
        by_id.setdefault(element.get("id", ""), element)
    # How often a style is used is not counted, so it may not ask for elements to be drawn.
    if any(target[1:] in by_id and _local(by_id[target[1:]].tag) not in GRADIENTS for target in styled):
        raise BadImage("the SVG's style sheet refers to a pattern or a mask; save it as plain SVG, or as PNG")
    _count(root, by_id, {}, set())


def _walk(root: Element) -> Iterator[tuple[Element, int]]:
    """All elements and their depth, without recursion, which a deep file would exhaust."""
    waiting = [(root, 0)]
    while waiting:
        element, depth = waiting.pop()
        yield element, depth
        waiting += [(child, depth + 1) for child in element]


def _local(tag: object) -> str:
    """A tag or an attribute's name without its namespace; comments have none."""
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


def _targets(element: Element) -> Iterator[str]:
    """What an element refers to: `#name` within the file."""
    for name, value in element.attrib.items():
        if _local(name) == "href":
            # A link round a drawing leads the reader elsewhere, and draws nothing of it.
            if _local(element.tag) != "a":
                yield value.strip()
        else:
            yield from REFERENCE.findall(value)
    if _local(element.tag) == "style":
        yield from REFERENCE.findall(element.text or "")


def _count(element: Element, by_id: dict[str, Element], known: dict[Element, int], above: set[Element]) -> int:
    """Elements that are drawn for one, each reference followed.

    Args:
        element: the one.
        by_id: elements by their id.
        known: what was counted before.
        above: those that it is counted for, to notice circles.

    Raises:
        BadImage: there are too many.
    """
    if element in above or len(above) > 2 * DEEPEST:
        raise BadImage("the SVG refers to itself in a circle or a long chain; save it as plain SVG, or as PNG")
    if element not in known:
        above.add(element)
        targets = [by_id[target[1:]] for target in _targets(element) if target[1:] in by_id]
        known[element] = 1 + sum(_count(each, by_id, known, above) for each in (*element, *targets))
        above.remove(element)
    if known[element] > MOST_ELEMENTS:
        raise BadImage(f"the SVG draws more than {MOST_ELEMENTS} elements; save it with fewer details, or as PNG")
    return known[element]
