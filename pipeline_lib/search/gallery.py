"""Photos of an index, row by row, and where each is read."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.data.images import BadImage
from pipeline_lib.data.schemas import read_table
from pipeline_lib.data.source import FileSource, Source
from pipeline_lib.errors import PipelineError
from pipeline_lib.index.facts import ROWS_NAME
from pipeline_lib.search.stacks import Marks
from pipeline_lib.search.thumbnails import Thumbnails

if TYPE_CHECKING:  # own photos are searched without pandas
    import pandas as pd

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Kept:
    """What was kept of one's own photos when they were indexed."""

    thumbnails: Thumbnails
    contents: tuple[str, ...]  # row -> digest of its file, by which its thumbnail is found
    marks: Marks  # row by row


@dataclass(frozen=True)
class Gallery:
    """Photos or drawings that can be shown, by number."""

    name: str  # of the data set or folder, for display
    image_ids: tuple[str, ...]  # row -> image_id; for the photos of an index, its rows; of one's own their whole path
    paths: tuple[str, ...]  # row -> path, relative to the source's root; with several roots the whole path
    domain: str  # "photo" or "sketch"
    source: Source  # where the images are read
    roots: tuple[Path, ...] = ()  # folders of one's own photos
    kept: Kept | None = None  # of one's own photos

    def __len__(self) -> int:
        return len(self.image_ids)

    def load(self, row: int, short_side: int = 0) -> Pixels:
        """The image of a row, uint8[H, W, 3], RGB.

        Args:
            row: of the gallery.
            short_side: px; a large photo may be decoded smaller, see `data.images.decode`. 0 decodes it whole.

        Raises:
            BadImage: it can't be read any more.
            IndexError: there is no such row.
        """
        self._check(row)
        path, image_id = self.paths[row], self.image_ids[row]
        try:
            if isinstance(self.source, FileSource):
                return self.source.load(path, self.domain, image_id, short_side)
            return self.source.load(path, self.domain, image_id)
        except OSError as failure:
            raise BadImage(failure.strerror or str(failure)) from failure

    def file(self, row: int) -> Path | None:
        """The file of a photo; None where the pipeline made the picture.

        Raises:
            IndexError: there is no such row.
        """
        self._check(row)
        return self.source.root / self.paths[row] if isinstance(self.source, FileSource) else None

    def root(self, row: int) -> Path | None:
        """Below which of one's own folders a photo lies; None in other galleries. Raises as `file`."""
        file = self.file(row)
        return next((root for root in self.roots if file and file.is_relative_to(root)), None)

    def thumbnail(self, row: int) -> bytes | None:
        """The small JPEG that was kept of a photo; None where none was. Raises as `file`."""
        self._check(row)
        return self.kept.thumbnails.read(self.kept.contents[row]) if self.kept else None

    def stacked(self, rows: Sequence[int]) -> list[list[int]]:
        """Stacks of results that show the same, see `stacks.Marks.stacked`; each alone where no marks are kept."""
        return self.kept.marks.stacked(rows) if self.kept else [[place] for place in range(len(rows))]

    def _check(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise IndexError(row)

    def label(self, row: int) -> str:
        """A short name for display: of an emoji its Unicode name, of a photo its file name."""
        image_id, path = self.image_ids[row], PurePosixPath(self.paths[row])
        return _emoji_name(path.stem) or path.stem if image_id.startswith("openmoji/") else path.name


def _emoji_name(stem: str) -> str:
    """Unicode's names of an emoji's code points, without joiners; "" where it knows none (OpenMoji's own)."""
    try:
        characters = [chr(int(code, 16)) for code in stem.split("-")]
    except ValueError:
        return ""
    names = (unicodedata.name(character, "") for character in characters if ord(character) not in {0x200D, 0xFE0F})
    return ", ".join(name.lower() for name in names if name)


def index_rows(folder: Path) -> tuple[str, ...]:
    """The image_id of each row of an index."""
    return tuple(read_table(folder / ROWS_NAME, pa.schema([("image_id", pa.string())]))["image_id"].to_pylist())


def catalog_gallery(catalog: "pd.DataFrame", source: Source, index_folder: Path) -> Gallery:
    """The photos of the pipeline's own index, in its order.

    Raises:
        PipelineError: the index holds photos that the catalog does not.
    """
    image_ids = index_rows(index_folder)
    photos = catalog[catalog["role"] == "gallery"]
    paths = dict(zip(photos["image_id"], photos["path"], strict=True))
    if not paths.keys() >= set(image_ids):
        raise PipelineError(f"{index_folder / ROWS_NAME}: holds photos that the catalog lacks; run `dvc repro`")
    return Gallery(_dataset(photos), image_ids, tuple(paths[name] for name in image_ids), "photo", source)


def catalog_examples(catalog: "pd.DataFrame", source: Source) -> Gallery:
    """The queries of the catalog, to try the search with; may be empty."""
    queries = catalog[catalog["role"] == "query"].sort_values("image_id")
    return Gallery(_dataset(queries), tuple(queries["image_id"]), tuple(queries["path"]), "sketch", source)


def _dataset(rows: "pd.DataFrame") -> str:
    return ", ".join(sorted(set(rows["dataset"])))
