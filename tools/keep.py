"""Keeps a run's artefacts beside those of the next: `python -m tools.keep data/source` links them in data/runs/source.

With other params DVC takes the outputs of the last ones out of the tree, and the comparison reads several runs at once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from pipeline_lib.data.files import publish_folder

RUNS = Path("data/runs")
PARTS = ("catalog.parquet", "excluded.parquet", "pairs", "model", "embeddings", "baselines")


def keep(data: Path, runs: Path = RUNS) -> Path:
    """Links what the comparison reads of a run; what an earlier run of that name left goes.

    Args:
        data: the run's folder of artefacts (`paths.data`).
        runs: where runs are kept.

    Returns:
        The run's folder there.
    """
    scratch = runs / f".{data.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        for part in PARTS:
            if (data / part).is_dir():
                shutil.copytree(data / part, scratch / part, copy_function=_link)
            else:
                _link(str(data / part), str(scratch / part))
        publish_folder(scratch, runs / data.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return runs / data.name


def _link(source: str, target: str) -> None:
    """A second name of a file, which takes no room; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="keeps a run for the comparison")
    parser.add_argument("data", type=Path, help="artefacts of a finished run, such as data/source")
    try:
        print(f"kept for the comparison: {keep(parser.parse_args().data)}")
    except OSError as failure:
        sys.exit(f"error: {failure}; name the folder of a finished run, such as data/source")


if __name__ == "__main__":
    main()
