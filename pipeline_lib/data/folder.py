"""A plain folder of one's own photos, searched and trained on; optionally with sketches of some of them.

Sketches lie in a folder below the root and have the name of their photo (`cat 1.jpg`: `cat 1.png`), or are listed in a
CSV with the columns `sketch,photo`, both relative to the root.
"""

import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Final, Self

from pipeline_lib import params
from pipeline_lib.data.source import Entry, Excluded, FileSource, root_of
from pipeline_lib.errors import PipelineError

DATASET: Final = "folder"
EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic",
    ".heif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".qoi", ".sgi",
})  # fmt: skip
# First bytes of JPEG, PNG, GIF, TIFF (both byte orders) and JPEG 2000, for files without an image's extension.
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")


def image_files(top: Path) -> Iterator[str]:
    """Paths of the images below `top`, POSIX and relative to it, in a fixed order, at any depth.

    Hidden files and folders are skipped. Links are followed, but each folder only once, so that loops end. A file is an
    image by its extension or by its first bytes.

    Raises:
        PipelineError: a folder can't be listed.
    """
    return (inside for inside, storable in _walk(top) if storable)


def left_out(top: Path) -> Iterator[tuple[str, str]]:
    """(printable path, why) of the images below `top` that can't be listed in tables: their names are not UTF-8."""
    for inside, storable in _walk(top):
        if not storable:
            yield os.fsencode(inside).decode("utf-8", "backslashreplace"), "the name is not UTF-8; rename the file"


def _walk(top: Path) -> Iterator[tuple[str, bool]]:
    waiting = [""]
    seen: set[tuple[int, int]] = set()
    while waiting:
        folder = waiting.pop()
        try:
            found = (top / folder).stat()
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            with os.scandir(top / folder) as listing:
                names = sorted((entry.name, _is_folder(entry)) for entry in listing if not entry.name.startswith("."))
        except OSError as failure:
            raise PipelineError(f"{top / folder}: can't be listed ({failure.strerror})") from failure
        for name, is_folder in names:
            inside = f"{folder}/{name}" if folder else name
            if not is_folder and _is_image(top / inside):
                # Bytes of a name that are not UTF-8 are surrogates, which can't be encoded.
                yield inside, inside == inside.encode("utf-8", "replace").decode()
        waiting.extend(f"{folder}/{name}" if folder else name for name, is_folder in reversed(names) if is_folder)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in EXTENSIONS:
        return True
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(12)
    except OSError:
        return False
    return head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:] == b"WEBP") or head[4:12] == b"ftypavif"


def _composed(name: str) -> str:
    """A name with its accents composed (NFC), so that both Unicode forms of it are equal."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class FolderSource(FileSource):
    """One's own photos: each is in the gallery, and also trained on under a second id."""

    sketches: str  # "" or where the sketches are, relative to the root: a folder or a CSV file
    trains_on_gallery: ClassVar[bool] = True

    @classmethod
    def of(cls, catalog: params.Catalog, base: Path) -> Self:
        """See `FileSource.of`."""
        return cls(root_of(catalog, base), catalog.max_pixels, catalog.sketches)

    def entries(self) -> Iterator[Entry]:
        """Every photo twice, as gallery and as pretext; then the sketches."""
        place = self._place()
        depicts = self._listed(place) if place and (self.root / place).is_file() else None
        photos = 0
        for path in image_files(self.root):
            if not _is_sketch(path, place, depicts):
                photos += 1
                yield Entry(f"photo/{path}", DATASET, "gallery", "photo", path)
                yield Entry(f"pretext/{path}", DATASET, "pretext", "photo", path)
        if not photos:
            raise PipelineError(f"catalog.root: {self.root} holds no photos; set it to a folder that does")
        if depicts is None:
            depicts = self._matched(place) if place else {}
        for sketch in sorted(depicts):
            yield Entry(f"sketch/{sketch}", DATASET, "query", "sketch", sketch, instance_id=f"photo/{depicts[sketch]}")

    def excluded(self) -> Iterator[Excluded]:
        """Files whose names can't be stored."""
        for path, why in left_out(self.root):
            yield Excluded(path, DATASET, "unreadable", why)

    def _place(self) -> str:
        """Where the sketches are, POSIX and relative to the root; "" for none."""
        if not self.sketches:
            return ""
        root = Path(os.path.normpath(self.root))
        place = Path(os.path.normpath(root / Path(self.sketches).expanduser()))
        if not place.exists():
            raise PipelineError(f"catalog.sketches: {place} does not exist; name a folder or a CSV below catalog.root")
        if not place.is_relative_to(root) or place == root:
            raise PipelineError(f"catalog.sketches: {place} must lie below catalog.root {root}")
        return place.relative_to(root).as_posix()

    def _listed(self, place: str) -> dict[str, str]:
        """Sketch to photo, as listed in the CSV at `place`."""
        file = self.root / place
        spelled = self._spellings()
        depicts: dict[str, str] = {}
        try:
            with file.open(encoding="utf-8-sig", newline="") as stream:
                rows = csv.DictReader(stream)
                if not {"sketch", "photo"} <= set(rows.fieldnames or ()):
                    raise PipelineError(f"catalog.sketches: {file} must begin with the line sketch,photo")
                for row in rows:
                    named = (_inside(row[side], f"{file}, line {rows.line_num}") for side in ("sketch", "photo"))
                    sketch, photo = (spelled.get(name, spelled.get(_composed(name), name)) for name in named)
                    if depicts.setdefault(sketch, photo) != photo:
                        raise PipelineError(f"{file}, line {rows.line_num}: {sketch} depicts two photos; keep one line")
        except (OSError, UnicodeDecodeError, csv.Error) as failure:
            raise PipelineError(
                f"catalog.sketches: {file} can't be read ({failure}); save it as UTF-8 CSV"
            ) from failure
        return depicts

    def _spellings(self) -> dict[str, str]:
        """The path of every image by itself, and by its composed form where no other image has the same.

        Some systems store accents decomposed, whichever form was typed; most CSV files have them composed.
        """
        own = {path: path for path in image_files(self.root)}
        forms = Counter(map(_composed, own))
        return {form: path for path in own if forms[form := _composed(path)] == 1} | own

    def _matched(self, place: str) -> dict[str, str]:
        """Sketch to the photo of the same name: in the same subfolder first, then anywhere."""
        photos: dict[str, list[str]] = {}
        for path in image_files(self.root):
            if not _is_sketch(path, place, None):
                photos.setdefault(_composed(PurePosixPath(path).stem).casefold(), []).append(path)
        depicts = {}
        for inside in image_files(self.root / place):
            sketch = PurePosixPath(inside)
            alike = photos.get(_composed(sketch.stem).casefold(), [])
            beside = [path for path in alike if PurePosixPath(path).parent == sketch.parent]
            best = beside if len(beside) == 1 else alike
            # Otherwise a name that no photo has, so that the catalog leaves the sketch out and says so.
            depicts[f"{place}/{inside}"] = best[0] if len(best) == 1 else f"{sketch.stem}.* ({len(best)} such photos)"
        return depicts


def _is_sketch(path: str, place: str, depicts: dict[str, str] | None) -> bool:
    return path in depicts if depicts is not None else bool(place) and path.startswith(place + "/")


def _inside(text: str | None, line: str) -> str:
    """A path that a CSV names, checked and normalised."""
    path = PurePosixPath(os.path.normpath(text.strip())) if text and text.strip() else None
    if path is None or path.is_absolute() or ".." in path.parts:
        raise PipelineError(f"{line}: {text!r} must be the path of a file below catalog.root")
    return str(path)
