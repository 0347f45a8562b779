"""What every stage script needs: the repository root, its params, and errors told in a sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

# The tree that holds this script, not the working directory: `dvc exp run --temp` works in a copy of its own.
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline_lib.errors import PipelineError, in_words  # noqa: E402
from pipeline_lib.files import read_yaml, repository  # noqa: E402
from pipeline_lib.params import Params, parse  # noqa: E402

INTERRUPTED = 130
# In the real repository, so that an experiment that was cut off goes on where it stopped.
SCRATCH = repository(ROOT) / ".scratch"


def load_params(path: Path = ROOT / "params.yaml") -> Params:
    """Reads and checks a params file."""
    return parse(read_yaml(path), source=str(path))


def run(stage: Callable[[Params, Path, Path], None]) -> None:
    """Calls `stage(params, data folder, metrics folder)`; a PipelineError becomes one message and exit status 1."""
    data, metrics = ROOT / "data", ROOT / "metrics"
    try:
        params = load_params()
        data.mkdir(parents=True, exist_ok=True)
        metrics.mkdir(parents=True, exist_ok=True)
        stage(params, data, metrics)
    except PipelineError as failure:
        sys.exit(f"error: {failure}")
    except OSError as failure:
        sys.exit(f"error: {in_words(failure)}; finished parts are kept")
    except KeyboardInterrupt:
        print("interrupted; finished parts are kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
