"""Prints the comparison of systems as a table: metrics/comparison.csv."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from common import run

from pipeline_lib.params import Params

COLUMNS = {
    "system": "system",
    "supervision": "labels seen",
    "instance_hit_at_1": "instance@1",
    "instance_hit_at_5": "instance@5",
    "instance_hit_at_10": "instance@10",
    "in_class_hit_at_5": "in class@5",
    "class_hit_at_5": "class@5",
}


def main(_params: Params, _data: Path, metrics: Path) -> None:
    """Prints percentages; a column without figures (no classes) is left out."""
    table = pd.read_csv(metrics / "comparison.csv", keep_default_na=True)[list(COLUMNS)].rename(columns=COLUMNS)
    table = table.dropna(axis="columns", how="all")
    figures = [name for name in table.columns if "@" in name]
    table[figures] = (100 * table[figures]).round(1)
    print("hits in %, see README.md for the protocols")
    print(table.fillna("").to_string(index=False))


if __name__ == "__main__":
    run(main)
