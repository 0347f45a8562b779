"""VOC 2012 (and more photos of one's own) to train on, Sketchy to search, Li 2014 kept apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.data import li2014, sketchy, voc
from pipeline_lib.data.folder import image_files, left_out
from pipeline_lib.data.source import Entry, Excluded, FileSource
from pipeline_lib.params import Rendering

MORE = "photos"
# Names that VOC and ImageNet give; any other (1.jpg, cat.jpg) says nothing about what the photo is.
KNOWN_NAME = re.compile(r"\d{4}_\d{6}|n\d{8}_\d+")


@dataclass(frozen=True)
class VocSketchySource(FileSource):
    """Real photos: role pretext from VOC and `photos/`, role gallery and query from Sketchy.

    Attributes:
        rendering: which Sketchy renderings to read.
    """

    rendering: Rendering

    def entries(self) -> Iterator[Entry]:
        """VOC, then `photos/` where there is such a folder, then Sketchy's photos and sketches."""
        yield from voc.entries(self.root)
        if (self.root / MORE).is_dir():
            for inside in image_files(self.root / MORE):
                stem = Path(inside).stem
                name = stem if KNOWN_NAME.fullmatch(stem) else ""
                yield Entry(f"{MORE}/{inside}", MORE, "pretext", "photo", f"{MORE}/{inside}", name=name)
        yield from sketchy.entries(self.root, self.rendering)

    def reserved(self) -> Iterator[Entry]:
        """The photos of the Li 2014 benchmark."""
        return li2014.reserved(self.root)

    def excluded(self) -> Iterator[Excluded]:
        """Files in `photos/` whose names can't be stored."""
        if (self.root / MORE).is_dir():
            for inside, why in left_out(self.root / MORE):
                yield Excluded(f"{MORE}/{inside}", MORE, "unreadable", why)
