"""What a reader of a data set is: it lists images and opens them.

A new data set is a module with one class, mostly a `FileSource`, and its line in `registry.DATASETS`.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline_lib import params, registry
from pipeline_lib.data import remote
from pipeline_lib.data.images import BadImage, decode
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file, resolve_path


@dataclass(frozen=True)
class Entry:
    """One image that a reader found; nothing is opened yet."""

    image_id: str  # unique in the catalog
    dataset: str  # the data set's name
    role: str  # "pretext", "gallery" or "query"; "reserved" for images that must only stay out of training
    domain: str  # "photo" or "sketch"
    path: str  # POSIX, relative to the source's root
    class_name: str = ""  # "" where unknown
    instance_id: str = ""  # of a sketch, the image_id of the photo it depicts; "" is the image's own id
    group_id: str = ""  # shared by images that must be in the same split; "" is a group of its own
    name: str = ""  # the original's, by which it is recognised across data sets (VOC: "2008_000123"); "" for none


@dataclass(frozen=True)
class Excluded:
    """An image that was left out: columns as in `schemas.EXCLUDED`."""

    path: str
    dataset: str
    reason: str
    detail: str


class Source(Protocol):
    """A reader of one data set. It is small and picklable: worker processes get a copy.

    A reader in the registry also has the class method `of(catalog, base)`, see `FileSource.of`.
    """

    @property
    def recognises(self) -> bool:
        """Whether equal fingerprints mean the same photo; False where the reader has removed duplicates itself."""

    @property
    def trains_on_gallery(self) -> bool:
        """Whether gallery photos may be trained on (one's own photos may: there are no labels to leak)."""

    def entries(self) -> Iterable[Entry]:
        """The images of the catalog, always in the same order.

        Raises:
            PipelineError: the data set is missing or empty.
        """

    def reserved(self) -> Iterable[Entry]:
        """Images that must stay out of training but are neither gallery nor query."""

    def excluded(self) -> Iterable[Excluded]:
        """Images that the reader itself left out."""

    def signature(self, path: str) -> str:
        """Changes whenever the image at `path` may have changed; opens nothing."""

    def content(self, path: str) -> str:
        """SHA-256 (hex) of what the image is made from; for files, of the file's bytes."""

    def load(self, path: str, domain: str, image_id: str) -> NDArray[np.uint8]:
        """The image, uint8[H, W, 3], RGB.

        Raises:
            BadImage: it can't be read; says why.
        """


@dataclass(frozen=True)
class FileSource:
    """What all readers of image files share; a subclass adds `entries`."""

    # The folder that paths are relative to; one of `remote.open_address` too. A path may be an address itself.
    root: Path
    max_pixels: int  # larger images are refused before they are decoded
    recognises: ClassVar[bool] = True
    trains_on_gallery: ClassVar[bool] = False

    @classmethod
    def of(cls, catalog: params.Catalog, base: Path) -> Self:
        """The reader that section `catalog` asks for; `base` as in `root_of`, errors too."""
        return cls(root_of(catalog, base), catalog.max_pixels)

    def reserved(self) -> Iterable[Entry]:
        """None, unless a data set says otherwise."""
        return ()

    def excluded(self) -> Iterable[Excluded]:
        """None, unless a data set says otherwise."""
        return ()

    def signature(self, path: str) -> str:
        """See `signature_of`."""
        return signature_of(self.place(path))

    def content(self, path: str) -> str:
        """See `digest_of_file`."""
        return digest_of_file(self.place(path))

    def place(self, path: str) -> Path:
        """Where an image is; errors as in `remote.place_of`."""
        return remote.place_of(path) if remote.is_address(path) else self.root / path

    def load(self, path: str, domain: str, image_id: str, short_side: int = 0) -> NDArray[np.uint8]:  # noqa: ARG002
        """The image, uint8[H, W, 3], RGB; `short_side` as `decode` takes it.

        Raises:
            BadImage: the file is missing, is no image or holds more than `max_pixels`.
        """
        return decode(self.read(path), max_pixels=self.max_pixels, short_side=short_side)

    def read(self, path: str) -> bytes:
        """The bytes of a file that may hold an image.

        Raises:
            BadImage: there is no such file, or it is larger than an image of `max_pixels` can be.
        """
        try:
            with remote.told():
                file = self.place(path)
                found = file.stat()
            if not stat.S_ISREG(found.st_mode):
                raise BadImage("not a regular file")
            # The most that an image of the allowed size takes: 4 uncompressed channels of 16 bits, and some metadata.
            if found.st_size > 8 * self.max_pixels + (64 << 20):
                raise BadImage(f"{found.st_size} bytes are more than an image of max_pixels {self.max_pixels} can need")
            with remote.told():
                return file.read_bytes()
        except OSError as failure:
            raise BadImage(failure.strerror or str(failure)) from failure


MISSING: Final = "missing"
"""The signature of a file that is not there, or that can't be asked for."""


def signature_of(file: Path | str) -> str:
    """What the system tells of a file without opening it; `MISSING` where there is none.

    Whoever changes a file may set its size and time back, but not the time of that change, nor the number (inode) that
    another file in its place has.
    """
    try:
        if remote.is_remote(file):
            return remote.signature(file)
        found = os.stat(file)  # noqa: PTH116  of a million paths no Path is made
    except OSError:
        return MISSING
    # exFAT and FAT keep no time of change and give each file another number whenever the drive is plugged in.
    number = found.st_ino if found.st_ctime_ns != found.st_mtime_ns else 0
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}-{number}"


def root_of(catalog: params.Catalog, base: Path) -> Path:
    """The folder that `catalog.root` names; a relative one leads from the repository root `base`.

    Raises:
        PipelineError: it is no folder, begins with "~", or is an address that nothing here opens.
    """
    if remote.is_address(catalog.root):
        return remote.open_address(catalog.root, "catalog.root")
    root = resolve_path(catalog.root, base, "catalog.root")
    if not root.is_dir():
        raise PipelineError(f"catalog.root: {root} is not a folder; set it to the one that holds the images")
    return root


def open_source(catalog: params.Catalog, base: Path) -> Source:
    """The reader of `catalog.dataset`; `base` as in `root_of`, errors too."""
    source: Source = registry.load(registry.DATASETS[catalog.dataset]).of(catalog, base)
    return source
