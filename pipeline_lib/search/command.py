"""What the programs of search share: options, and failures told in a sentence."""

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


def add_gallery(parser: argparse.ArgumentParser) -> None:
    """Adds `--gallery`, as `open_engine` takes it."""
    parser.add_argument("--gallery", choices=["auto", "own", "pipeline"], default="auto", help="what is searched")


def up_to(most: int) -> Callable[[str], int]:
    """The type of an option that takes a number from 1 to `most`."""

    def number(text: str) -> int:
        value = int(text) if text.isdecimal() else 0
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {most}")
        return value

    return number


def printable(words: object) -> str:
    r"""Words that may hold a file's name, as any stream takes them: bytes that are not UTF-8 are shown as \xNN."""
    return os.fsencode(str(words)).decode("utf-8", "backslashreplace")


def ended(work: Callable[[argparse.Namespace], int], asked: argparse.Namespace) -> int:
    """Runs a command's work; a failure is one sentence on standard error and exit status 1."""
    try:
        return work(asked)
    except PipelineError as failure:
        print(printable(f"error: {failure}"), file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return INTERRUPTED
    except OSError as failure:
        print(printable(f"error: {in_words(failure)}"), file=sys.stderr)
    return 1
