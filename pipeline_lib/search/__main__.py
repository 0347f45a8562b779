"""The one console command: `drawfind serve | index | search | export`, also `python -m pipeline_lib.search`."""

import argparse
import importlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence
from typing import Final

from pipeline_lib.search.command import ended

PACKAGE: Final = "sketch-context-retrieval"
COMMANDS: Final = {
    "serve": ("serve", "indexes your photos and opens the page that finds them by drawing"),
    "index": ("index_photos", "indexes folders of photos; run again, it embeds only what is new"),
    "search": ("find", "prints the photos that drawings depict, or that are like other photos"),
    "export": ("export", "writes a finished run as a small folder that is searched without torch"),
}
"""Name -> module of this package, with `add_arguments(parser)` and `run(asked) -> exit status`, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that a terminal can't show
    # OpenMP's threads, FAISS's and torch's, by default wait for one another at full speed, and beside other work keep
    # one another from the core: FAISS took 16 ms for eight queries beside two busy processes, and takes 4.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    parser = argparse.ArgumentParser(prog="drawfind", description="Finds your photos by drawing.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, words) in COMMANDS.items():
        command = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
        if name in given[:1]:  # the others' libraries are not loaded
            chosen = importlib.import_module(f"pipeline_lib.search.{module}")
            chosen.add_arguments(command)
            command.set_defaults(work=chosen.run)
    asked = parser.parse_args(given)
    return ended(asked.work, asked)


def _version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "of the repository, not installed"


if __name__ == "__main__":
    sys.exit(main())
