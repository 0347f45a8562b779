"""Photos in object stores and behind other addresses: a folder that fsspec opens, used as a path.

`s3://` needs the package s3fs, `gs://` gcsfs; fsspec's documentation lists the others. Who may read is said where these
packages look for it, never in params.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of


def is_address(place: str) -> bool:
    """Whether a place is no path of this machine, such as `s3://bucket/photos`."""
    return "://" in place


def place_of(place: str) -> Path:
    """A path, or what stands for one behind an address; nothing is asked of its store yet.

    Raises:
        OSError: nothing here opens such an address.
    """
    if not is_address(place):
        return Path(place)
    with told():
        from upath import UPath  # noqa: PLC0415  an extra

        return cast("Path", UPath(place))


@contextmanager
def told() -> Iterator[None]:
    """Failures of a store or of the way to it, of which each package has its own, as an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as failure:
        raise OSError(f"{type(failure).__name__}: {failure}") from failure


def open_address(address: str, key: str) -> Path:
    """The folder at an address. It does what a path does, except for what only a local file system can.

    Raises:
        PipelineError: nothing here opens such an address, or there is no folder; names `key` of the params.
    """
    try:
        with told():
            folder = place_of(address)
            found = folder.is_dir()
    except OSError as failure:
        raise PipelineError(
            f"{key}: {address} can't be opened ({failure}); install universal_pathlib and the package by which "
            "fsspec opens such addresses (s3fs, gcsfs, ...), and see that this machine may read there"
        ) from failure
    if not found:
        raise PipelineError(f"{key}: {address} is not a folder; set it to the one that holds the images")
    return folder


def is_remote(path: Path | str) -> bool:
    """Whether a path is one of `open_address`."""
    return not isinstance(path, Path | str)


def forget(place: Any) -> None:
    """Drops what was kept of a store's answers: packages that list folders keep them while the process lives.

    Args:
        place: of `open_address`; a path, of which nothing is kept, may be told, too.

    Raises:
        OSError: the package that opens the address can't.
    """
    if is_remote(place):
        with told():
            place.fs.invalidate_cache()


def names_in(folder: Any) -> list[tuple[str, bool]]:
    """Sorted names in a folder of `open_address` that are not hidden, and whether each is a folder; one request.

    Raises:
        OSError: it can't be listed.
    """
    with told():
        found = folder.fs.ls(folder.path, detail=True)
    named = ((each["name"].rstrip("/").rpartition("/")[2], each["type"] == "directory") for each in found)
    return sorted((name, is_folder) for name, is_folder in named if name and not name.startswith("."))


def signature(file: Any) -> str:
    """What the store tells of a file without opening it: its size and, as the store has it, time, version or digest.

    Raises:
        OSError: it tells nothing: there is no such file, or the store is out of reach.
    """
    with told():
        return digest_of(file.fs.info(file.path))
