"""`drawfind search DRAWING ...`: prints the photos that drawings depict, or that are like other photos."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from pipeline_lib.data.cores import usable_cores
from pipeline_lib.data.images import BadImage, square
from pipeline_lib.embedding.likeness import ALIKE
from pipeline_lib.errors import printable
from pipeline_lib.files import replacing
from pipeline_lib.search.choice import add_choice, chosen
from pipeline_lib.search.command import up_to
from pipeline_lib.search.engine import MOST_HITS, Hit, SearchEngine, open_engine
from pipeline_lib.search.gallery import EVERYWHERE, Among, Gallery, Pixels
from pipeline_lib.search.queries import Kind, Query, mirrored, read_query

BATCH: Final = 32
STDIN: Final = "-"
BAR: Final = 10
"""Characters of a full bar."""
TILE, GAP, CAPTION = 160, 10, 22
"""px of the grid: side of a picture, space between two, height of the line below."""
ACROSS: Final = 10
PAPER, FRAME, INK = "#ffffff", "#c8c8c8", "#222222"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "queries", nargs="+", metavar="DRAWING",
        help="pictures of drawings, or photos to find others like them; - reads one from standard input",
    )  # fmt: skip
    kind = parser.add_mutually_exclusive_group()
    for name, words in (("drawing", "drawings"), ("photo", "photos")):
        kind.add_argument(
            f"--{name}", action="store_const", dest="kind", const=name, default="auto",
            help=f"take all of them as {words}; by default each tells by how it looks",
        )  # fmt: skip
    parser.add_argument("--mirror", action="store_true", help="search for their mirror images")
    parser.add_argument("--top", type=up_to(MOST_HITS), default=10, help="photos for each (default: %(default)s)")
    parser.add_argument(
        "--folder", default="", help="search only photos below this folder; a relative one lies below yours"
    )
    for name, words in (("since", "on this day or later"), ("until", "on this day or earlier")):
        parser.add_argument(
            f"--{name}", type=day, metavar="YYYY-MM-DD",
            help=f"search only photos that their camera says it took {words}",
        )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, one list entry for each that is searched")
    parser.add_argument("--grid", type=Path, metavar="OUT.png", help="draw what was asked and what was found")
    parser.add_argument(
        "--index", type=Path, metavar="FOLDER", help="the folder of the index of your photos, where not its usual place"
    )
    add_choice(parser)


def run(asked: argparse.Namespace) -> int:
    """Searches for every drawing; returns the exit status, 1 where any could not be searched."""
    model, which = chosen(asked)
    names, queries, failures = read(asked.queries, asked.kind, model.params.catalog.max_pixels, mirror=asked.mirror)
    if queries:
        with closing(open_engine(model, which, usable_cores(), asked.index)) as engine:
            found = search(engine, queries, asked.top, Among(asked.folder, asked.since, asked.until))
            tell(names, queries, found, engine.gallery, as_json=asked.json)
            if asked.grid:
                page = draw_grid([query.pixels for query in queries], found, engine.gallery)
                with replacing(asked.grid) as aside:
                    page.save(aside, "PNG", optimize=True)
    elif asked.json:
        print("[]")
    for words in failures:
        print(f"error: {words}", file=sys.stderr)
    return 1 if failures else 0


def read(
    paths: Sequence[str], kind: Kind, max_pixels: int, *, mirror: bool
) -> tuple[list[str], list[Query], list[str]]:
    """Names and contents of what can be searched, in order, and why the others can't be."""
    names: list[str] = []
    queries: list[Query] = []
    failures: list[str] = []
    for path in paths:
        name = "standard input" if path == STDIN else printable(path)
        try:
            data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
            query = read_query(data, max_pixels=max_pixels, kind=kind)
        except (BadImage, OSError) as failure:
            failures.append(f"{name}: {failure.strerror if isinstance(failure, OSError) else failure}")
            continue
        if query.blank:
            failures.append(f"{name}: there is nothing on it, or hardly anything, so nothing was searched; draw more")
            continue
        names.append(name)
        queries.append(mirrored(query) if mirror else query)
    return names, queries, failures


def day(text: str) -> date:
    """A day as the command line names it.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as failure:
        raise argparse.ArgumentTypeError(f"{text} is no day, such as 2024-05-31") from failure


def search(engine: SearchEngine, queries: Sequence[Query], top: int, among: Among = EVERYWHERE) -> list[list[Hit]]:
    """The `top` nearest photos of each query."""
    prepared = [engine.prepare(query.pixels, query.domain) for query in queries]
    batches = (prepared[start : start + BATCH] for start in range(0, len(prepared), BATCH))
    return [hits for batch in batches for hits in engine.search(batch, top, among)]


def tell(
    names: Sequence[str], queries: Sequence[Query], found: Sequence[Sequence[Hit]], gallery: Gallery, *, as_json: bool
) -> None:
    """Prints what was found."""
    if as_json:
        kinds = ["photo" if query.domain == "photo" else "drawing" for query in queries]
        values = [
            {"query": name, "kind": kind, "found": as_values(hits, gallery)}
            for name, kind, hits in zip(names, kinds, found, strict=True)
        ]
        utf_8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"  # else JSON's own escapes say the rest
        print(json.dumps(values, indent=2, ensure_ascii=not utf_8))
        return
    for name, hits in zip(names, found, strict=True):
        print(f"{name}\n{as_text(hits, gallery)}")


def as_values(hits: Sequence[Hit], gallery: Gallery) -> list[dict[str, Any]]:
    """Hits as JSON holds them; `path` is absolute or an address, and empty for pictures that the pipeline has drawn."""
    return [
        {
            "rank": hit.rank,
            "likeness": round(hit.likeness, 4),
            "score": round(hit.score, 6),
            "path": str(gallery.place(hit.row) or ""),
            "offline": gallery.is_away(hit.row),
            "image_id": gallery.image_ids[hit.row],
            "label": gallery.label(hit.row),
        }
        for hit in hits
    ]


def as_text(hits: Sequence[Hit], gallery: Gallery) -> str:
    """One line a photo: rank, likeness as a bar and in percent, path or name; what is less alike comes after a line."""
    alike = [_line(hit, gallery) for hit in hits if hit.likeness >= ALIKE]
    less = [_line(hit, gallery) for hit in hits if hit.likeness < ALIKE]
    return "\n".join([*alike, *(["      less alike:"] if less else []), *less])


def _line(hit: Hit, gallery: Gallery) -> str:
    full = round(hit.likeness * BAR)
    place = gallery.place(hit.row) or gallery.label(hit.row)
    away = "  (offline)" if gallery.is_away(hit.row) else ""
    return f"{hit.rank:4d}  {'#' * full:.<{BAR}} {round(hit.likeness * 100):3d} %  {place}{away}"


def draw_grid(drawings: Sequence[Pixels], found: Sequence[Sequence[Hit]], gallery: Gallery) -> Image.Image:
    """Each drawing (uint8[H, W, 3] or uint8[H, W]) at the left, what it found beside it in as many lines as needed."""
    across = min(ACROSS, max(map(len, found), default=1) or 1)
    lines = [max(1, math.ceil(len(hits) / across)) for hits in found]
    step = TILE + GAP
    height = GAP + sum(count * (step + CAPTION) for count in lines)
    page = Image.new("RGB", (GAP + (across + 1) * step + GAP, height), PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    top = GAP
    for drawing, hits, count in zip(drawings, found, lines, strict=True):
        page.paste(square(drawing, TILE), (GAP, top))
        draw.rectangle((GAP, top, GAP + TILE - 1, top + TILE - 1), outline=INK, width=2)
        for place, hit in enumerate(hits):
            x = 2 * GAP + (place % across + 1) * step
            y = top + (place // across) * (step + CAPTION)
            try:
                page.paste(square(gallery.picture(hit.row, TILE), TILE), (x, y))
            except BadImage:
                draw.text((x + 8, y + 8), "can't be read any more", fill=INK, font=font)
            draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), outline=FRAME)
            draw.text((x, y + TILE + 3), f"{hit.rank}   {hit.likeness:.0%}", fill=INK, font=font)
        top += count * (step + CAPTION)
    return page
