"""The command line: `python -m pipeline_lib.search SKETCH.png --top 10` prints the nearest photos."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.data.images import BadImage, decode
from pipeline_lib.run import Run
from pipeline_lib.search.command import add_run, ended, printable
from pipeline_lib.search.engine import MOST_HITS, Hit
from pipeline_lib.search.gallery import Pixels
from pipeline_lib.search.opening import open_engine
from pipeline_lib.search.output import as_text, as_values, draw_grid, save_grid

BATCH = 32


def top_of(text: str) -> int:
    """A number of photos, 1 to `MOST_HITS`."""
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= MOST_HITS:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {MOST_HITS}")
    return value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_lib.search", description="Finds the photos that were meant by a drawing."
    )
    parser.add_argument("sketches", nargs="+", type=Path, metavar="SKETCH", help="image files: dark lines on white")
    parser.add_argument("--top", type=top_of, default=10, help="photos for each sketch (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON, one list entry for each sketch that is read")
    parser.add_argument("--grid", type=Path, metavar="OUT.png", help="draw the sketches and what was found")
    parser.add_argument("--gallery", choices=["auto", "own", "pipeline"], default="auto", help="what is searched")
    add_run(parser)
    return parser.parse_args(arguments)


def read_sketches(paths: Sequence[Path], max_pixels: int) -> tuple[list[tuple[str, Pixels]], list[str]]:
    """Name and image of the sketches that can be read, in order, and why the others can't."""
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
        engine = open_engine(run, asked.gallery)
        try:
            prepared = [engine.prepare(image) for _, image in sketches]
            for start in range(0, len(prepared), BATCH):
                found += engine.search(prepared[start : start + BATCH], asked.top)
        finally:
            engine.close()
        if asked.json:
            pairs = zip(sketches, found, strict=True)
            values = [{"sketch": name, "found": as_values(hits, engine.gallery)} for (name, _), hits in pairs]
            print(json.dumps(values, indent=2, ensure_ascii=False))
        else:
            for (name, _), hits in zip(sketches, found, strict=True):
                print(f"{name}\n{as_text(hits, engine.gallery)}")
        if asked.grid:
            drawings = [image for _, image in sketches]
            save_grid(asked.grid, draw_grid(list(zip(drawings, found, strict=True)), engine.gallery))
    elif asked.json:
        print("[]")
    for words in failures:
        print(f"error: {words}", file=sys.stderr)
    return 1 if failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    asked = parse(arguments)
    return ended(lambda: search(asked))


if __name__ == "__main__":
    sys.exit(main())
