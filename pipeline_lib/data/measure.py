"""Opens every image of a source once: its size, fingerprint and digest, or what is wrong with it."""

from dataclasses import asdict, dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline_lib.data.images import BadImage
from pipeline_lib.data.leakage import fingerprint
from pipeline_lib.data.parts import cut
from pipeline_lib.data.schemas import read_parquet, write_rows
from pipeline_lib.data.source import Entry, Source
from pipeline_lib.data.tasks import Stats, finished_stats, map_shards, reopen_bad, stats_or_raise, stats_path
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of, exclusive

LISTING = pa.schema([(name, pa.string()) for name in [*Entry.__dataclass_fields__, "signature"]])
MEASURED = pa.schema(
    [
        *LISTING,
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fingerprint", pa.string()),
        ("content", pa.string()),
        ("error", pa.string()),  # "" if the image is good
    ]
)


@dataclass(frozen=True)
class MeasureTask:
    """Some images to open."""

    path: Path  # the shard to write, columns as in MEASURED
    rows: int  # how many images
    listing: Path  # the shard that lists them, columns as in LISTING
    source: Source  # where they come from


def read_images(source: Source, scratch: Path, workers: int, ray: str = "") -> pa.Table:
    """Opens all images of a source, in parallel.

    Args:
        source: where they come from.
        scratch: a folder for finished shards, which are not read again while their files stay the same; shards with a
            bad image are. A second process that uses the folder waits.
        workers: processes; 0 takes one per core.
        ray: as in `map_shards`.

    Returns:
        One row per entry, reserved ones last; columns as in MEASURED, without the signature.

    Raises:
        PipelineError: a shard could not be written, or there is no cluster at `ray`.
    """
    columns = [name for name in MEASURED.names if name != "signature"]
    with exclusive(scratch):
        tasks = _list_images(source, scratch)
        outcomes = map_shards(measure, tasks, workers=workers, description="reading images", unit="image", ray=ray)
        reopen_bad(outcomes)
        stats_or_raise(outcomes)
        for task in tasks:
            task.listing.unlink(missing_ok=True)
        tables = [read_parquet(task.path, columns, use_threads=False) for task in tasks]
    return pa.concat_tables(tables or [MEASURED.empty_table().select(columns)])


def _list_images(source: Source, scratch: Path) -> list[MeasureTask]:
    """Writes the list of images in shards, so that neither this process nor a task holds all of it."""
    tasks: list[MeasureTask] = []
    images = chain(source.entries(), source.reserved())
    waiting = ({**asdict(entry), "signature": source.signature(entry.path)} for entry in images)
    for rows in cut(waiting, itemgetter("path")):
        # Named by their content, so that a shard of unchanged files is found again.
        key = digest_of(rows)[:24]
        task = MeasureTask(scratch / f"part-{key}.parquet", len(rows), scratch / f"listing-{key}.parquet", source)
        if finished_stats(task.path) is None:
            write_rows(task.listing, rows, LISTING)
        tasks.append(task)
    current = {name for task in tasks for name in (task.path, stats_path(task.path), task.listing)}
    for old in scratch.glob("*-*"):
        if old not in current:
            old.unlink()
    return tasks


def measure(task: MeasureTask) -> Stats:
    """Opens the images of one task and writes one row each, as in MEASURED."""
    rows = read_parquet(task.listing).to_pylist()
    last: tuple[tuple[str, str], dict[str, Any]] | None = None
    for row in rows:
        # The same image in two roles makes two rows in succession; open it once.
        key = (row["path"], row["domain"])
        if last is None or last[0] != key:
            last = (key, _measure_one(task.source, row))
        row.update(last[1])
    write_rows(task.path, rows, MEASURED)
    return {"rows": len(rows), "bad": sum(1 for row in rows if row["error"])}


def _measure_one(source: Source, row: dict[str, Any]) -> dict[str, Any]:
    try:
        image = source.load(row["path"], row["domain"], row["image_id"])
        height, width = image.shape[:2]
        content = source.content(row["path"])
        return {"width": width, "height": height, "fingerprint": fingerprint(image), "content": content, "error": ""}
    except (BadImage, PipelineError) as failure:
        return {"width": 0, "height": 0, "fingerprint": "", "content": "", "error": str(failure) or "unreadable"}
