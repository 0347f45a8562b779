"""What several networks find together: `python -m experiments.together NAME+NAME...`, names of finished study rows.

Their similarities are added up, each network aligned by itself: the same as joining their aligned vectors, which have
length 1. Writes metrics/retrieval_study_together.csv; the combinations are chosen by `sketchy_even`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.cell import PLACE
from experiments.grid import ROOT
from experiments.judge import figures, parts, scored
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.alignment import Kind
from pipeline_lib.retrieval.comparison import write_csv
from pipeline_lib.retrieval.vectors import open_retrieval

ALIGNMENTS: tuple[Kind, ...] = ("pretext_whitened", "pretext_csls")
TABLE = Path("metrics/retrieval_study_together.csv")


def measure(combinations: list[list[str]], place: Path) -> Iterator[dict[str, Any]]:
    """A row per combination, alignment and part of Sketchy.

    Args:
        combinations: names of study rows.
        place: the folder that holds `study-NAME/embeddings/` of each.

    Raises:
        PipelineError: a row's embeddings are missing, or two rows do not hold the same images.
    """
    names = list(dict.fromkeys(name for some in combinations for name in some))
    opened = {name: open_retrieval(place / f"study-{name}" / "embeddings") for name in names}
    photos, sketches = (table.labels for table in opened[names[0]])
    for name, found in opened.items():
        for table, labels in zip(found, (photos, sketches), strict=True):
            if not np.array_equal(table.labels.image_ids, labels.image_ids):
                raise PipelineError(f"{table.path}: holds other images than {names[0]}'s; make {name} again")
    for dataset, part in parts(photos, sketches, final=True).items():
        for kind in ALIGNMENTS:
            scores = {name: scored(*found, kind, part) for name, found in opened.items()}
            for some in combinations:
                total = reduce(np.add, (scores[name] for name in some))
                yield {
                    "names": "+".join(some),
                    "dataset": dataset,
                    "alignment": kind,
                    **figures(total, photos.take(part[0]), sketches.take(part[1])),
                    "dim": sum(opened[name][0].dimension for name in some),
                }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="figures of several networks together")
    parser.add_argument("combinations", nargs="+", help="names of study rows, joined by +")
    given = [text.split("+") for text in parser.parse_args().combinations]
    try:
        write_csv(ROOT / TABLE, pd.DataFrame(list(measure(given, ROOT / PLACE))))
    except PipelineError as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
