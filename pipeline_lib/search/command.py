"""What the programs of search share: the run that they open, and failures told in a sentence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline_lib.errors import PipelineError, in_words
from pipeline_lib.files import LIBRARY

INTERRUPTED = 130


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds `--run`, the folder of the run that is searched."""
    parser.add_argument(
        "--run", type=Path, default=LIBRARY.parent / "data", metavar="FOLDER",
        help="a finished run: data (the default's, of `make repro`) or data/runs/NAME (of `make run RECIPE=NAME`)",
    )  # fmt: skip


def printable(words: object) -> str:
    r"""Words that may hold a file's name, as any stream takes them: bytes that are not UTF-8 are shown as \xNN."""
    return os.fsencode(str(words)).decode("utf-8", "backslashreplace")


def ended(work: Callable[[], int]) -> int:
    """Runs a command's work; a failure is one sentence on standard error and exit status 1."""
    try:
        return work()
    except PipelineError as failure:
        print(printable(f"error: {failure}"), file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return INTERRUPTED
    except OSError as failure:
        print(printable(f"error: {in_words(failure)}"), file=sys.stderr)
    return 1
