"""The index of one's own photos: where it lies, whose photos they are, and which model embedded them.

An index is made in a numbered folder, a generation. The highest one that is finished is searched; another is made
beside it when all photos are to be embedded afresh, and takes its place once it is whole.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.data.folder import FolderSource
from pipeline_lib.data.remote import place_of
from pipeline_lib.data.schemas import read_parquet
from pipeline_lib.embedding.alignment import FILE_NAME
from pipeline_lib.embedding.embedder import beside
from pipeline_lib.embedding.projection import FILE_NAME as PROJECTION
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of, digest_of_file, read_sealed, write_sealed
from pipeline_lib.params import fingerprint
from pipeline_lib.registry import TRANSDUCTIVE
from pipeline_lib.run import Run, params_key
from pipeline_lib.search.gallery import Gallery, Kept, Names, index_rows
from pipeline_lib.search.own_files import shard_files
from pipeline_lib.search.stacks import MARK_BYTES, Marks
from pipeline_lib.search.thumbnails import Thumbnails

PROGRAM: Final = "drawfind"
RECORD_NAME: Final = "record.json"
CHANGED: Final = "the model, or section embed of the params, has changed since these photos were indexed"
AFRESH: Final = (
    "to embed all photos again, run `drawfind index --afresh` with your folders, or `make index PHOTOS=/your/folder "
    "AFRESH=1`"
)
OWN_PIXELS: Final = 178_000_000
"""Pixels of one's own photos that are decoded at most: as many as Pillow reads, which take 0.7 GB. Larger JPEGs are
decoded at a part of their size."""
KEPT: Final = pa.schema(
    [
        ("image_id", pa.large_string()), ("content", pa.large_string()), ("mark", pa.binary(MARK_BYTES)),
        ("taken", pa.int64()), ("signature", pa.large_string()),
    ]
)  # fmt: skip
"""Columns of a shard that a search needs beside the vectors; all names together may be longer than 2 GB."""
State = Literal["none", "unfinished", "ready"]


@dataclass(frozen=True)
class Record:
    """Written when an index is begun, and again whenever it is finished."""

    roots: tuple[str, ...]  # the folders of photos, absolute
    model: str  # `model_key` of the run that embedded them
    exclude: tuple[str, ...] = ()  # patterns of what is left out, as `data.folder.list_images` takes them
    alignment: str = ""  # `alignment_key` that the index was built with; "" before it was
    state: str = ""  # key of the photos in the index and of its settings; "" before it was built
    links: bool = False  # whether links that lead out of the folders are followed


def user_folder() -> Path:
    """Where this system keeps the data of a user's programs."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / PROGRAM


def own_home(run: Run, index: Path | None = None) -> Path:
    """Where the index of one's own photos belongs, with all its generations.

    Args:
        run: whose model embeds them. An exported run may be read-only, so its index lies in the user's own folder.
        index: another place, that the user has named.
    """
    if index is not None:
        return index.expanduser().resolve()
    return user_folder() / run.name if run.exported.exists() else run.folder / "own_index"


def generations(home: Path) -> list[Path]:
    """The generations below a home, oldest first."""
    numbered = (folder for folder in home.glob("*") if folder.name.isdecimal() and folder.is_dir())
    return sorted(numbered, key=lambda folder: int(folder.name))


def own_folder(run: Run, index: Path | None = None) -> Path:
    """The generation that is searched and updated: the last that is finished, else the last that was begun."""
    home = own_home(run, index)
    found = generations(home)
    return next((folder for folder in reversed(found) if finished(folder)), found[-1] if found else home / "1")


def finished(folder: Path) -> bool:
    """Whether a generation was made to its end."""
    try:
        return bool(read_folder(folder).state) and (folder / "index").exists()
    except PipelineError:
        return False


def own_state(run: Run, index: Path | None = None) -> State:
    """Whether there is an index of one's own photos: none, one that was begun and not finished, or one to search."""
    folder = own_folder(run, index)
    if finished(folder):
        return "ready"
    # Earlier versions had their record, which can't be used any more, where the generations lie now.
    began = (folder / RECORD_NAME).exists() or (folder.parent / RECORD_NAME).exists()
    return "unfinished" if began else "none"


def alignment_file(run: Run) -> Path:
    """The alignment that was fitted on the run's pretext photos and their edges."""
    return run.embeddings / FILE_NAME


def model_key(run: Run) -> str:
    """Changes with a run's networks and with how they embed images; not with speed."""
    others = [model_key(Run.open(folder, run.root)) for folder in beside(run.embeddings)]
    embed = fingerprint(run.params.embed, ("batch", "threads", "beside"))
    projection = run.embeddings / PROJECTION
    projected = [digest_of_file(projection)] if projection.exists() else []
    exported = [run.record["exported"]] if "exported" in run.record else []
    return digest_of(run.record["weights"], params_key(run.params), embed, *projected, *exported, *others)


def alignment_key(run: Run) -> str:
    """Changes with the alignment.

    Raises:
        PipelineError: there is none, or it is fitted on an evaluation's gallery and queries.
    """
    kind = run.params.retrieval.alignment
    if kind == "none":
        return "none"
    if kind in TRANSDUCTIVE:
        raise PipelineError(
            f"retrieval.alignment: {kind} is fitted on an evaluation's own gallery and queries, and can't serve your "
            "own photos; set it to pretext_mean"
        )
    return digest_of(kind, digest_of_file(alignment_file(run)))


def index_made_by(run: Run) -> str:
    """What an index holds of the model and alignment that made it."""
    return digest_of(model_key(run), alignment_key(run))


def read_record(run: Run, index: Path | None = None) -> Record:
    """The record of an index.

    Raises:
        PipelineError: there is none, or it is damaged.
    """
    return read_folder(own_folder(run, index))


def read_folder(folder: Path) -> Record:
    """The record of a generation; errors as in `read_record`."""
    path = folder / RECORD_NAME
    if not path.exists():
        old = folder.parent / RECORD_NAME
        if old.exists():
            raise PipelineError(f"{old}: was written by an earlier version; {AFRESH}")
        raise PipelineError(
            f"{folder}: there is no index of your own photos yet; run `drawfind index` with the folder of your photos, "
            "or `make index PHOTOS=/your/folder`"
        )
    try:
        values = read_sealed(path)
        lists = {name: tuple(values[name]) for name in ("roots", "exclude")}
        return Record(**{**values, **lists})
    except (TypeError, KeyError, PipelineError) as failure:  # `read_sealed` would name a stage, but none writes it
        raise PipelineError(f"{path}: is damaged; {AFRESH}") from failure


def write_record(folder: Path, record: Record) -> None:
    """Writes the record of a generation, whole or not at all."""
    write_sealed(folder / RECORD_NAME, asdict(record))


def check_model(run: Run, index: Path | None = None) -> None:
    """Makes sure that an index is searched with the model that made it.

    Raises:
        PipelineError: it is not finished, or the model or its alignment has changed; says what to run.
    """
    record, own = read_record(run, index), own_folder(run, index)
    if record.model != model_key(run):
        raise PipelineError(
            f"{own}: {CHANGED}; {AFRESH}. To search the pipeline's own gallery instead: `make serve GALLERY=pipeline`"
        )
    again = f"run `drawfind index`, or `make index PHOTOS={record.roots[0]}`, again; what is done is kept"
    if not finished(own):
        raise PipelineError(f"{own}: indexing was started and is not finished; {again}")
    if record.alignment != alignment_key(run):
        raise PipelineError(f"{own}: the alignment has changed since these photos were indexed; {again}")


def own_gallery(record: Record, index_folder: Path, max_pixels: int = OWN_PIXELS) -> Gallery:
    """The photos of the index, in its order."""
    try:
        roots = tuple(map(place_of, record.roots))
    except OSError as failure:
        raise PipelineError(
            f"{' and '.join(record.roots)}: can't be opened ({failure}); install universal_pathlib, see docs/scale.md"
        ) from failure
    image_ids = index_rows(index_folder)
    names = ", ".join(root.name or str(root) for root in roots)
    source = FolderSource(roots[0] if len(roots) == 1 else Path(), max_pixels, "")
    kept = _kept(index_folder.parent, image_ids)
    return Gallery(names, image_ids, _shown(image_ids, roots), "photo", source, roots, kept)


def _shown(image_ids: Names, roots: tuple[Path, ...]) -> Names:
    """Of each photo its path below the only root; with several roots its whole path."""
    return image_ids.without(f"{roots[0].as_posix().rstrip('/')}/") if len(roots) == 1 else image_ids


def read_shard(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A shard of one's own photos, or some of its columns.

    Raises:
        PipelineError: it can't be read; names it.
    """
    try:
        return read_parquet(path, columns)
    except (OSError, pa.ArrowException, KeyError) as failure:
        raise PipelineError(
            f"{path}: can't be read ({failure}); delete it and run `drawfind index` (or `make index`) again"
        ) from failure


def _kept(folder: Path, image_ids: Names) -> Kept:
    """What a generation holds of its photos beside their vectors."""
    tables, columns = [KEPT.empty_table()], KEPT.names
    for path in shard_files(folder / "vectors"):
        try:
            tables.append(read_shard(path, columns).cast(KEPT))
        except PipelineError:
            if path.exists():
                raise
            continue  # an update that goes on meanwhile has dropped it
    rows = pa.concat_tables(tables)
    found = rows.take(pc.index_in(image_ids.values, rows["image_id"].combine_chunks()))
    contents, marks, taken, signatures = (found[name].combine_chunks() for name in columns[1:])
    bits = np.frombuffer(marks.fill_null(bytes(MARK_BYTES)).buffers()[1], np.uint8)[: MARK_BYTES * len(found)]
    each = Marks(bits.reshape(-1, MARK_BYTES), taken.fill_null(0).to_numpy())
    texts = (Names(texts.fill_null("")) for texts in (contents, signatures))
    return Kept(Thumbnails(folder / "thumbnails"), next(texts), each, next(texts))
