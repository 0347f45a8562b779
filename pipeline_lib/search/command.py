"""What the programs of search share: the params file they are told of, and failures told in a sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline_lib.data.files import LIBRARY
from pipeline_lib.errors import PipelineError

DEFAULT = (LIBRARY.parent / "params").with_suffix(".yaml")
"""The params file of the tree that holds the program."""
INTERRUPTED = 130


def add_params(parser: argparse.ArgumentParser) -> None:
    """Adds `--params`, the file of the run that is searched; its folder is where `paths.data` leads from."""
    parser.add_argument("--params", type=Path, default=DEFAULT, help="params file of the run (default: this tree's)")


def ended(work: Callable[[], int]) -> int:
    """Runs a command's work; a failure is one sentence on standard error and exit status 1."""
    try:
        return work()
    except PipelineError as failure:
        print(f"error: {failure}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return INTERRUPTED
    except OSError as failure:
        print(f"error: {failure.filename or 'input/output'}: {failure.strerror or failure}", file=sys.stderr)
    return 1
