"""The one exception of this program: what went wrong, where, and the way out; and the system's own words."""

from typing import Final

INTERRUPTED: Final = 130
"""The exit status of a command that Ctrl-C ended, as shells have it."""


class PipelineError(Exception):
    """A failure that the user can act on.

    The message names the file or the params key and says what to do. Stages print it alone, without a traceback.
    """


def in_words(failure: OSError) -> str:
    """A failure of the system, a full disk or a missing right: the file that it names, and why."""
    return f"{failure.filename or 'input/output'}: {failure.strerror or failure}"
