"""Where images come from: what every reader tells of its images, and how a params section becomes a reader."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.files import digest_of_file, resolve_path
from pipeline_lib.data.images import BadImage, decode
from pipeline_lib.errors import PipelineError


@dataclass(frozen=True)
class Entry:
    """One image that a reader found; nothing is opened yet.

    Attributes:
        image_id: unique in the catalog.
        dataset: the data set's name.
        role: "pretext", "gallery" or "query"; "reserved" for images that must only stay out of training.
        domain: "photo" or "sketch".
        path: POSIX, relative to the source's root.
        class_name: "" where unknown.
        instance_id: of a sketch, the image_id of the photo it depicts; "" is the image's own id.
        group_id: images that must not straddle splits share it; "" is a group of its own.
        name: the original image's name, by which it is recognised across data sets (VOC: "2008_000123"); "" for none.
    """

    image_id: str
    dataset: str
    role: str
    domain: str
    path: str
    class_name: str = ""
    instance_id: str = ""
    group_id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Excluded:
    """An image that was left out: columns as in `schemas.EXCLUDED`."""

    path: str
    dataset: str
    reason: str
    detail: str


class Source(Protocol):
    """A reader of one data set. It is small and picklable: worker processes get a copy."""

    @property
    def recognises(self) -> bool:
        """Whether equal fingerprints mean one photo. False where the reader itself has removed what repeats."""

    @property
    def trains_on_gallery(self) -> bool:
        """Whether training photos may be gallery photos too (one's own photos: there are no labels to leak)."""

    def entries(self) -> Iterable[Entry]:
        """The images of the catalog, always in the same order.

        Raises:
            PipelineError: the data set is missing or empty.
        """

    def reserved(self) -> Iterable[Entry]:
        """Images that must stay out of training but are neither gallery nor query."""

    def excluded(self) -> Iterable[Excluded]:
        """Images that the reader left out for reasons of its own."""

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
    """What all sources of image files share.

    Attributes:
        root: the folder that paths are relative to.
        max_pixels: larger images are refused before they are decoded.
    """

    root: Path
    max_pixels: int

    @property
    def recognises(self) -> bool:
        """Photos repeat between data sets, and fingerprints tell which."""
        return True

    @property
    def trains_on_gallery(self) -> bool:
        """Training and gallery are different photos, and must be."""
        return False

    def reserved(self) -> Iterable[Entry]:
        """None, unless a data set says otherwise."""
        return ()

    def excluded(self) -> Iterable[Excluded]:
        """None, unless a data set says otherwise."""
        return ()

    def signature(self, path: str) -> str:
        """Size and time of the file; "missing" where there is none."""
        try:
            found = (self.root / path).stat()
        except OSError:
            return "missing"
        return f"{found.st_size}-{found.st_mtime_ns}"

    def content(self, path: str) -> str:
        """SHA-256 (hex) of the file's bytes.

        Raises:
            PipelineError: the file can't be read.
        """
        return digest_of_file(self.root / path)

    def load(self, path: str, domain: str, image_id: str) -> NDArray[np.uint8]:  # noqa: ARG002  one protocol for all
        """The image, uint8[H, W, 3], RGB.

        Raises:
            BadImage: the file is missing, is no image or holds more than `max_pixels`.
        """
        file = self.root / path
        try:
            found = file.stat()
            if not stat.S_ISREG(found.st_mode):
                raise BadImage("not a regular file")
            # No image of the allowed size takes more: 4 channels of 16 bits, uncompressed, and some metadata.
            if found.st_size > 8 * self.max_pixels + (64 << 20):
                raise BadImage(f"{found.st_size} bytes are more than catalog.max_pixels {self.max_pixels} can need")
            data = file.read_bytes()
        except OSError as failure:
            raise BadImage(failure.strerror or str(failure)) from failure
        return decode(data, max_pixels=self.max_pixels)


def open_source(catalog: params.Catalog, base: Path) -> Source:
    """The reader that section `catalog` asks for.

    Args:
        catalog: the params section.
        base: repository root; a relative `catalog.root` is resolved from it.

    Raises:
        PipelineError: the root is missing, or begins with "~".
    """
    # Readers import this module, and a run needs one of them: the others, and what they need, stay unloaded.
    if catalog.dataset == "openmoji":
        from pipeline_lib.data.openmoji import OpenMojiSource  # noqa: PLC0415

        return OpenMojiSource(catalog.openmoji, catalog.gallery_fraction, catalog.seed)
    root = resolve_path(catalog.root, base, "catalog.root")
    if not root.is_dir():
        raise PipelineError(f"catalog.root: {root} is not a folder; set it to the one that holds the images")
    if catalog.dataset == "voc_sketchy":
        from pipeline_lib.data.voc_sketchy import VocSketchySource  # noqa: PLC0415

        return VocSketchySource(root, catalog.max_pixels, catalog.rendering)
    from pipeline_lib.data.folder import FolderSource  # noqa: PLC0415

    return FolderSource(root, catalog.max_pixels, catalog.sketches)
