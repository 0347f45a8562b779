"""Cuts jittered 4-region patches out of photos and edge maps: data/pairs/ -> data/patches/."""

from __future__ import annotations

from pathlib import Path

from common import SCRATCH, run

from pipeline_lib.params import Params
from pipeline_lib.pretext.patches import make_patches


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Writes the patches."""
    machine = params.machine
    stats = make_patches(data / "pairs", params.patches, data / "patches", SCRATCH, machine.workers, machine.ray)
    print(f"{stats['rows']} layouts of {stats['images']} images")


if __name__ == "__main__":
    run(main)
