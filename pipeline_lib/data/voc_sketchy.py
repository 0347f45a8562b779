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

MORE = "photos"
# Names that VOC and ImageNet give. Any other name (1.jpg, cat.jpg) identifies no photo.
KNOWN_NAME = re.compile(r"\d{4}_\d{6}|n\d{8}_\d+")


@dataclass(frozen=True)
class VocSketchySource(FileSource):
    """Real photos: role pretext from VOC and `photos/`, role gallery and query from Sketchy."""

    rendering: params.Rendering  # which Sketchy renderings to read

    @classmethod
    def of(cls, catalog: params.Catalog, base: Path) -> Self:
        """See `FileSource.of`."""
        return cls(root_of(catalog, base), catalog.max_pixels, catalog.rendering)

    def entries(self) -> Iterator[Entry]:
        """VOC, then `photos/` if it is there, then Sketchy's photos and sketches."""
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
