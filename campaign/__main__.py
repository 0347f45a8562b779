"""Harms the program in every way that is known to happen, and counts how often it holds: `make campaign`.

    python -m campaign [PART ...] [--seed N] [--share FRACTION]

Everything runs in a scratch folder and on the loopback alone. A part that is run replaces its rows of
metrics/campaign.csv and leaves the others. The exit status is 1 where anything failed. Parts:

- kills: stages, pool workers, `dvc`, updates of an index, killed at random moments and run again
- rot: cut files, flipped bits and lost blocks in every artefact of a run and of an own index
- images: damaged images and extreme shapes through catalog, own index and upload, with 2 GB of memory
- params: values of every type and size for every key of params.yaml, and files that are no params
- server: load beside idle and busy cores, silent, slow and hostile clients, a search worker that dies or hangs
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.timing import ROOT, update_table
from campaign.tally import Plan

TABLE: Final = ROOT / "metrics" / "campaign.csv"
COLUMNS: Final = ("what", "tried", "held", "failed")
PARTS: Final = ("params", "rot", "images", "kills", "server")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts that are named, or all; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m campaign", description="Counts what harm the program stands.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: %(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of the attempts (default: all)")
    parser.add_argument("--out", type=Path, default=TABLE, help="the table (default: metrics/campaign.csv)")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    tried = failed = 0
    for part in asked.parts or PARTS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"campaign-{part}-") as scratch:
            plan = Plan(Path(scratch).resolve(), asked.out, asked.seed, asked.share)
            for tally in importlib.import_module(f"campaign.{part}").run(plan):
                update_table(asked.out, COLUMNS, ("what",), [tally.row])
                print(f"{tally.what}: {tally.held} of {tally.tried} held", flush=True)
                tried, failed = tried + tally.tried, failed + tally.tried - tally.held
        print(f"{part} took {time.monotonic() - started:.0f} s", flush=True)
    print(f"{tried} tried, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
