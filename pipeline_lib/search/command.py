"""What the commands of search share: options, which run they mean, and failures told in a sentence."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline_lib.errors import INTERRUPTED, PipelineError, in_words
from pipeline_lib.files import LIBRARY

PIPELINE: Final = LIBRARY.parent / "data"
"""The run that `make repro` makes."""


def box() -> Path:
    """The folder of the model that comes with the program: in its package, or in the repository."""
    installed = LIBRARY / "box"
    return installed if installed.is_dir() else LIBRARY.parent / "models" / "photos"


def add_run(parser: argparse.ArgumentParser, default: Path | None = PIPELINE) -> None:
    """Adds `--run`, the folder of a run; by default `default`, or None, which leaves the choice to the command."""
    parser.add_argument(
        "--run", type=Path, default=default, metavar="FOLDER",
        help="another finished run than the one meant: models/photos comes with the program, `make repro` makes data, "
        "`make run RECIPE=NAME` makes data/runs/NAME",
    )  # fmt: skip


def add_gallery(parser: argparse.ArgumentParser) -> None:
    """Adds `--gallery`, as `open_engine` takes it."""
    parser.add_argument(
        "--gallery", choices=["auto", "own", "pipeline"], default="auto",
        help="what is searched: your own photos, a run's pictures, or the first of these that there is (auto)",
    )  # fmt: skip


def up_to(most: int) -> Callable[[str], int]:
    """The type of an option that takes a number from 1 to `most`."""

    def number(text: str) -> int:
        value = int(text) if text.isdecimal() else 0
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {most}")
        return value

    return number


def ended(work: Callable[[argparse.Namespace], int], asked: argparse.Namespace) -> int:
    """Runs a command's work; a failure is one sentence on standard error and exit status 1."""
    try:
        return work(asked)
    except PipelineError as failure:
        print(f"error: {failure}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return INTERRUPTED
    except OSError as failure:
        print(f"error: {in_words(failure)}", file=sys.stderr)
    return 1
