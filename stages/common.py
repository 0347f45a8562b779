"""What every stage script needs: the repository root, its params, and errors told in a sentence."""

from __future__ import annotations

import inspect
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType


def tell(kind: type[BaseException], failure: BaseException, trace: TracebackType | None) -> None:
    """Tells an error that nobody caught; Ctrl-C, which may come while libraries are loaded, in a sentence."""
    if issubclass(kind, KeyboardInterrupt):
        tell_interrupt()
    else:
        sys.__excepthook__(kind, failure, trace)


def tell_interrupt() -> None:
    """Says that the stage ends by Ctrl-C; another one then ends it at once, in silence."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stderr.write("interrupted; finished parts are kept\n")
    signal.signal(signal.SIGINT, signal.SIG_DFL)


sys.excepthook = tell
PARENT = os.getppid()  # asked before libraries are loaded, which takes seconds
# The tree that holds this script, not the working directory: `dvc exp run --temp` works in a copy of its own.
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline_lib.errors import INTERRUPTED, PipelineError, in_words  # noqa: E402
from pipeline_lib.files import locked, read_yaml, repository  # noqa: E402
from pipeline_lib.params import Params, parse  # noqa: E402

# In the real repository, so that an experiment that was cut off goes on where it stopped.
SCRATCH = repository(ROOT) / ".scratch"


def load_params(path: Path = ROOT / "params.yaml") -> Params:
    """Reads and checks a params file."""
    return parse(read_yaml(path), source=str(path))


def run(stage: Callable[[Params, Path, Path], None]) -> None:
    """Calls `stage(params, data folder, metrics folder)`; a PipelineError becomes one message and exit status 1.

    A second run of the stage in this tree waits until the first is done: they would write the same files. Of processes
    that torchrun has started the first one waits, and the others for it.
    """
    data, metrics = ROOT / "data", ROOT / "metrics"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that a terminal can't show
    _end_with_dvc()
    try:
        params = load_params()
        data.mkdir(parents=True, exist_ok=True)
        metrics.mkdir(parents=True, exist_ok=True)
        place = ROOT / ".scratch" / Path(inspect.getfile(stage)).stem
        with nullcontext() if _follows() else locked(place):
            stage(params, data, metrics)
    except PipelineError as failure:
        sys.exit(f"error: {failure}")
    except OSError as failure:
        sys.exit(f"error: {in_words(failure)}; finished parts are kept")
    except KeyboardInterrupt:
        tell_interrupt()
        sys.exit(INTERRUPTED)


def _follows() -> bool:
    """Whether torchrun has started this process as another than the first; asked of it without loading torch."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0"


def _end_with_dvc() -> None:
    """Ends the stage soon after the `dvc` that runs it was killed.

    What it would finish is lost anyway: the next `dvc repro` removes it and begins with the parts that are kept.
    """

    def watch() -> None:
        while os.getppid() == PARENT:
            time.sleep(0.5)
        sys.stderr.write("error: dvc, which ran this stage, is gone; finished parts are kept, run `dvc repro` again\n")
        sys.stderr.flush()
        os._exit(1)

    if "DVC_STAGE" in os.environ:  # set by DVC
        threading.Thread(target=watch, daemon=True).start()
