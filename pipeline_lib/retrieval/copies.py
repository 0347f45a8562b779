"""Networks of other runs that take part in this one: copies of them below its embeddings.

This module imports neither torch nor faiss.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline_lib.data.files import digest_of_file, read_json, resolve_path, write_json
from pipeline_lib.errors import PipelineError

FOLDER = "beside"
"""Below a folder of embeddings; the copies in it are numbered in the order of `embed.beside`."""
FILES = ("meta.json", "encoder.safetensors")
SETTINGS = "embed.json"


def take(runs: list[tuple[str, str]], root: Path, embeddings: Path) -> None:
    """Copies the networks of other runs, so that a run can be searched without them.

    Args:
        runs: `Embed.runs`.
        root: of the tree that the stage runs in, from which relative folders lead as `catalog.root` does.
        embeddings: the folder below which the copies go; what is there goes.

    Raises:
        PipelineError: a folder holds no finished run, or its weights have another digest; names the params key.
    """
    members = [member for folder, digest in runs for member in _members(root, folder, digest)]
    shutil.rmtree(embeddings / FOLDER, ignore_errors=True)
    for number, (model, settings) in enumerate(members):
        target = embeddings / FOLDER / str(number)
        target.mkdir(parents=True)
        for file in FILES:
            shutil.copy2(model / file, target)
        write_json(target / SETTINGS, settings)


def _members(root: Path, name: str, digest: str) -> list[tuple[Path, object]]:
    """The model folders of a run, its own and those beside it, and how each embeds."""
    run = resolve_path(name, root, "embed.beside")
    record = run / "embeddings" / "system.json"
    if not record.exists() or not all((run / "model" / file).exists() for file in FILES):
        raise PipelineError(f"embed.beside: {name}: there is no finished run in {run}; make it, or leave it out")
    settings = read_json(record).get("embed")
    if settings is None:
        raise PipelineError(f"embed.beside: {record} does not say how its network embeds; make that run again")
    found = digest_of_file(run / "model" / FILES[1]) if digest else ""
    if not found.startswith(digest):
        raise PipelineError(
            f"embed.beside: the weights in {run / 'model'} are {found[:12]}..., not {digest}; the run was made again "
            f"since: write {name}@{found[:12]}"
        )
    others = copies(run / "embeddings")
    return [(run / "model", settings), *((folder, read_json(folder / SETTINGS)) for folder in others)]


def copies(embeddings: Path) -> list[Path]:
    """The folders of the copied networks, in their order; each holds FILES and SETTINGS."""
    # File managers leave files of their own, such as .DS_Store.
    numbered = (folder for folder in (embeddings / FOLDER).glob("*") if folder.name.isdecimal())
    return sorted(numbered, key=lambda folder: int(folder.name))
