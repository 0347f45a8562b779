"""`python -m pipeline_lib.search.index_photos FOLDER`: indexes one's own photos, or brings their index up to date.

New photos are embedded, those that are gone dropped, and the rest kept. A photo is known by its path, size and time.
Vectors lie in shards of `vectors/`, each written whole, so that an interrupted update goes on where it stopped. The
process that holds FAISS builds the index from the shards.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor
from tqdm import tqdm

from pipeline_lib.data.folder import FolderSource, image_files, left_out
from pipeline_lib.data.images import BadImage
from pipeline_lib.data.schemas import write_table
from pipeline_lib.embedding.vectors import Vectors, vector_table
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of, write_json
from pipeline_lib.index.facts import BuildJob
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.models.device import keep_freed_memory
from pipeline_lib.run import Run
from pipeline_lib.search.command import add_run, ended
from pipeline_lib.search.engine import QueryEncoder, open_encoder
from pipeline_lib.search.own_record import Record, alignment_file, alignment_key, begin_record, own_folder, write_record

SHARD_ROWS: Final = 512
READERS: Final = 4
"""Threads that decode photos while earlier ones are embedded."""
BAD_NAME: Final = "bad.json"
"""What was skipped and why, for people to read; bad files are retried at every update."""


@dataclass(frozen=True)
class Update:
    """What an update did."""

    photos: int  # in the index now
    added: int  # embedded by this update, because they are new or have changed
    removed: int  # dropped from the index
    bad: dict[str, str]  # path -> why it was skipped
    settings: str  # the kind of index, in words; "" where nothing changed


def update(run: Run, photos: Path, encoder: QueryEncoder, *, afresh: bool = False) -> Update:
    """Brings the index of one's own photos up to date.

    Args:
        run: a finished run, whose model embeds them.
        photos: folder of photos, of any nesting and format.
        encoder: of the run.
        afresh: drop an index that is there.

    Raises:
        PipelineError: the folder holds no photos, or is not that of the index, or the model has changed.
    """
    root = _folder(photos)
    own, alignment = own_folder(run), alignment_key(run)
    source = FolderSource(root, run.params.catalog.max_pixels, "")
    found = {path: source.signature(path) for path in image_files(root)}
    if not found:
        raise PipelineError(f"{root}: holds no photos; the index is left as it is")
    if afresh:
        shutil.rmtree(own, ignore_errors=True)
    record = begin_record(run, root)
    shards = own / "vectors"
    known, dropped = keep_current(shards, found)
    bad = dict(left_out(root))
    added = _embed([path for path in found if path not in known], found, source, encoder, shards, bad)
    write_json(own / BAD_NAME, dict(sorted(bad.items())))
    current, _ = keep_current(shards, found)
    if not current:
        raise PipelineError(f"{root}: none of its {len(found)} files can be read as a photo; see {own / BAD_NAME}")
    settings = run.params.index
    state = digest_of(sorted((path, found[path]) for path in current), alignment, settings.kind, settings.dimension)
    words = ""
    if state != record.state or not (own / "index").exists():
        words = _build(run, sorted(shards.glob("part-*.parquet")))
        write_record(run, Record(str(root), record.model, alignment, state))
    return Update(len(current), added, len(dropped - current), bad, words)


def _folder(photos: Path) -> Path:
    """The folder of photos, absolute and without links, as the record holds it."""
    root = photos.expanduser().resolve()
    if not root.is_dir():
        raise PipelineError(f"{photos}: is not a folder; name the one that holds your photos")
    try:
        str(root).encode()
    except UnicodeEncodeError as failure:
        raise PipelineError(f"{root}: the name is not UTF-8; rename the folder") from failure
    return root


def keep_current(shards: Path, found: dict[str, str]) -> tuple[set[str], set[str]]:
    """Drops vectors of photos that are gone or have changed.

    Args:
        shards: folder of shards.
        found: path -> signature of the photos that there are.

    Returns:
        The paths that have a vector, and those of which one was dropped.
    """
    known: set[str] = set()
    dropped: set[str] = set()
    for path in sorted(shards.glob("part-*.parquet")):
        try:
            rows = pq.read_table(path, columns=["image_id", "signature"])
        except (OSError, pa.ArrowException) as failure:
            raise PipelineError(f"{path}: can't be read ({failure}); delete it and run `make index` again") from failure
        names = rows["image_id"].to_pylist()
        pairs = zip(names, rows["signature"].to_pylist(), strict=True)
        keep = [name not in known and found.get(name) == signature for name, signature in pairs]
        for name, kept in zip(names, keep, strict=True):
            (known if kept else dropped).add(name)
        if not any(keep):
            path.unlink()
        elif not all(keep):
            write_table(path, pq.read_table(path).filter(pa.array(keep)))
    return known, dropped


def _embed(
    todo: Sequence[str],
    signatures: dict[str, str],
    source: FolderSource,
    encoder: QueryEncoder,
    shards: Path,
    bad: dict[str, str],
) -> int:
    """Embeds photos into new shards; those that can't be read are added to `bad`. Returns how many were embedded."""
    used = [int(path.stem.removeprefix("part-")) for path in shards.glob("part-*.parquet")]
    added = 0
    with (
        ThreadPoolExecutor(READERS) as readers,
        tqdm(total=len(todo), desc="embed photos", unit="photo", mininterval=1.0, disable=not todo) as bar,
    ):
        for number, start in enumerate(range(0, len(todo), SHARD_ROWS), max(used, default=-1) + 1):
            paths: list[str] = []
            vectors: list[Vectors] = []
            images = _read(todo[start : start + SHARD_ROWS], source, encoder, readers, bad, bar)
            while batch := list(islice(images, encoder.networks.batch)):
                paths += [path for path, _ in batch]
                vectors.append(encoder.raw([image for _, image in batch]))
            added += _write(shards / f"part-{number:05d}.parquet", paths, vectors, signatures, bad)
    return added


def _read(
    paths: Sequence[str],
    source: FolderSource,
    encoder: QueryEncoder,
    readers: ThreadPoolExecutor,
    bad: dict[str, str],
    bar: "tqdm[NoReturn]",
) -> Iterator[tuple[str, Tensor]]:
    """The readable photos in order, prepared for the encoder; a few are read ahead."""

    def read(path: str) -> Tensor | str:
        try:
            return encoder.networks.prepare(source.load(path, "photo", path))
        except (BadImage, OSError) as failure:
            return str(failure)
        except MemoryError:
            return "too large for this machine's memory"

    ahead = 4 * READERS
    waiting = [readers.submit(read, path) for path in paths[:ahead]]
    for place, path in enumerate(paths):
        image = waiting.pop(0).result()
        if place + ahead < len(paths):
            waiting.append(readers.submit(read, paths[place + ahead]))
        bar.update()
        if isinstance(image, str):
            bad[path] = image
        else:
            yield path, image


def _write(
    shard: Path, paths: list[str], vectors: list[Vectors], signatures: dict[str, str], bad: dict[str, str]
) -> int:
    """Writes a shard without vectors that can't be ranked; returns the number of its rows."""
    if not paths:
        return 0
    values = np.concatenate(vectors)
    lengths = np.einsum("ij,ij->i", values, values)
    good = np.isfinite(lengths) & (lengths > 0)
    bad.update({path: "its vector is zero or not finite" for path, fine in zip(paths, good, strict=True) if not fine})
    names = [path for path, fine in zip(paths, good, strict=True) if fine]
    if names:
        table = vector_table(names, [""] * len(names), names, values[good])
        write_table(shard, table.append_column("signature", pa.array([signatures[name] for name in names])))
    return len(names)


def _build(run: Run, tables: Sequence[Path]) -> str:
    """Builds the index from all shards in the process that holds FAISS; returns its kind in words."""
    kind, index = run.params.retrieval.alignment, run.params.index
    fitted = None if kind == "none" else alignment_file(run)
    job = BuildJob(tuple(tables), fitted, kind, index.kind, index.dimension, own_folder(run) / "index")
    with closing(RemoteFaiss()) as faiss:
        return faiss.build(job).settings


def index(asked: argparse.Namespace) -> int:
    """Updates the index and says what it did."""
    run = Run.open(asked.run)
    keep_freed_memory()
    done = update(run, asked.photos, open_encoder(run, run.params.embed.threads), afresh=asked.afresh)
    for path, why in sorted(done.bad.items()):
        print(f"  skipped {path}: {why}")
    changes = f"{done.added} embedded, {done.removed} removed, {len(done.bad)} skipped"
    print(f"{done.photos} photos in {own_folder(run)}: {changes}; {done.settings or 'the index is as it was'}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_lib.search.index_photos",
        description="Indexes a folder of photos with the trained model; run again, it embeds only what is new.",
    )
    parser.add_argument("photos", type=Path, metavar="FOLDER", help="photos of any nesting and format")
    parser.add_argument("--afresh", action="store_true", help="drop the index that is there and embed all photos again")
    add_run(parser)
    return ended(index, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
