"""Photos of an index, row by row, and where each is read."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline_lib.data.images import BadImage, TooLarge, decode, decode_encoded
from pipeline_lib.data.remote import forget, is_address, is_remote, told
from pipeline_lib.data.schemas import read_table
from pipeline_lib.data.source import MISSING, FileSource, Source, signature_of
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file
from pipeline_lib.index.facts import ROWS, ROWS_NAME
from pipeline_lib.search.stacks import Marks
from pipeline_lib.search.thumbnails import Thumbnails

if TYPE_CHECKING:  # own photos are searched without pandas
    import pandas as pd

Pixels = NDArray[np.uint8]


class Names(Sequence[str]):
    """Strings in Arrow's memory, a tenth of what Python's or NumPy's take where one of them is long."""

    def __init__(self, values: pa.Array, above: str = "") -> None:
        """Strings of an array, each without `above` at its beginning."""
        self.values = values
        self._above = above

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> "Names": ...

    def __getitem__(self, row: int | slice) -> "str | Names":
        if isinstance(row, slice):
            return Names(self.values[row], self._above)
        value: str = self.values[row].as_py()
        return value.removeprefix(self._above)

    def without(self, above: str) -> "Names":
        """The same strings, each without `above` at its beginning."""
        return Names(self.values, above)

    def begin_with(self, start: str) -> NDArray[np.bool_]:
        """Which of the strings begin so, bool[N]."""
        found: NDArray[np.bool_] = np.asarray(pc.starts_with(self.values, start))
        return found


@dataclass(frozen=True)
class Among:
    """Which photos of a gallery are searched: those that are all of this."""

    # below it: absolute, or below one of the gallery's own folders, whose name may stand before it. "" for all
    folder: str = ""
    since: date | None = None  # taken on that day or later; a photo whose camera noted no day is left out
    until: date | None = None  # taken on that day or earlier


EVERYWHERE: Final = Among()
OWN_ALONE: Final = "folders and days can be chosen among your own photos alone"


@dataclass(frozen=True)
class Kept:
    """What was kept of one's own photos when they were indexed."""

    thumbnails: Thumbnails
    contents: Sequence[str]  # row -> digest of its file, by which its thumbnail is found
    marks: Marks  # row by row
    signatures: Sequence[str] = ()  # row -> what the system told of its file, see `data.source.signature_of`


@dataclass(frozen=True)
class Gallery:
    """Photos or drawings that can be shown, by number."""

    name: str  # of the data set or folder, for display
    image_ids: Sequence[str]  # row -> image_id; for the photos of an index, its rows; of one's own their whole path
    paths: Sequence[str]  # row -> path, relative to the source's root; with several roots the whole path
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
            if not isinstance(self.source, FileSource):
                return self.source.load(path, self.domain, image_id)
            data = self.source.read(path)
        except OSError as failure:
            raise BadImage(failure.strerror or str(failure)) from failure
        self._check_unchanged(row)  # after it was read: whatever has taken its place before is found
        return decode(data, max_pixels=self.source.max_pixels, short_side=short_side)

    def seen(self, row: int, short_side: int) -> Pixels:
        """As `load`; a photo that takes too much memory by its small picture, if one is kept."""
        return self._or_thumbnail(row, short_side, TooLarge)

    def picture(self, row: int, short_side: int) -> Pixels:
        """As `load`; a photo that is not there, or can't be read, by its small picture, if one is kept."""
        return self._or_thumbnail(row, short_side, BadImage)

    def _or_thumbnail(self, row: int, short_side: int, failure: type[BadImage]) -> Pixels:
        try:
            return self.load(row, short_side)
        except failure:
            small = self.thumbnail(row)
            if small is None:
                raise
            return decode_encoded(small)

    def file(self, row: int) -> Path | None:
        """The file of a photo; None where the pipeline made the picture, and behind an address.

        Raises:
            IndexError: there is no such row.
        """
        place = self.place(row)
        return None if place is None or is_remote(place) else place

    def place(self, row: int) -> Path | None:
        """The file of a photo, or what stands for it behind an address; None where the pipeline made the picture.

        Raises:
            IndexError: there is no such row.
        """
        self._check(row)
        return self.source.place(self.paths[row]) if isinstance(self.source, FileSource) else None

    def unchanged_file(self, row: int) -> Path | None:
        """The file of a photo, which holds what was indexed.

        Raises:
            BadImage: it has changed since, or is gone.
            IndexError: there is no such row.
        """
        file = self.file(row)
        if file is not None:
            self._check_unchanged(row)
        return file

    def _check_unchanged(self, row: int) -> None:
        """Raises BadImage where the file of one of one's own photos holds something else than what was indexed."""
        signatures, file = self.kept.signatures if self.kept else (), self.place(row)
        if self.kept is None or file is None or not any(signatures[row : row + 1]):
            return
        forget(file)
        before, now = signatures[row], signature_of(file)
        if now == before:
            return
        if now == MISSING:
            raise BadImage("its file is gone")
        # A file that was only moved, copied or touched holds the same, and so many bytes.
        same = is_remote(file) or now.partition("-")[0] == before.partition("-")[0]
        try:
            with told():
                same = same and digest_of_file(file).startswith(self.kept.contents[row])
        except OSError as failure:  # `told` makes one of every failure
            raise BadImage("its file can't be read") from failure
        if not same:
            raise BadImage("it has changed since it was indexed; run `drawfind index`, or `make index`, again")

    @property
    def folders(self) -> list[str]:
        """The names of the folders that hold the photos; none where the pipeline made them."""
        roots = self.roots or ((self.source.root,) if isinstance(self.source, FileSource) else ())
        return [root.name or "/" for root in roots]

    def shown_path(self, row: int) -> str:
        """Where a photo lies, from the name of its folder on: no answer tells what lies above. Raises as `file`."""
        root = self.root(row)
        if root is not None:
            below = self.image_ids[row].removeprefix(_above(root))
        elif isinstance(self.source, FileSource) and self.file(row) is not None:
            root, below = self.source.root, self.paths[row]
        else:
            return self.paths[row]
        return (PurePosixPath(root.name) / below).as_posix()

    def shown_id(self, row: int) -> str:
        """The image_id of a photo; of one's own, whose id is its path, the path that is shown. Raises as `file`."""
        self._check(row)
        return self.shown_path(row) if self.roots else self.image_ids[row]

    def root(self, row: int) -> Path | None:
        """Below which of one's own folders a photo lies; None in other galleries. Raises as `file`."""
        self._check(row)
        return next((root for root in self.roots if self.image_ids[row].startswith(_above(root))), None)

    def thumbnail(self, row: int) -> bytes | None:
        """The small JPEG that was kept of a photo; None where none was. Raises as `file`."""
        self._check(row)
        return self.kept.thumbnails.read(self.kept.contents[row]) if self.kept else None

    def is_away(self, row: int) -> bool:
        """Whether a photo has a file that is not there: deleted or moved since, or on a drive that is not plugged in.

        Stores are not asked: for each photo of a list that would take too long. Raises as `file`.
        """
        file = self.file(row)
        return file is not None and not _is_there(file)

    def stacked(self, rows: Sequence[int]) -> list[list[int]]:
        """Stacks of results that show the same, see `stacks.Marks.stacked`; each alone where no marks are kept."""
        return self.kept.marks.stacked(rows) if self.kept else [[place] for place in range(len(rows))]

    @property
    def filters(self) -> bool:
        """Whether a search can be narrowed to a folder and to days."""
        return self.kept is not None

    def chosen(self, among: Among) -> NDArray[np.bool_] | None:
        """The rows that are to be searched, bool[N]; None for all.

        Raises:
            PipelineError: photos of this gallery have no files, or no days.
        """
        if among == EVERYWHERE:
            return None
        kept, names = self.kept, self.image_ids
        if kept is None or not isinstance(names, Names):
            raise PipelineError(OWN_ALONE)
        return self._below(names, among.folder) & kept.marks.between(among.since, among.until)

    def _below(self, names: Names, folder: str) -> NDArray[np.bool_]:
        if not folder:
            return np.ones(len(self), np.bool_)
        place = PurePosixPath(folder)
        if is_address(folder):
            tops = [folder]
        elif place.is_absolute():
            tops = [place.as_posix()]
        else:
            inside = place.as_posix()
            places = [root / inside for root in self.roots]
            # The name of a folder may stand before what lies in it.
            places += [root.parent / inside for root in self.roots if place.parts[:1] == (root.name,)]
            tops = [each.as_posix() for each in places]
        below = [names.begin_with(f"{top.rstrip('/')}/") for top in tops]
        found: NDArray[np.bool_] = np.logical_or.reduce(below)
        return found

    def _check(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise IndexError(row)

    def label(self, row: int) -> str:
        """A short name for display: of an emoji its Unicode name, of a photo its file name."""
        image_id, path = self.image_ids[row], PurePosixPath(self.paths[row])
        return _emoji_name(path.stem) or path.stem if image_id.startswith("openmoji/") else path.name


def _above(root: Path) -> str:
    """With what the paths of photos below a folder, or an address, begin."""
    return f"{root.as_posix().rstrip('/')}/"


def _is_there(file: Path) -> bool:
    """Whether there is a file, in a folder that may be looked into."""
    try:
        with told():
            return file.is_file()
    except OSError:
        return False


def _emoji_name(stem: str) -> str:
    """Unicode's names of an emoji's code points, without joiners; "" where it knows none (OpenMoji's own)."""
    try:
        characters = [chr(int(code, 16)) for code in stem.split("-")]
    except ValueError:
        return ""
    names = (unicodedata.name(character, "") for character in characters if ord(character) not in {0x200D, 0xFE0F})
    return ", ".join(name.lower() for name in names if name)


def index_rows(folder: Path) -> Names:
    """The image_id of each row of an index."""
    column = read_table(folder / ROWS_NAME, ROWS)["image_id"]
    return Names(column.cast(pa.large_string()).combine_chunks())


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
