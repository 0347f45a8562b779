"""`python -m pipeline_lib.search.index_photos FOLDER`: indexes one's own photos, or brings their index up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.models.device import keep_freed_memory
from pipeline_lib.run import Run
from pipeline_lib.search.command import add_run, ended
from pipeline_lib.search.opening import open_encoder
from pipeline_lib.search.own_photos import update
from pipeline_lib.search.own_record import own_folder


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_lib.search.index_photos",
        description="Indexes a folder of photos with the trained model; run again, it embeds only what is new.",
    )
    parser.add_argument("photos", type=Path, metavar="FOLDER", help="photos of any nesting and format")
    parser.add_argument("--afresh", action="store_true", help="drop the index that is there and embed all photos again")
    add_run(parser)
    return parser.parse_args(arguments)


def index(asked: argparse.Namespace) -> int:
    """Updates the index and says what it did."""
    run = Run.open(asked.run)
    keep_freed_memory()
    encoder = open_encoder(run, run.params.embed.threads)
    done = update(run, asked.photos, encoder, afresh=asked.afresh)
    for path, why in sorted(done.bad.items()):
        print(f"  skipped {path}: {why}")
    changes = f"{done.added} embedded, {done.removed} removed, {len(done.bad)} skipped"
    print(f"{done.photos} photos in {own_folder(run)}: {changes}; {done.settings or 'the index is as it was'}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    asked = parse(arguments)
    return ended(lambda: index(asked))


if __name__ == "__main__":
    sys.exit(main())
