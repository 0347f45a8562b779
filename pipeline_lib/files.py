"""Files that appear whole or not at all, and keys that tell whether unfinished work still fits its inputs."""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from pipeline_lib.errors import PipelineError

LIBRARY = Path(__file__).resolve().parent
# DVC runs `dvc exp run --temp` and `--queue` in copies of the repository below this folder of the real one.
EXPERIMENTS = (".dvc", "tmp", "exps")
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}
"""What renaming a folder fails with where another has the name."""
A_DAY: Final = 86_400.0
SEAL: Final = "digest"
"""Key of a JSON object that holds the digest of all others."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the name `path` when the block ends, and only then.

    A block that fails leaves `path` as it was and removes what it wrote; what a killed process wrote is removed by the
    next one that writes `path` (`temporary`).

    Raises:
        PipelineError: there is no room; names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = temporary(path)
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


def temporary(path: Path) -> Path:
    """A new hidden name beside `path` for what is to take its place; removes what killed processes left for `path`.

    It tells the machine and the process, and no two are alike, so that several writers on one shared folder leave one
    another's alone.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if is_left(left):
            remove(left)
    return path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def is_left(place: Path) -> bool:
    """Whether nobody writes any more to a file or folder that `temporary` named.

    Its process is gone from this machine; what other machines or earlier versions wrote has not changed for a day.
    """
    parts = place.name.split(".")[-4:]
    if parts[0] == _machine() and len(parts) == 4 and parts[1].isdecimal() and _is_gone(int(parts[1])):
        return True
    try:
        # Not the time of the content, which copies take over.
        changed = max(each.lstat().st_ctime for each in (place, *place.rglob("*")))
    except OSError:  # whoever writes it moves it just now
        return False
    return time.time() - changed > A_DAY


def remove(place: Path) -> None:
    """Removes a file or a folder, if it is there and may be removed."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(OSError):
            place.unlink()


def _is_gone(process: int) -> bool:
    """Whether no process of this machine has that number; never on Windows, where asking would end it."""
    if os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's
        return False
    try:  # Linux lists one that has ended until its parent asks, and the first process of a container may never ask
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except (OSError, UnicodeDecodeError):
        return False


@cache
def _machine() -> str:
    """This machine's name with a digest of what tells apart machines and containers that have one name."""
    facts = [socket.gethostname()]
    with suppress(OSError):  # Linux has both
        facts += [
            Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return f"{re.sub('[^A-Za-z0-9]', '-', facts[0])[:32]}-{digest_of(facts)[:8]}"


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


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object with its own digest, for `read_sealed`."""
    write_json(path, {**values, SEAL: digest_of(values)})


def read_sealed(path: Path) -> Any:
    """Reads a JSON file, and checks the digest of an object that has one; older files have none.

    Raises:
        PipelineError: as `read_json`, or it has changed.
    """
    values = read_json(path)
    seal = values.pop(SEAL, None) if isinstance(values, dict) else None
    if seal is not None and seal != digest_of(values):
        raise PipelineError(
            f"{path}: has changed since it was written, a bit may have flipped; run the stage that writes it again, or "
            f'take out its line "{SEAL}" if you have changed it yourself'
        )
    return values


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
    arriving = temporary(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(finished, arriving)
    except OSError as failure:
        remove(arriving)
        # A copy that fails lists every file.
        why = failure.strerror or str(failure)[:200]
        raise PipelineError(
            f"{out}: {finished} can't be moved there ({why}); make room or give the right to write there and run again"
        ) from failure
    while True:
        try:
            arriving.rename(out)
        except OSError as failure:
            if failure.errno not in TAKEN:
                raise
        else:
            return
        old = temporary(out)
        with suppress(FileNotFoundError):  # another process publishes there too
            out.rename(old)
        remove(old)


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Yields a path beside `out` to make a folder at; it takes the place of `out` when the block ends, and only then.

    Raises:
        PipelineError: as `publish_folder`.
    """
    aside = temporary(out)
    try:
        yield aside
        publish_folder(aside, out)
    finally:
        remove(aside)


@contextmanager
def exclusive(scratch: Path) -> Iterator[None]:
    """Makes a scratch folder and holds its lock, so that of two processes with the same work one waits for the other.

    Whoever had to wait finds finished work in the folder, or none of it if it has been published: so look what is there
    inside the block, and make what is missing.

    Args:
        scratch: the folder. Its lock is a hidden file beside it, which stays, since removing it would let a third in.
    """
    with locked(scratch):
        scratch.mkdir(exist_ok=True)
        yield


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Holds the lock of a place; whoever waits for it is told for which process, where, and since when that works.

    Args:
        place: which need not be there. Beside it lie its lock, as in `exclusive`, and who holds it, both hidden.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(place.with_name(f".{place.name}.lock")), place.with_name(f".{place.name}.holder")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        sys.stderr.write(f"{place}: {held_by(holder)} works on the same; waiting until it is done\n")
        lock.acquire(poll_interval=0.5)
    try:
        with holding(holder):
            yield
    finally:
        lock.release()


@contextmanager
def holding(holder: Path) -> Iterator[None]:
    """Says in a file who holds a lock, and since when, as long as the block lasts; `held_by` reads it."""
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(holder, {"process": os.getpid(), "machine": socket.gethostname(), "since": since})
        yield
    finally:
        holder.unlink(missing_ok=True)


def held_by(holder: Path) -> str:
    """Who holds a lock, in words, by the file that `holding` writes."""
    try:
        return "process {process} on {machine} (since {since})".format(**read_json(holder))
    except (PipelineError, TypeError, LookupError):  # it begins just now
        return "another process"


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
