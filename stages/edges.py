"""Draws the Canny edges of every pretext photo: data/catalog.parquet -> data/pairs/."""

from __future__ import annotations

from pathlib import Path

from common import ROOT, SCRATCH, run

from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.params import Params
from pipeline_lib.pretext.edges import make_pairs


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Writes the pairs and names the images that were left out."""
    stats = make_pairs(read_catalog(data / "catalog.parquet"), params, ROOT, data / "pairs", SCRATCH)
    print(f"{stats['rows']} pairs, {len(stats['bad'])} bad images")
    for words in stats["bad"]:
        print(f"  skipped {words}")


if __name__ == "__main__":
    run(main)
