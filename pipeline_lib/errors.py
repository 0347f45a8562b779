"""The one exception of this program: what went wrong, where, and the way out."""

from __future__ import annotations


class PipelineError(Exception):
    """A failure that the user can act on.

    The message names the file or the params key and says what to do. Stages print it alone, without a traceback.
    """
