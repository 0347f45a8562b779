"""`drawfind index FOLDER ...`: indexes one's own photos, or brings their index up to date.

New photos are embedded, those that are gone dropped, and the rest kept. A photo is known by its path and by what the
system tells of its file; where that has changed, its content decides, so that a photo that was only moved, copied or
touched keeps its vector. Vectors lie in shards of `vectors/`, each written whole, so that an interrupted update goes on
where it stopped. The process that holds FAISS builds the index from the shards. No network is loaded before there is
something to embed.
"""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from pipeline_lib.data.folder import list_images
from pipeline_lib.data.formats import Format, obstacle
from pipeline_lib.data.source import signature_of
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of, write_json
from pipeline_lib.index.facts import BuildJob, is_whole
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.run import Run
from pipeline_lib.search.command import add_run, box, printable
from pipeline_lib.search.own_record import (
    AFRESH,
    CHANGED,
    RECORD_NAME,
    Record,
    alignment_file,
    alignment_key,
    finished,
    generations,
    index_made_by,
    model_key,
    own_folder,
    own_home,
    read_folder,
    write_record,
)
from pipeline_lib.search.own_shards import Work, drop_stale, stored
from pipeline_lib.search.thumbnails import Thumbnails

if TYPE_CHECKING:  # it would load what computes vectors
    from pipeline_lib.search.engine import QueryEncoder

NAMED: Final = 20
"""Skipped files that are named at most; the file `BAD_NAME` names all."""
BAD_NAME: Final = "bad.json"
"""What was skipped and why, for people to read; bad files are retried at every update."""


@dataclass(frozen=True)
class Update:
    """What an update did."""

    photos: int  # in the index now
    added: int  # embedded by this update, because they are new or have changed
    kept: int  # of files that were moved, copied or touched, whose content has a vector already
    removed: int  # dropped from the index
    bad: dict[str, str]  # path -> why it was skipped
    unsupported: dict[str, Format]  # path -> what it is: a picture of a format that can't be read here
    settings: str  # the kind of index, in words; "" where nothing changed


@dataclass(frozen=True)
class Found:
    """The photos below some folders."""

    signatures: dict[str, str]  # path -> what the system tells of the file
    unsupported: dict[str, Format]
    skipped: dict[str, str]


def update(
    run: Run,
    photos: Sequence[Path],
    opened: "Callable[[], QueryEncoder]",
    *,
    exclude: Sequence[str] | None = None,
    afresh: bool = False,
    index: Path | None = None,
    links: bool | None = None,
) -> Update:
    """Brings the index of one's own photos up to date.

    Args:
        run: a finished run, whose model embeds them.
        photos: folders of photos, of any nesting and format; none for those of the index that is there.
        opened: opens the run's encoder; called once, and only if there is something to embed.
        exclude: patterns of what is left out, as `data.folder.list_images` takes them; None for those of the index.
        afresh: embed all photos again; the index that is there is searched until the new one is whole.
        index: the folder of the index, where not its usual place.
        links: whether links that lead out of the folders are followed; None as for the index that is there, else not.

    Raises:
        PipelineError: a folder holds no photos, or a folder of the index is not among them, or the model has changed,
            or another process is updating the index.
    """
    home, asked = own_home(run, index), _wanted(run, photos, exclude, index, links=links)
    found = find(asked.roots, asked.exclude, home, links=asked.links)
    with _alone(home):
        folder, record = _begin(own_folder(run, index), asked, afresh=afresh)
        done = _update(run, folder, record, found, opened)
        # The index that was searched until now, and what earlier ones have left.
        for other in generations(home):
            if int(other.name) < int(folder.name):
                shutil.rmtree(other, ignore_errors=True)
    return done


def _wanted(
    run: Run, photos: Sequence[Path], exclude: Sequence[str] | None, index: Path | None, *, links: bool | None
) -> Record:
    """The record of the index that is asked for; what is not told is taken from the one that is there.

    Raises:
        PipelineError: a folder is none, or no folder is named and there is no index.
    """
    folder = own_folder(run, index)
    there = None
    if not photos or ((exclude is None or links is None) and (folder / RECORD_NAME).exists()):
        try:
            there = read_folder(folder)
        except PipelineError:  # to be made afresh; otherwise `_begin` says so
            if not photos:
                raise
    roots = _outermost(_folder(path) for path in photos) if photos or there is None else there.roots
    patterns = (there.exclude if there else ()) if exclude is None else tuple(text for text in exclude if text.strip())
    followed = bool(there and there.links) if links is None else links
    return Record(roots, model_key(run), patterns, links=followed)


def _folder(photos: Path) -> str:
    """A folder of photos, absolute and without links, as the record holds it."""
    root = photos.expanduser().resolve()
    if not root.is_dir():
        raise PipelineError(f"{photos}: is not a folder; name the one that holds your photos")
    try:
        str(root).encode()
    except UnicodeEncodeError as failure:
        raise PipelineError(f"{root}: the name is not UTF-8; rename the folder") from failure
    return str(root)


def _outermost(roots: Iterable[str]) -> tuple[str, ...]:
    """The folders without those that lie in another of them."""
    given = list(dict.fromkeys(roots))
    return tuple(root for root in given if not any(_is_below(root, other) for other in given if other != root))


def _is_below(root: str, other: str) -> bool:
    return Path(root).is_relative_to(other)


def find(roots: Sequence[str], exclude: Sequence[str], home: Path, *, links: bool = False) -> Found:
    """The photos below some folders.

    Args:
        roots: absolute.
        exclude: as in `data.folder.list_images`.
        home: of the index, whose small pictures are no photos if it lies among them.
        links: whether links that lead out of the folders are followed.

    Raises:
        PipelineError: a folder is missing, or holds no photos that can be read.
    """
    seen = {(found.st_dev, found.st_ino) for found in [home.stat()]} if home.exists() else set()
    found = Found({}, {}, {})
    for root in map(Path, roots):
        if not root.is_dir():
            raise PipelineError(f"{root}: is not a folder any more; the index is left as it is")
        listing = list_images(root, exclude, seen, links=links)
        if not listing.images:
            others = f" that can be read ({'; '.join(told(listing.unsupported))})" if listing.unsupported else ""
            raise PipelineError(f"{root}: holds no photos{others}; the index is left as it is")
        paths = {path: (root / path).as_posix() for path in (*listing.images, *listing.unsupported)}
        found.signatures.update((paths[path], signature_of(root / path)) for path in listing.images)
        found.unsupported.update((paths[path], kind) for path, kind in listing.unsupported.items())
        found.skipped.update((f"{root.as_posix()}/{path}", why) for path, why in listing.skipped.items())
    return found


def told(unsupported: Mapping[str, Format]) -> list[str]:
    """Of each format that can't be read how many files there are, their extensions, one of them, and the way out."""
    lines = []
    for kind, count in Counter(unsupported.values()).items():
        paths = [path for path, of in unsupported.items() if of == kind]
        endings = ", ".join(sorted({Path(path).suffix.lower() or "no extension" for path in paths}))
        lines.append(f"{count:,} {kind.name} ({endings}), such as {paths[0]}: {obstacle(kind)}")
    return lines


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Lets one process at a time change an index."""
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as failure:
        raise PipelineError(f"{home}: is being updated by another process; wait until it is done") from failure
    try:
        yield
    finally:
        lock.release()


def _begin(live: Path, asked: Record, *, afresh: bool) -> tuple[Path, Record]:
    """The generation to work in, and its record.

    Args:
        live: the generation that is there.
        asked: what the index is to be of.
        afresh: work in another one, that of an update afresh which was interrupted where it fits.

    Raises:
        PipelineError: the index that is there is of other folders, or of another model.
    """
    if afresh:
        return _begin_afresh(live, asked)
    if (live / RECORD_NAME).exists() or (live.parent / RECORD_NAME).exists():
        record = read_folder(live)
        lost = [root for root in record.roots if not any(_is_below(root, other) for other in asked.roots)]
        if lost:
            raise PipelineError(
                f"{live}: is the index of {' and '.join(record.roots)}, not of {' and '.join(asked.roots)}; name all "
                f"folders that it is to hold; or, {AFRESH}"
            )
        if record.model != asked.model:
            raise PipelineError(f"{live}: {CHANGED}; {AFRESH}")
        record = replace(record, roots=asked.roots, exclude=asked.exclude, links=asked.links)
    else:
        record = asked
    write_record(live, record)
    return live, record


def _begin_afresh(live: Path, asked: Record) -> tuple[Path, Record]:
    folder = live.with_name(str(int(live.name) + 1))
    if not finished(live):
        shutil.rmtree(live, ignore_errors=True)
        folder = live
    elif not _fits(folder, asked):  # where it does, an update afresh was interrupted and goes on
        shutil.rmtree(folder, ignore_errors=True)
    home = live.parent
    if (home / RECORD_NAME).exists():  # an earlier version's
        for name in ("vectors", "index"):
            shutil.rmtree(home / name, ignore_errors=True)
        (home / RECORD_NAME).unlink()
    write_record(folder, asked)
    return folder, asked


def _fits(folder: Path, asked: Record) -> bool:
    try:
        return read_folder(folder) == asked
    except PipelineError:
        return False


def _update(run: Run, folder: Path, record: Record, found: Found, opened: "Callable[[], QueryEncoder]") -> Update:
    shards, alignment = folder / "vectors", alignment_key(run)
    before = stored(shards)
    known = {path for path, row in before.items() if found.signatures.get(path) == row.signature}
    bad = dict(found.skipped)
    work = Work(
        shards, Thumbnails(folder / "thumbnails"), found.signatures, before, opened, run.params.embed.largest, bad
    )
    added, kept = work.embed([path for path in found.signatures if path not in known])
    drop_stale(shards, found.signatures)
    now = stored(shards)
    reasons = {path: obstacle(kind) for path, kind in found.unsupported.items()}
    write_json(folder / BAD_NAME, dict(sorted({**bad, **reasons}.items())))
    if not now:
        raise PipelineError(
            f"{' and '.join(record.roots)}: none of {len(found.signatures):,} files can be read as a photo; see "
            f"{folder / BAD_NAME}"
        )
    settings = run.params.index
    contents = sorted((path, row.content) for path, row in now.items())
    state = digest_of(contents, alignment, settings.kind, settings.dimension)
    words = ""
    if state != record.state or not is_whole(folder / "index"):
        words = _build(run, folder, sorted(shards.glob("part-*.parquet")))
        work.thumbnails.keep_only({row.content for row in now.values()})
        write_record(folder, replace(record, alignment=alignment, state=state))
    return Update(len(now), added, kept, len(before.keys() - now.keys()), bad, found.unsupported, words)


def _build(run: Run, folder: Path, tables: Sequence[Path]) -> str:
    """Builds the index of a generation in the process that holds FAISS; returns its kind in words."""
    kind, index = run.params.retrieval.alignment, run.params.index
    fitted = None if kind == "none" else alignment_file(run)
    job = BuildJob(tuple(tables), fitted, kind, index.kind, index.dimension, folder / "index", index_made_by(run))
    with closing(RemoteFaiss()) as faiss:
        return faiss.build(job).settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of indexing that other commands have too."""
    parser.add_argument(
        "--exclude", action="append", metavar="PATTERN",
        help="leave out files and folders of this name (*, ? and [a-z]), or of this path if it holds a slash; may be "
        "repeated, and is kept for later updates; an empty one leaves out nothing any more",
    )  # fmt: skip
    parser.add_argument(
        "--index", type=Path, metavar="FOLDER", help="the folder of the index, where not its usual place"
    )
    parser.add_argument(
        "--links", action=argparse.BooleanOptionalAction, default=None,
        help="follow links that lead out of the folders; kept for later updates (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--afresh", action="store_true", help="embed all photos again; until that is done the old index is searched"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "photos", type=Path, nargs="*", metavar="FOLDER",
        help="folders of photos, of any nesting and format; none brings the index that is there up to date",
    )  # fmt: skip
    add_options(parser)
    add_run(parser, None)


def run(asked: argparse.Namespace) -> int:
    """Updates the index and says what it did."""
    model = Run.open(asked.run or box())

    def opened() -> "QueryEncoder":
        from pipeline_lib.search.engine import open_encoder  # noqa: PLC0415  loads what computes vectors

        # The other half of the cores decodes photos.
        return open_encoder(model, max(model.params.embed.threads, (os.cpu_count() or 1) // 2))

    done = update(
        model, asked.photos or (), opened, exclude=asked.exclude, afresh=asked.afresh, index=asked.index,
        links=asked.links,
    )  # fmt: skip
    for path, why in sorted(done.bad.items())[:NAMED]:
        print(printable(f"  skipped {path}: {why}"))
    if len(done.bad) > NAMED:
        print(f"  and {len(done.bad) - NAMED:,} more, which {BAD_NAME} beside the index names")
    for words in told(done.unsupported):
        print(printable(f"  passed over {words}"))
    kept = f"{done.kept:,} known by their content, " if done.kept else ""
    print(
        f"{done.photos:,} photos in {own_folder(model, asked.index)}: {done.added:,} embedded, {kept}"
        f"{done.removed:,} removed, {len(done.bad):,} skipped; {done.settings or 'the index is as it was'}"
    )
    return 0
