"""A plain folder of one's own photos, searched and trained on; optionally with sketches of some of them.

Sketches lie in a folder below the root and have the name of their photo (`cat 1.jpg`: `cat 1.png`), or are listed in a
CSV with the columns `sketch,photo`, both relative to the root.
"""

import csv
import fnmatch
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import ClassVar, Final, Self

from pipeline_lib import params
from pipeline_lib.data import remote
from pipeline_lib.data.formats import HEAD, Format, format_of_head, format_of_name, obstacle
from pipeline_lib.data.source import Entry, Excluded, FileSource, root_of
from pipeline_lib.errors import PipelineError, printable

DATASET: Final = "folder"
# Folders in which storage devices, operating systems and archivers keep small copies, old versions and deleted files.
SYSTEM_FOLDERS: Final = frozenset({
    "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "system volume information",
    "lost+found", "__macosx",
})  # fmt: skip
LEADS_OUT: Final = "a link that leads out of the folder; to follow such links, index with --links"
SYSTEM_FILES: Final = (".thm", "~")
"""Ends of names: a camera's thumbnail beside its film, and what an editor has kept."""


@dataclass(frozen=True)
class Listing:
    """The pictures below a folder; paths are POSIX and relative to it, in a fixed order."""

    images: list[str] = field(default_factory=list)
    unsupported: dict[str, Format] = field(default_factory=dict)  # path -> what it is; nothing here can read it
    skipped: dict[str, str] = field(default_factory=dict)  # printable path of a folder or file -> why


def list_images(
    top: Path, exclude: Sequence[str] = (), seen: set[tuple[int, int]] | None = None, *, links: bool = True
) -> Listing:
    """Lists the pictures below `top`; arguments and errors as in `find_images`."""
    listing = Listing()
    listing.images.extend(find_images(top, listing, exclude, seen, links=links))
    return listing


def find_images(
    top: Path,
    listing: Listing,
    exclude: Sequence[str] = (),
    seen: set[tuple[int, int]] | None = None,
    *,
    links: bool = True,
) -> Iterator[str]:
    """The pictures below `top`, at any depth, one after another.

    Hidden files and folders are passed over, and those that a system keeps for itself. Links are followed, but each
    folder only once, so that loops end. A file is a picture by its extension or by its first bytes.

    Args:
        top: the folder, which `remote.open_address` may have opened.
        listing: what is unsupported or skipped is noted there, and no picture.
        exclude: patterns (`*`, `?`, `[a-z]`, in upper or lower case) of what is passed over: of the name of a file or
            folder or, with a slash, of its path.
        seen: folders, as device and number, that are passed over; those that are listed join them.
        links: whether links that lead out of `top` are followed; if not, they are among what is skipped.

    Yields:
        Their paths, POSIX and relative to `top`, in a fixed order.

    Raises:
        PipelineError: `top` itself can't be listed, or its store is out of reach.
    """
    patterns = [_pattern(text) for text in exclude]
    real = top if remote.is_remote(top) else top.resolve()
    seen = set() if seen is None else seen
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            names = _names(top / folder if folder else top, seen)
        except OSError as failure:
            why = f"can't be listed ({failure.strerror or failure})"
            if not folder:
                raise PipelineError(f"{top}: {why}") from failure
            listing.skipped[printable(folder)] = why
            continue
        below = []
        for name, is_folder, is_link in names:
            inside = f"{folder}/{name}" if folder else name
            if _is_left_out(name, inside, patterns, is_folder=is_folder):
                continue
            if is_link and not links and _leads_out(top / inside, real):
                listing.skipped[printable(inside)] = LEADS_OUT
            elif is_folder:
                below.append(inside)
            elif _is_image(listing, top, inside):
                yield inside
        waiting.extend(reversed(below))


def is_excluded(path: str, exclude: Sequence[str]) -> bool:
    """Whether a file, POSIX and relative to the top, or a folder above it is passed over; `exclude` as above."""
    patterns, parts = [_pattern(text) for text in exclude], path.split("/")
    return any(
        _is_left_out(part, "/".join(parts[: place + 1]), patterns, is_folder=place + 1 < len(parts))
        for place, part in enumerate(parts)
    )


def image_files(top: Path) -> Iterator[str]:
    """The images of `find_images`; errors too."""
    return find_images(top, Listing())


def left_out(top: Path) -> Iterator[tuple[str, str]]:
    """(printable path, why) of what `list_images` skipped: folders that can't be listed, names that are not UTF-8."""
    return iter(list_images(top).skipped.items())


def _names(folder: Path, seen: set[tuple[int, int]]) -> list[tuple[str, bool, bool]]:
    """The names in a folder that are not hidden, whether each is a folder, and whether a link; none if seen before."""
    if remote.is_remote(folder):
        return [(name, is_folder, False) for name, is_folder in remote.names_in(folder)]
    found = folder.stat()
    if (found.st_dev, found.st_ino) in seen:
        return []
    seen.add((found.st_dev, found.st_ino))
    with os.scandir(folder) as listing:
        return sorted(
            (entry.name, _is_folder(entry), entry.is_symlink()) for entry in listing if not entry.name.startswith(".")
        )


def _leads_out(link: Path, top: Path) -> bool:
    try:
        return not link.resolve().is_relative_to(top)
    except (OSError, RuntimeError):  # a link to itself leads nowhere
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


@cache
def _pattern(text: str) -> tuple[re.Pattern[str], bool]:
    """A pattern, and whether it is one of whole paths."""
    plain = _composed(text.strip("/")).casefold()
    return re.compile(fnmatch.translate(plain)), "/" in plain


def _is_left_out(name: str, inside: str, patterns: list[tuple[re.Pattern[str], bool]], *, is_folder: bool) -> bool:
    plain = name.casefold()
    if plain in SYSTEM_FOLDERS if is_folder else plain.endswith(SYSTEM_FILES):
        return True
    return bool(patterns) and any(
        pattern.fullmatch(_composed(inside if whole else name).casefold()) is not None for pattern, whole in patterns
    )


def _is_image(listing: Listing, top: Path, inside: str) -> bool:
    """Whether a file is a picture that can be read; notes others in the list."""
    named = format_of_name(inside)
    kind = named if named is not None and not obstacle(named) else _looked_at(top / inside, named)
    if kind is None:
        return False
    # Bytes of a name that are not UTF-8 are surrogates, which can't be encoded.
    if not inside.isascii() and inside != inside.encode("utf-8", "replace").decode():
        listing.skipped[printable(inside)] = "the name is not UTF-8; rename the file"
        return False
    if obstacle(kind):
        listing.unsupported[inside] = kind
        return False
    return True


def _looked_at(path: Path, named: Format | None) -> Format | None:
    """What a file is by its first bytes, else by its name; None for what is no picture.

    Raises:
        PipelineError: its store is out of reach, which says nothing of the file.
    """
    try:
        with remote.told():
            if not path.is_file():
                return named
            with path.open("rb") as stream:
                return format_of_head(stream.read(HEAD)) or named
    except (FileNotFoundError, PermissionError):
        return named
    except OSError as failure:
        if remote.is_remote(path):
            raise PipelineError(
                f"{path}: can't be listed ({failure}); try again when its store is in reach"
            ) from failure
        return named


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
        depicts = self._listed(place) if place and self._is_list(place) else None
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
        """What could not be listed, and pictures of formats that can't be read."""
        listing = list_images(self.root)
        for path, why in listing.skipped.items():
            yield Excluded(path, DATASET, "unreadable", why)
        for path, kind in listing.unsupported.items():
            yield Excluded(path, DATASET, "format", obstacle(kind))

    def _place(self) -> str:
        """Where the sketches are, POSIX and relative to the root; "" for none."""
        if not self.sketches:
            return ""
        if remote.is_remote(self.root):
            inside = _inside(self.sketches, "catalog.sketches")
            if not (self.root / inside).exists():
                raise PipelineError(f"catalog.sketches: {self.root / inside} does not exist; name what is there")
            return inside
        root = Path(os.path.normpath(self.root))
        place = Path(os.path.normpath(root / Path(self.sketches).expanduser()))
        if not place.exists():
            raise PipelineError(f"catalog.sketches: {place} does not exist; name a folder or a CSV below catalog.root")
        if not place.is_relative_to(root) or place == root:
            raise PipelineError(f"catalog.sketches: {place} must lie below catalog.root {root}")
        return place.relative_to(root).as_posix()

    def _is_list(self, place: str) -> bool:
        """Whether a CSV lists the sketches; a web server alone does not tell files from folders."""
        file = self.root / place
        return place.lower().endswith(".csv") if remote.is_remote(file) else file.is_file()

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
