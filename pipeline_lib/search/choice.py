"""What a search command means where it is not told: one's own photos first, else what `make repro` has made."""

import argparse

from pipeline_lib.errors import PipelineError
from pipeline_lib.run import RECORD, Run
from pipeline_lib.search.command import PIPELINE, add_gallery, add_run, box
from pipeline_lib.search.own_record import own_state

NOTHING = (
    "no photos are indexed yet; name the folder that holds yours: `drawfind serve --photos FOLDER`, or "
    "`make serve PHOTOS=/folder`"
)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `chosen` reads, but for `--index`."""
    add_gallery(parser)
    add_run(parser, None)


def chosen(asked: argparse.Namespace) -> tuple[Run, str]:
    """The run to search with, and what of it, as `open_engine` takes it.

    An index of one's own photos is never passed over, not even one that is unfinished: `open_engine` then says so.

    Raises:
        PipelineError: there is nothing to search yet, or the run can't be used; says what to do.
    """
    if asked.run is not None or asked.index is not None:
        return Run.open(asked.run or box()), "own" if asked.index else asked.gallery
    if asked.gallery != "pipeline" and (box() / RECORD).exists():
        own = Run.open(box())
        if own_state(own) != "none":
            return own, "own"
    if asked.gallery == "own" or not (PIPELINE / RECORD).exists():
        raise PipelineError(NOTHING)
    return Run.open(PIPELINE), asked.gallery
