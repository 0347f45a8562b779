"""VOC 2012 and any other photos to train on, Sketchy to search, Li 2014 reserved for its own benchmark."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline_lib import params
from pipeline_lib.data import li2014, sketchy, voc
from pipeline_lib.data.folder import image_files, left_out
from pipeline_lib.data.source import Entry, Excluded, FileSource, root_of

# Names that VOC and ImageNet give. Any other name (1.jpg, cat.jpg) identifies no photo.
KNOWN_NAME = re.compile(r"\d{4}_\d{6}|n\d{8}_\d+")


@dataclass(frozen=True)
class VocSketchySource(FileSource):
    """Real photos: role pretext from VOC and folders of any other photos, role gallery and query from Sketchy."""

    rendering: params.Rendering  # which Sketchy renderings to read
    photos: tuple[str, ...] = ("photos",)  # folders below the root whose photos join VOC's, as far as they are there

    @classmethod
    def of(cls, catalog: params.Catalog, base: Path) -> Self:
        """See `FileSource.of`."""
        return cls(root_of(catalog, base), catalog.max_pixels, catalog.rendering, tuple(catalog.photos))

    def entries(self) -> Iterator[Entry]:
        """VOC, then the other photos that are there, then Sketchy's photos and sketches."""
        yield from voc.entries(self.root)
        for folder in self._there():
            for inside in image_files(self.root / folder):
                stem = Path(inside).stem
                name = stem if KNOWN_NAME.fullmatch(stem) else ""
                yield Entry(f"{folder}/{inside}", folder, "pretext", "photo", f"{folder}/{inside}", name=name)
        yield from sketchy.entries(self.root, self.rendering)

    def reserved(self) -> Iterator[Entry]:
        """The photos of the Li 2014 benchmark."""
        return li2014.reserved(self.root)

    def excluded(self) -> Iterator[Excluded]:
        """Files among the other photos whose names can't be stored."""
        for folder in self._there():
            for inside, why in left_out(self.root / folder):
                yield Excluded(f"{folder}/{inside}", folder, "unreadable", why)

    def _there(self) -> list[str]:
        return [folder for folder in self.photos if (self.root / folder).is_dir()]
