"""Files that appear whole or not at all, and keys that tell whether unfinished work still fits its inputs."""

import errno
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline_lib.errors import PipelineError

LIBRARY = Path(__file__).resolve().parent
# DVC runs `dvc exp run --temp` and `--queue` in copies of the repository below this folder of the real one.
EXPERIMENTS = (".dvc", "tmp", "exps")
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the name `path` when the block ends, and only then.

    A block that fails leaves `path` as it was and removes what it wrote; what a killed process wrote is removed by the
    next one that writes `path`.

    Raises:
        PipelineError: there is no room; names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left.unlink(missing_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        aside.replace(path)
    except Exception as failure:
        if _lacks_room(failure, path.parent):
            raise PipelineError(
                f"{path}: can't be written, the disk is full or a quota is reached; make room and run again, finished "
                f"parts are kept ({failure})"
            ) from failure
        raise
    finally:
        aside.unlink(missing_ok=True)


def _lacks_room(failure: Exception, folder: Path) -> bool:
    """Whether a write failed for want of room. Libraries say so in many ways, or not at all; the disk does plainly."""
    if isinstance(failure, PipelineError):
        return False
    if isinstance(failure, OSError) and failure.errno is not None:
        return failure.errno in NO_ROOM
    return "No space left" in str(failure) or shutil.disk_usage(folder).free < 1 << 20


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, values: object) -> None:
    """Writes `values` as readable JSON in a fixed order of keys as given, whole or not at all."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        PipelineError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as failure:
        raise PipelineError(f"{path}: can't be read ({failure}); run the stage that writes it again") from failure


def read_yaml(path: Path) -> Any:
    """Reads a YAML file as DVC does: YAML 1.2, by the same library.

    YAML 1.1 takes `1e-05`, which `dvc exp run -S` writes, for text, and the last of two equal keys without a word.

    Raises:
        PipelineError: it can't be read, is not UTF-8, names a key twice, or is nested without end.
    """
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415  searching needs no YAML

    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as failure:
        raise PipelineError(f"{path}: is not UTF-8 ({failure}); save it as UTF-8") from failure
    except RecursionError as failure:
        raise PipelineError(f"{path}: is nested too deeply") from failure
    except (OSError, ValueError, YAMLError) as failure:
        raise PipelineError(f"{path}: can't be read ({' '.join(str(failure).split())})") from failure


def parse_yaml(text: str) -> Any:
    """What a piece of YAML says; raises as ruamel.yaml does."""
    from ruamel.yaml import YAML  # noqa: PLC0415

    return YAML(typ="safe", pure=True).load(text)


def publish_folder(finished: Path, out: Path) -> None:
    """Moves a finished scratch folder to its place, in the stead of what was there.

    What was there stays until all has arrived: `out` may lie on another disk, to which a folder is copied.

    Raises:
        PipelineError: it can't be moved; names `out`. What was there and the finished folder are as they were.
    """
    out = out.resolve()  # a link to a folder elsewhere stays one
    arriving, old = (out.with_name(f".{out.name}.{what}.tmp") for what in ("arriving", "old"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in (arriving, old):  # by a killed process
            shutil.rmtree(left, ignore_errors=True)
        shutil.move(finished, arriving)
    except OSError as failure:
        shutil.rmtree(arriving, ignore_errors=True)
        # A copy that fails lists every file.
        why = failure.strerror or str(failure)[:200]
        raise PipelineError(
            f"{out}: {finished} can't be moved there ({why}); make room or give the right to write there and run again"
        ) from failure
    if out.exists():
        out.rename(old)
    arriving.rename(out)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def exclusive(scratch: Path) -> Iterator[None]:
    """Makes a scratch folder and holds its lock, so that of two processes with the same work one waits for the other.

    Whoever had to wait finds finished work in the folder, or none of it if it has been published: so look what is there
    inside the block, and make what is missing.

    Args:
        scratch: the folder. Its lock is a hidden file beside it, which stays, since removing it would let a third in.
    """
    scratch.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(scratch.with_name(f".{scratch.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        sys.stderr.write(f"{scratch}: another process works on the same; waiting until it is done\n")
        lock.acquire(poll_interval=0.5)
    try:
        scratch.mkdir(exist_ok=True)
        yield
    finally:
        lock.release()


def digest_of(*parts: object) -> str:
    """SHA-256 (hex, 64 digits) of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in pieces.

    Raises:
        PipelineError: the file is missing or can't be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as failure:
        raise PipelineError(f"{path}: can't be read ({failure.strerror})") from failure


def repository(base: Path) -> Path:
    """The real repository: `base` itself, or the one that `dvc exp run --temp` and `--queue` have copied to `base`.

    A copy is deleted after its run, so unfinished work, private pictures and data sets stand in the real one.
    """
    parts, width = base.resolve().parts, len(EXPERIMENTS)
    copies = [n for n in range(len(parts) - width) if parts[n : n + width] == EXPERIMENTS]
    return Path(*parts[: copies[0]]) if copies else base.resolve()


def resolve_path(path: str, base: Path, key: str) -> Path:
    """The place that a path in the params means.

    An experiment runs in a copy of the repository that holds tracked files only. A relative path that is part of the
    copy is read there; any other is looked for from the real repository.

    Args:
        path: absolute, or relative to the repository root.
        base: root of the tree that the stage runs in.
        key: of the params, for the message.

    Raises:
        PipelineError: the path begins with "~".
    """
    if path.startswith("~"):
        # It may be a dependency in dvc.yaml, and DVC would look for a folder of that name.
        raise PipelineError(f"{key}: {path}: DVC does not expand ~; write the home folder out")
    here = (base.resolve() / path).resolve()
    if here.is_relative_to(base.resolve()) and here.exists():
        return here
    return (repository(base) / path).resolve()


def digest_of_code(*rooms: str) -> str:
    """SHA-256 (hex) of the library's own source in the given rooms, so that changed code starts afresh.

    Args:
        rooms: names of packages or modules below `pipeline_lib`, such as "data" or "params.py".
    """
    total = hashlib.sha256()
    for room in sorted(rooms):
        place = LIBRARY / room
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            total.update(str(path.relative_to(LIBRARY)).encode())
            total.update(path.read_bytes())
    return total.hexdigest()
