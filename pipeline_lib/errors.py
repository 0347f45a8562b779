"""The one exception of this program: what went wrong, where, and the way out; and the system's own words."""

import os
from typing import Final

INTERRUPTED: Final = 130
"""The exit status of a command that Ctrl-C ended, as shells have it."""


class PipelineError(Exception):
    """A failure that the user can act on.

    The message names the file or the params key and says what to do. Stages print it alone, without a traceback, so it
    is `printable`: names of files may hold what a terminal obeys.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(message))


def printable(words: object) -> str:
    r"""Words that may hold a file's name, for any terminal: bytes that are not UTF-8 and control characters as \xNN."""
    text = os.fsencode(str(words)).decode("utf-8", "backslashreplace")
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )


def in_words(failure: OSError) -> str:
    """A failure of the system, a full disk or a missing right: the file that it names, and why."""
    return printable(f"{failure.filename or 'input/output'}: {failure.strerror or failure}")
