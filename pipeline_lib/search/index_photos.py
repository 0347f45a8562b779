"""`drawfind index FOLDER ...`: indexes one's own photos, or brings their index up to date.

New photos are embedded, those that are gone dropped, and the rest kept. A photo is known by its path and by what the
system tells of its file; where that has changed, its content decides, so that a photo that was only moved, copied or
touched keeps its vector. Photos whose whole folder is gone or empty are offline, as on a drive that is not plugged in:
they are kept until `--prune`. Vectors lie in shards of `vectors/`, each written whole, so that an interrupted update
goes on where it stopped, and several processes may take some of them each (`--part`). The process that holds FAISS
builds the index from the shards, or changes it. No network is loaded before there is something to embed.
"""

import argparse
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from pipeline_lib.data.cores import usable_cores
from pipeline_lib.data.formats import Format, obstacle
from pipeline_lib.data.remote import is_address, open_address
from pipeline_lib.errors import PipelineError, printable
from pipeline_lib.files import digest_of, held_by, holding, write_json
from pipeline_lib.index.facts import BuildJob, is_whole
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.run import Run
from pipeline_lib.search.command import add_run, box
from pipeline_lib.search.gallery import index_rows
from pipeline_lib.search.own_files import Files, Mask, Shard, shard_files
from pipeline_lib.search.own_listing import Found, find, is_below, offline_of, unread
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
from pipeline_lib.search.own_shards import TOLD, Looked, Told, Work, arrange, look, settle, told_rows
from pipeline_lib.search.thumbnails import Thumbnails

if TYPE_CHECKING:  # it would load what computes vectors
    from pipeline_lib.search.engine import QueryEncoder

NAMED: Final = 20
"""Skipped files that are named at most; the file `BAD_NAME` names all."""
LOOKING_SECONDS: Final = 2.0
"""Time limit for another process to let go of a lock that it only looks at."""
BAD_NAME: Final = "bad.json"
"""What was skipped and why, for people to read; bad files are retried at every update."""


@dataclass(frozen=True)
class Part:
    """One of several processes that embed photos together."""

    number: int  # from 1
    count: int

    @classmethod
    def of_text(cls, text: str) -> "Part":
        """From `2/8`.

        Raises:
            argparse.ArgumentTypeError: it is no such pair.
        """
        number, _, count = text.partition("/")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise argparse.ArgumentTypeError(f"{text} is not one of the parts 1/N to N/N")

    def of(self, plan: Sequence[Shard]) -> Sequence[Shard]:
        """The shards that fall to this process."""
        return plan[self.number - 1 :: self.count]


@dataclass(frozen=True)
class Update:
    """What an update did."""

    photos: int  # in the index now
    added: int  # embedded by this update, because they are new or have changed
    kept: int  # of files that were moved, copied or touched, whose content has a vector already
    removed: int  # dropped from the index
    offline: dict[str, int]  # folder that is not there -> photos in it, which are kept
    bad: dict[str, str]  # path -> why it was skipped
    unsupported: dict[str, Format]  # path -> what it is: a picture of a format that can't be read here
    settings: str  # the kind of index, in words; "" where nothing changed, or a part was made


def update(
    run: Run,
    photos: Sequence[Path | str],
    opened: "Callable[[], QueryEncoder]",
    *,
    exclude: Sequence[str] | None = None,
    afresh: bool = False,
    index: Path | None = None,
    links: bool | None = None,
    prune: bool = False,
    part: Part | None = None,
) -> Update:
    """Brings the index of one's own photos up to date.

    Args:
        run: a finished run, whose model embeds them.
        photos: folders of photos, of any nesting and format, or their addresses; none for those of the index that is
            there.
        opened: opens the run's encoder; called once, and only if there is something to embed.
        exclude: patterns of what is left out, as `data.folder.find_images` takes them; None for those of the index.
        afresh: embed all photos again; the index that is there is searched until the new one is whole.
        index: the folder of the index, where not its usual place.
        links: whether links that lead out of the folders are followed; None as for the index that is there, else not.
        prune: drop the photos of folders that are not there.
        part: embed a part of the photos alone, and build nothing: the update without it that follows does.

    Raises:
        PipelineError: there are no photos, or a folder of the index is not named, or the model has changed, or another
            process is updating the index.
    """
    if part is not None and afresh:
        raise PipelineError("--afresh can't be done in parts; name another folder with --index")
    home, asked = own_home(run, index), _wanted(run, photos, exclude, index, links=links)
    found = find(asked.roots, asked.exclude, home, links=asked.links)
    if prune:
        asked = replace(asked, roots=tuple(root for root in asked.roots if root not in found.away))
    with _alone(home, part), closing(RemoteFaiss()) as faiss:
        folder, record = _begin(own_folder(run, index), asked, afresh=afresh, gone=found.away if prune else ())
        done = _update(run, folder, record, found, opened, faiss, prune=prune, part=part)
        if part is not None:
            return done
        # The index that was searched until now, and what earlier ones have left.
        for other in generations(home):
            if int(other.name) < int(folder.name):
                shutil.rmtree(other, ignore_errors=True)
    return done


def _wanted(
    run: Run, photos: Sequence[Path | str], exclude: Sequence[str] | None, index: Path | None, *, links: bool | None
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
    roots = _outermost(_folder(str(path)) for path in photos) if photos or there is None else there.roots
    patterns = (there.exclude if there else ()) if exclude is None else tuple(text for text in exclude if text.strip())
    followed = bool(there and there.links) if links is None else links
    return Record(roots, model_key(run), patterns, links=followed)


def _folder(photos: str) -> str:
    """A folder of photos, absolute and without links, or its address, as the record holds it."""
    if is_address(photos):
        return open_address(photos, "photos").as_posix().rstrip("/")
    root = Path(photos).expanduser().resolve()
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
    return tuple(root for root in given if not any(is_below(root, other) for other in given if other != root))


@contextmanager
def _alone(home: Path, part: Part | None) -> Iterator[None]:
    """Lets one process at a time change an index, or one process for each of its parts."""
    home.mkdir(parents=True, exist_ok=True)
    whole = home / ".lock"
    own = whole if part is None else home / f".lock-{part.number}-of-{part.count}"
    others = home.glob(".lock-*") if part is None else [whole]
    with ExitStack() as held:
        # Another part may be looking at a lock of the others as well, for a moment.
        for lock, seconds in [(own, 0.0), *((other, LOOKING_SECONDS) for other in others)]:
            try:
                with FileLock(lock, timeout=seconds) as taken:
                    if lock == own:  # taken twice, so that it is kept when this block gives it back
                        held.enter_context(taken)
            except Timeout as failure:
                by = held_by(_holder(lock))
                raise PipelineError(f"{home}: is being updated by {by}; wait until it is done") from failure
        with holding(_holder(own)):
            yield


def _holder(lock: Path) -> Path:
    """The file that tells who holds a lock."""
    return lock.with_name(lock.name.replace("lock", "holder"))


def _begin(live: Path, asked: Record, *, afresh: bool, gone: Collection[str]) -> tuple[Path, Record]:
    """The generation to work in, and its record.

    Args:
        live: the generation that is there.
        asked: what the index is to be of.
        afresh: work in another one, that of an update afresh which was interrupted where it fits.
        gone: folders that the index need not be of any more.

    Raises:
        PipelineError: the index that is there is of other folders, or of another model.
    """
    if afresh:
        return _begin_afresh(live, asked)
    if (live / RECORD_NAME).exists() or (live.parent / RECORD_NAME).exists():
        record = read_folder(live)
        kept = {*asked.roots, *gone}
        lost = [root for root in record.roots if not any(is_below(root, other) for other in kept)]
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


def _update(
    run: Run,
    folder: Path,
    record: Record,
    found: Found,
    opened: "Callable[[], QueryEncoder]",
    faiss: RemoteFaiss,
    *,
    prune: bool,
    part: Part | None,
) -> Update:
    shards, files = folder / "vectors", found.files
    with FileLock(folder.parent / ".arranging"):
        before = look(shards, files)
        offline = offline_of(before.gone.slice(0, 0) if prune else before.gone, record, found.away)
        if len(offline):
            files = files.with_more(zip(*(offline[name].to_pylist() for name in TOLD[:2]), strict=True))
        plan = files.shards()
        if arrange(shards, plan) or len(offline):
            before = look(shards, files)
    bad = dict(found.skipped)
    work = Work(shards, Thumbnails(folder / "thumbnails"), before.told, opened, run.params.embed.largest, bad)
    mine = plan if part is None else part.of(plan)
    if part is None and not before.known.all():
        faiss.begin()
    added, kept = work.embed({bits: files.named(low, high, ~before.known[low:high]) for bits, low, high in mine})
    if part is not None:
        return Update(int(before.known.sum()) + added + kept, added, kept, 0, {}, bad, {}, "")
    come = _come_elsewhere(folder, offline)
    if come.any():
        files, before = _without(files, before, offline.filter(pa.array(come)))
        offline = offline.filter(pa.array(~come))
    told, there = settle(shards, files, before)
    reasons = {path: obstacle(kind) for path, kind in found.unsupported.items()}
    write_json(folder / BAD_NAME, dict(sorted({**bad, **reasons}.items())))
    if not told:
        raise PipelineError(
            f"{' and '.join(record.roots)}: none of {len(found.files):,} files can be read as a photo; see "
            f"{folder / BAD_NAME}"
        )
    words = _built(run, folder, record, told, faiss)
    count = sum(len(each.contents) for each in told.values())
    removed = len(before.gone) + int(come.sum()) + int((before.had & ~there).sum())
    away = dict(Counter(offline["folder"].to_pylist()))
    return Update(count, added, kept, removed, away, bad, found.unsupported, words)


def _come_elsewhere(folder: Path, offline: pa.Table) -> Mask:
    """Of which offline photos the same content has come to another path since the index was built."""
    if not len(offline):
        return np.zeros(0, np.bool_)
    rows = pa.concat_tables(map(told_rows, shard_files(folder / "vectors")))
    known = [offline["image_id"].combine_chunks()]
    if (folder / "index").exists():
        known.append(index_rows(folder / "index").values)
    new = rows["content"].filter(pc.invert(pc.is_in(rows["image_id"], pa.concat_arrays(known))))
    return np.asarray(pc.is_in(offline["content"], new.combine_chunks()))


def _without(files: Files, before: Looked, rows: pa.Table) -> tuple[Files, Looked]:
    """The files without those of some rows, and what was seen of the rest; shards with such rows are read again."""
    keep = ~np.asarray(pc.is_in(files.paths, rows["image_id"].combine_chunks()))
    contents = np.array(rows["content"].to_pylist(), np.bytes_)
    told = {path: told for path, told in before.told.items() if not np.isin(told.contents, contents).any()}
    return files.chosen(keep), replace(before, told=told, had=before.had[keep], known=before.known[keep])


def _built(run: Run, folder: Path, record: Record, told: Mapping[Path, Told], faiss: RemoteFaiss) -> str:
    """Brings the index of a generation up to its shards; its kind in words, "" where nothing has changed."""
    alignment, settings = alignment_key(run), run.params.index
    state = digest_of([each.digest for each in told.values()], alignment, settings.kind, settings.dimension)
    if state == record.state and is_whole(folder / "index"):
        return ""
    kind = run.params.retrieval.alignment
    fitted = None if kind == "none" else alignment_file(run)
    job = BuildJob(tuple(told), fitted, kind, settings.kind, settings.dimension, folder / "index", index_made_by(run))
    words = faiss.build(job).settings
    Thumbnails(folder / "thumbnails").keep_only(np.sort(np.concatenate([each.contents for each in told.values()])))
    write_record(folder, replace(record, alignment=alignment, state=state))
    return words


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
        "--prune", action="store_true", help="drop the photos of folders and drives that are not there any more"
    )
    parser.add_argument(
        "--afresh", action="store_true", help="embed all photos again; until that is done the old index is searched"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "photos", nargs="*", metavar="FOLDER",
        help="folders of photos, of any nesting and format, or addresses of such (s3://bucket/photos, see "
        "docs/scale.md); none brings the index that is there up to date",
    )  # fmt: skip
    parser.add_argument(
        "--part", type=Part.of_text, metavar="I/N",
        help="embed the I-th of N parts of the photos alone, for N processes on as many machines that share the "
        "folders; the same command without it then takes up what is left and builds the index",
    )  # fmt: skip
    add_options(parser)
    add_run(parser, None)


def run(asked: argparse.Namespace) -> int:
    """Updates the index and says what it did."""
    model = Run.open(asked.run or box())

    def opened() -> "QueryEncoder":
        from pipeline_lib.search.engine import open_encoder  # noqa: PLC0415  loads what computes vectors

        # The other half of the cores decodes photos.
        return open_encoder(model, max(model.params.embed.threads, usable_cores() // 2))

    part: Part | None = getattr(asked, "part", None)
    done = update(
        model, asked.photos or (), opened,
        exclude=asked.exclude, afresh=asked.afresh, index=asked.index, links=asked.links, prune=asked.prune, part=part,
    )  # fmt: skip
    for path, why in sorted(done.bad.items())[:NAMED]:
        print(printable(f"  skipped {path}: {why}"))
    if len(done.bad) > NAMED:
        print(f"  and {len(done.bad) - NAMED:,} more, which {BAD_NAME} beside the index names")
    for words in unread(done.unsupported):
        print(printable(f"  passed over {words}"))
    for place, count in done.offline.items():
        print(printable(f"  offline {place}: its {count:,} photos are kept; --prune drops them"))
    kept = f"{done.kept:,} known by their content, " if done.kept else ""
    if part is not None:
        print(f"part {part.number} of {part.count}: {done.added:,} embedded, {kept}{len(done.bad):,} skipped")
        return 0
    print(
        f"{done.photos:,} photos in {own_folder(model, asked.index)}: {done.added:,} embedded, {kept}"
        f"{done.removed:,} removed, {len(done.bad):,} skipped; {done.settings or 'the index is as it was'}"
    )
    return 0
