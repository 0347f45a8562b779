"""`drawfind export FOLDER --run RUN`: a finished run as a small folder to carry, searched without torch.

The folder is a run too: its record, the network as ONNX with half-precision weights, and the alignment that its params
name. It holds no photo, no vector and no index.
"""

import argparse
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from pipeline_lib.embedding.alignment import FILE_NAME, Alignment
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file, replacing_folder, write_sealed
from pipeline_lib.run import META, RECORD, Run
from pipeline_lib.search.command import add_run

WHERE: Final = "see README.md"
"""In place of the folder of images that the run was made from."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folder", type=Path, help="where the exported run goes; an older one there is replaced")
    add_run(parser)


def run(asked: argparse.Namespace) -> int:
    """Exports; returns the exit status."""
    size = export(Run.open(asked.run), asked.folder)
    print(f"{asked.folder}: {size / 1e6:.1f} MB")
    return 0


def export(run: Run, folder: Path) -> int:
    """Writes the exported run, whole or not at all; other files that lie in the folder, such as a README, stay.

    Args:
        run: a finished run.
        folder: where it goes.

    Returns:
        Bytes that it takes.

    Raises:
        PipelineError: the run can't be exported, or what that needs is not installed.
    """
    if "exported" in run.record:
        raise PipelineError(f"{run.folder}: is an exported run already; copy the folder")
    try:
        from pipeline_lib.embedding.exporting import export_network  # noqa: PLC0415  whoever searches needs no torch
        from pipeline_lib.embedding.networks import open_networks  # noqa: PLC0415
    except ModuleNotFoundError as failure:
        raise PipelineError(f"exporting needs {failure.name}; install the whole program with `make setup`") from failure
    with replacing_folder(folder) as aside:
        _fill(aside, folder, run, partial(export_network, open_networks(run)))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _fill(aside: Path, folder: Path, run: Run, write: Callable[[Path], None]) -> None:
    """Puts the exported run into `aside`, with what lies in `folder`; `write` writes its network."""
    made = Run(aside, run.params, run.root)
    if folder.is_dir():
        shutil.copytree(folder, aside)
        for old in ("model", "embeddings"):
            shutil.rmtree(aside / old, ignore_errors=True)
    made.model.mkdir(parents=True)
    made.embeddings.mkdir()
    write(made.exported)
    shutil.copy2(run.model / META, made.model / META)
    kind = run.params.retrieval.alignment
    if kind != "none":
        Alignment.load(run.embeddings / FILE_NAME).only(kind).save(made.embeddings / FILE_NAME)
    params = run.params.model_dump(mode="json")
    params["catalog"]["root"] = WHERE  # a folder of this machine says nothing on another
    digests = {"exported": digest_of_file(made.exported), "files": made.digests(), "gallery": {}}
    write_sealed(aside / RECORD, {**run.record, "params": params, **digests})
    for path in aside.rglob("*"):  # whoever installs it may not be whoever uses it
        path.chmod(0o755 if path.is_dir() else 0o644)
