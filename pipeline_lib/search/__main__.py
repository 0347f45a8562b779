"""The command line: `python -m pipeline_lib.search SKETCH.png --top 10` prints the nearest photos."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pipeline_lib.data.images import BadImage, decode, square
from pipeline_lib.files import replacing
from pipeline_lib.run import Run
from pipeline_lib.search.command import add_gallery, add_run, ended, printable, up_to
from pipeline_lib.search.engine import MOST_HITS, Hit, open_engine
from pipeline_lib.search.gallery import Gallery, Pixels

BATCH = 32
TILE, GAP, CAPTION = 160, 10, 22
"""px of the grid: side of a picture, space between two, height of the line below."""
ACROSS = 10
PAPER, FRAME, INK = "#ffffff", "#c8c8c8", "#222222"


def read_sketches(paths: Sequence[Path], max_pixels: int) -> tuple[list[tuple[str, Pixels]], list[str]]:
    """Names and images of the readable sketches, in order, and why the others can't be read."""
    sketches = []
    failures = []
    for path in paths:
        name = printable(path)
        try:
            sketches.append((name, decode(path.read_bytes(), max_pixels=max_pixels)))
        except (BadImage, OSError) as failure:
            failures.append(f"{name}: {failure.strerror if isinstance(failure, OSError) else failure}")
    return sketches, failures


def search(asked: argparse.Namespace) -> int:
    """Searches for every sketch; returns the exit status."""
    run = Run.open(asked.run)
    sketches, failures = read_sketches(asked.sketches, run.params.catalog.max_pixels)
    found: list[list[Hit]] = []
    if sketches:
        with closing(open_engine(run, asked.gallery)) as engine:
            prepared = [engine.prepare(image) for _, image in sketches]
            for start in range(0, len(prepared), BATCH):
                found += engine.search(prepared[start : start + BATCH], asked.top)
        if asked.json:
            pairs = zip(sketches, found, strict=True)
            values = [{"sketch": name, "found": as_values(hits, engine.gallery)} for (name, _), hits in pairs]
            print(json.dumps(values, indent=2, ensure_ascii=False))
        else:
            for (name, _), hits in zip(sketches, found, strict=True):
                print(f"{name}\n{as_text(hits, engine.gallery)}")
        if asked.grid:
            page = draw_grid([image for _, image in sketches], found, engine.gallery)
            with replacing(asked.grid) as aside:
                page.save(aside, "PNG", optimize=True)
    elif asked.json:
        print("[]")
    for words in failures:
        print(f"error: {words}", file=sys.stderr)
    return 1 if failures else 0


def as_values(hits: Sequence[Hit], gallery: Gallery) -> list[dict[str, Any]]:
    """Hits as JSON holds them: rank, score, distance, image_id, path, label."""
    return [
        {
            "rank": hit.rank,
            "score": round(hit.score, 6),
            "distance": round(hit.distance, 6),
            "image_id": gallery.image_ids[hit.row],
            "path": gallery.paths[hit.row],
            "label": gallery.label(hit.row),
        }
        for hit in hits
    ]


def as_text(hits: Sequence[Hit], gallery: Gallery) -> str:
    """One line a photo: rank, score, path, and the name where the path does not tell it."""
    lines = []
    for hit in hits:
        path, label = gallery.paths[hit.row], gallery.label(hit.row)
        named = "" if label in path else f"  ({label})"
        lines.append(f"{hit.rank:4d}  {hit.score:7.4f}  {path}{named}")
    return "\n".join(lines)


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
                page.paste(square(gallery.load(hit.row), TILE), (x, y))
            except BadImage:
                draw.text((x + 8, y + 8), "can't be read any more", fill=INK, font=font)
            draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), outline=FRAME)
            draw.text((x, y + TILE + 3), f"{hit.rank}   {hit.score:.3f}", fill=INK, font=font)
        top += count * (step + CAPTION)
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_lib.search", description="Finds the photos that a drawing depicts."
    )
    parser.add_argument("sketches", nargs="+", type=Path, metavar="SKETCH", help="image files: dark lines on white")
    parser.add_argument("--top", type=up_to(MOST_HITS), default=10, help="photos a sketch (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, one list entry for each sketch that is read")
    parser.add_argument("--grid", type=Path, metavar="OUT.png", help="draw the sketches and what was found")
    add_gallery(parser)
    add_run(parser)
    return ended(search, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
