"""Prints the comparison of systems as a table: `python -m tools.show metrics`."""

import sys
from pathlib import Path

import pandas as pd

COLUMNS = {
    "system": "system",
    "supervision": "labels seen",
    "instance_hit_at_1": "instance@1",
    "instance_hit_at_5": "instance@5",
    "instance_hit_at_10": "instance@10",
    "in_class_hit_at_5": "in class@5",
    "class_hit_at_5": "class@5",
    "map": "mAP",
}


def main(metrics: Path) -> None:
    """Prints percentages; a column without figures (no classes) is left out."""
    path = metrics / "comparison.csv"
    if not path.exists():
        sys.exit(f"error: {path}: is not there; run `dvc repro`")
    table = pd.read_csv(path)[list(COLUMNS)].rename(columns=COLUMNS).dropna(axis="columns", how="all")
    figures = [name for name in table.columns if name not in ("system", "labels seen")]
    table[figures] = (100 * table[figures]).round(1)
    print("hits in %, see docs/method.md for the protocols")
    print(table.fillna("").to_string(index=False))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "metrics"))
