"""What the programs of search share: the params file they are told of, and failures told in a sentence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline_lib.data.files import LIBRARY
from pipeline_lib.errors import PipelineError, in_words

DEFAULT = (LIBRARY.parent / "params").with_suffix(".yaml")
"""The params file of the tree that holds the program."""
INTERRUPTED = 130


def add_params(parser: argparse.ArgumentParser) -> None:
    """Adds `--params`, the file of the run that is searched; its folder is where `paths.data` leads from."""
    parser.add_argument("--params", type=Path, default=DEFAULT, help="params file of the run (default: this tree's)")


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
