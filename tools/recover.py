"""Mends what a `dvc` that was killed has left half written; `make repro` and `make run` begin with it.

DVC writes dvc.lock, and its list of who works on which file, in place. Killed meanwhile, it refuses to read them from
then on. Neither holds anything that is not elsewhere: git has the committed dvc.lock, and DVC's run cache the results
of every stage that was finished since.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

from dvc.dvcfile import LOCK_FILE, Lockfile  # type: ignore[import-untyped]
from dvc.exceptions import DvcException  # type: ignore[import-untyped]
from dvc.repo import Repo  # type: ignore[import-untyped]

from pipeline_lib.errors import PipelineError
from pipeline_lib.files import read_json, write_text

DAMAGED: Final = Path(".dvc", "tmp", "dvc.lock.damaged")
"""Where a dvc.lock that can't be read is kept."""


def recover(tree: Path) -> list[str]:
    """Mends a repository, unless another `dvc` is at work in it; returns a sentence for each file that was mended."""
    try:
        repository = Repo(str(tree))
        with repository.lock:
            return [*_lock_file(repository, tree), *_list_of_processes(tree)]
    except DvcException:  # there is none, or it is locked: the `dvc` that comes next says so
        return []


def _lock_file(repository: Repo, tree: Path) -> list[str]:
    path, kept = tree / LOCK_FILE, tree / DAMAGED
    if _is_read(repository, path):
        return []
    path.replace(kept)
    told = f"{path}: can't be read, as if dvc had been killed while it wrote it; it lies in {kept} now, "
    committed = subprocess.run(
        ["git", "show", f":./{LOCK_FILE}"], cwd=tree, capture_output=True, encoding="utf-8", check=False
    )
    if not committed.returncode:
        write_text(path, committed.stdout)
        if _is_read(repository, path):
            return [f"{told}the one that git holds takes its place, and dvc's run cache has what was finished since"]
        path.unlink()
    return [f"{told}dvc makes another, and its run cache has what was finished"]


def _is_read(repository: Repo, path: Path) -> bool:
    """Whether DVC reads a dvc.lock, or there is none."""
    try:
        Lockfile(repository, str(path)).load()
    except DvcException:
        return False
    return True


def _list_of_processes(tree: Path) -> list[str]:
    path = tree / ".dvc" / "tmp" / "rwlock"
    try:
        if path.exists():
            read_json(path)
    except PipelineError:
        path.unlink()
        return [f"{path}: can't be read, as if dvc had been killed while it wrote it; removed, dvc makes it anew"]
    return []


def main() -> None:
    """The command line."""
    for words in recover(Path.cwd()):
        sys.stderr.write(f"{words}\n")


if __name__ == "__main__":
    main()
