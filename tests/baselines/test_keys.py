"""Keys of stored results hold the code that could have changed them, however it is reached."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_lib import closure
from pipeline_lib.baselines.alexnet import SYSTEMS as ALEXNET
from pipeline_lib.baselines.hog import SYSTEMS as HOG
from pipeline_lib.baselines.run import key_of
from pipeline_lib.baselines.runs import TrainedRun
from pipeline_lib.baselines.system import Benchmark, System
from pipeline_lib.closure import digest_of_imports, imported_files
from pipeline_lib.files import write_text
from tests.conftest import ROOT


class Ours(TrainedRun):
    """A run of ours, whose artefacts have no say here."""

    def learned_from(self, training: object) -> tuple[object, ...]:  # noqa: ARG002
        return ()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the library to edit, from which keys are taken."""
    copied = tmp_path / "tree" / "pipeline_lib"
    shutil.copytree(ROOT / "pipeline_lib", copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(closure, "LIBRARY", copied)
    return copied


@pytest.mark.parametrize("system", [ALEXNET[0], Ours("source")], ids=["alexnet", "ours"])
@pytest.mark.parametrize(
    "module", ["models/alexnet.py", "models/weights.py", "models/inputs.py", "baselines/embedding.py"]
)
def test_an_edited_file_voids_the_results_of_a_system_that_builds_on_it(
    system: System, module: str, library: Path, benchmark_of: Callable[..., Benchmark]
) -> None:
    training = benchmark_of().training
    before = key_of(system, training)
    assert key_of(system, training) == before
    with (library / module).open("a") as stream:
        stream.write("\nEDITED = 1\n")
    assert key_of(system, training) != before


def test_a_file_that_a_system_does_not_import_leaves_its_results(
    library: Path, benchmark_of: Callable[..., Benchmark]
) -> None:
    training = benchmark_of().training
    keys = [key_of(system, training) for system in (HOG[0], ALEXNET[0])]
    for module in ("search/serve.py", "report/charts.py", "baselines/supervised/recipe.py"):
        with (library / module).open("a") as stream:
            stream.write("\nEDITED = 1\n")
    assert [key_of(system, training) for system in (HOG[0], ALEXNET[0])] == keys


def test_values_that_were_measured_are_void_when_what_measures_them_changes(library: Path) -> None:
    script = library / "baselines" / "measure.py"
    for module in ("evaluation/metrics.py", "evaluation/similarity.py", "index/ranking.py", "embedding/whitening.py"):
        before = digest_of_imports(script)
        with (library / module).open("a") as stream:
            stream.write("\nEDITED = 1\n")
        assert digest_of_imports(script) != before, module


def test_a_module_that_imports_the_registry_counts_what_it_names_of_its_room(tmp_path: Path) -> None:
    write_text(
        tmp_path / "pipeline_lib" / "registry.py",
        'A = "pipeline_lib.models.deep:net"\nB = "pipeline_lib.data.files:F"\n',
    )
    for name in ("models/deep.py", "data/files.py"):
        write_text(tmp_path / "pipeline_lib" / name, "")
    write_text(tmp_path / "pipeline_lib" / "models" / "build.py", "from pipeline_lib import registry\n")
    write_text(tmp_path / "pipeline_lib" / "models" / "other.py", "import math\n")
    write_text(tmp_path / "stages" / "one.py", "from pipeline_lib.models.build import build\nimport common\n")
    write_text(tmp_path / "stages" / "common.py", "")
    assert imported_files(tmp_path / "stages" / "one.py", tmp_path) == {
        "stages/one.py",
        "stages/common.py",
        "pipeline_lib/registry.py",
        "pipeline_lib/models/build.py",
        "pipeline_lib/models/deep.py",
    }
