"""From whole images to Parquet tables of vectors: several batches at once, each on one core.

A core that works by itself never waits for another, where layers that are shared by cores wait at the end of each; on
two cores with other work that halves the time. And vectors do not depend on how many cores there are.

Tables are made part by part (`data.parts`), and parts that are finished are kept: an interrupted stage goes on, and an
image more costs its own part.
"""

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline_lib import params
from pipeline_lib.data.ahead import map_ahead
from pipeline_lib.data.source import Source
from pipeline_lib.data.tasks import Stats, finished_stats, stats_path
from pipeline_lib.embedding.images import SEARCHED, Images, Item, pretext_images, searched_images
from pipeline_lib.embedding.kept import Kept
from pipeline_lib.embedding.vectors import Vectors, copy_rows, vector_table, vector_writer
from pipeline_lib.files import write_json
from pipeline_lib.models.inputs import normalise, scaled

Embed = Callable[[Tensor], Tensor]
"""The function from float32[N, 3, size, size] to float[N, D]."""
SPENT: Final = ("seconds", "reading", "writing")
PRETEXT: Final = {"pretext_photos": "photo", "pretext_edges": "edges"}
"""Tables of pretext images, and the columns of the pairs that they are made from."""
Names = tuple[list[str], list[str], list[str]]
"""image_id, class_name and instance_id of N images."""
Result = TypeVar("Result")


class Computed(NamedTuple, Generic[Result]):
    """What a network made of a batch of images."""

    names: Names
    found: Result
    reading: float  # seconds that reading and scaling them took


def computed(
    chunks: Iterable[list[Item]],
    total: int,
    work: Callable[[Tensor], Result],
    settings: params.Train,
    *,
    size: int,
    description: str,
) -> Generator[Computed[Result]]:
    """What a network makes of images, in their order, under a progress bar.

    As many batches at once as torch has threads (`use_threads`), each read, scaled and computed by one thread.

    Args:
        chunks: batches of images.
        total: how many images, for the progress bar.
        work: the function of a batch, float32[N, 3, size, size], channels last; called by several threads at once.
        settings: section `train` of the encoder.
        size: px of the square that images are scaled to.
        description: of the progress bar.
    """
    threads = torch.get_num_threads()

    @torch.inference_mode()
    def result(chunk: list[Item]) -> tuple[Result, float]:
        started = time.perf_counter()
        images = torch.from_numpy(np.stack([scaled(pixels(), size) for *_, pixels in chunk]))
        read = time.perf_counter() - started
        return work(normalise(images, settings).contiguous(memory_format=torch.channels_last)), read

    bar = tqdm(total=total, desc=description, unit="image", unit_scale=True, mininterval=1.0)
    # The number that torch is given here holds for the thread that gives it.
    with bar, ThreadPoolExecutor(threads, "embed", torch.set_num_threads, (1,)) as pool:
        try:
            for chunk, (found, read) in map_ahead(pool, result, chunks, 2 * threads + 1):
                names, classes, instances, _ = map(list, zip(*chunk, strict=True))
                bar.update(len(chunk))
                yield Computed((names, classes, instances), found, read)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def export(
    images: Images,
    systems: Mapping[Path, Embed],
    settings: params.Train,
    kept: Kept,
    *,
    size: int,
    batch: int,
    description: str,
) -> dict[Path, Stats]:
    """Embeds images and writes one table per system, whole or not at all; finished parts are kept.

    Args:
        images: in the order of the tables.
        systems: per target file what embeds a batch.
        settings: section `train` of the encoder.
        kept: where finished parts are.
        size: px of the square that images are scaled to.
        batch: images a batch.
        description: of the progress bar.

    Returns:
        Of each system `rows`, and the `seconds` of all processors that its network took, divided by their number;
        `reading` and `writing` are seconds of single threads, which work at once.
    """
    with ExitStack() as stack:
        tables = {
            path: stack.enter_context(vector_writer(path, width_of(embed, size))) for path, embed in systems.items()
        }
        sizes = {"size": size, "batch": batch}
        parts = embed_parts(images, systems, settings, kept, tables, **sizes, description=description)
    stats = {}
    for path, shards in parts.items():
        found = [finished_stats(shard) or {} for shard in shards]
        stats[path] = {name: sum(each[name] for each in found) for name in ("rows", *SPENT)}
    return stats


@torch.inference_mode()
def width_of(embed: Embed, size: int) -> int:
    """Numbers per vector of a system that sees images of `size` px."""
    return int(embed(torch.zeros(1, 3, size, size)).shape[1])


@torch.inference_mode()
def embed_parts(
    images: Images,
    systems: Mapping[Path, Embed],
    settings: params.Train,
    kept: Kept,
    tables: Mapping[Path, pq.ParquetWriter] = MappingProxyType({}),
    *,
    size: int,
    batch: int,
    description: str,
) -> dict[Path, list[Path]]:
    """Makes those parts of every system's table that are missing; arguments as in `export`.

    All parts are added to `tables`, which write the whole ones, while the next are made.

    Returns:
        Of each system the files of all parts, in their order.
    """
    shards = {path: [kept.shard(path, part, size) for part in images.parts] for path in systems}
    todo = {
        number
        for number in range(len(images.parts))
        if any(finished_stats(of_system[number]) is None for of_system in shards.values())
    }
    widths = {path: width_of(embed, size) for path, embed in systems.items()} if todo else {}

    def embedded(images: Tensor) -> list[tuple[Vectors, float]]:
        found = []
        for embed in systems.values():
            started = time.perf_counter()
            vectors = embed(images).float().cpu().numpy()
            found.append((vectors, time.perf_counter() - started))
        return found

    total = sum(images.parts[number].rows for number in todo)
    chunks = images.chunks(todo, batch)
    with closing(computed(chunks, total, embedded, settings, size=size, description=description)) as ready:
        for number, part in enumerate(images.parts):
            if number in todo:
                places = {path: shards[path][number] for path in systems}
                spent = _write_part(islice(ready, math.ceil(part.rows / batch)), places, widths, tables)
                for path, seconds in spent.items():
                    write_json(stats_path(places[path]), {"rows": part.rows, **seconds})
            else:
                for path, writer in tables.items():
                    copy_rows(shards[path][number], writer)
    return shards


def _write_part(
    ready: Iterable[Computed[list[tuple[Vectors, float]]]],
    places: Mapping[Path, Path],
    widths: Mapping[Path, int],
    tables: Mapping[Path, pq.ParquetWriter],
) -> dict[Path, dict[str, float]]:
    """Writes a part of every system's table as its batches come; returns what was spent on each."""
    spent = {path: dict.fromkeys(SPENT, 0.0) for path in places}
    with ExitStack() as stack:
        writers = {
            # Compressed once is enough: in the whole table.
            path: [stack.enter_context(vector_writer(place, widths[path], "none")), *([tables[path]] if tables else ())]
            for path, place in places.items()
        }
        for names, found, reading in ready:
            for (path, some), (vectors, seconds) in zip(writers.items(), found, strict=True):
                started = time.perf_counter()
                rows = vector_table(*names, vectors)
                for writer in some:
                    writer.write_table(rows)
                spent[path]["writing"] += time.perf_counter() - started
                spent[path]["reading"] += reading
                spent[path]["seconds"] += seconds / torch.get_num_threads()  # so many were at work at once
    return spent


def export_all(
    systems: Mapping[Path, Embed],
    catalog: pd.DataFrame,
    source: Source,
    pairs: Path | None,
    settings: params.Train,
    framing: params.Embed,
    kept: Kept,
    *,
    size: int,
    batch: int,
) -> dict[Path, Stats]:
    """Writes the four tables of every system: photos, sketches, pretext_photos and pretext_edges.

    Args:
        systems: per target folder what embeds a batch.
        catalog: rows as in `schemas.CATALOG`.
        source: where gallery and query images are read.
        pairs: folder of pair shards, for the pretext images; None leaves these out.
        settings: section `train` of the encoder.
        framing: section `embed`, by which images are framed.
        kept: as in `export`.
        size: px of the square that images are scaled to.
        batch: images a batch.

    Returns:
        As `export`, of each system for its gallery and queries together.
    """
    tables = {name: searched_images(name, catalog, source, framing) for name in SEARCHED}
    if pairs is not None:
        tables |= {name: pretext_images(pairs, column, catalog, framing) for name, column in PRETEXT.items()}
    total: dict[Path, Stats] = {folder: {} for folder in systems}
    for name, images in tables.items():
        targets = {folder / f"{name}.parquet": embed for folder, embed in systems.items()}
        found = export(images, targets, settings, kept, size=size, batch=batch, description=f"embed {name}")
        if name in SEARCHED:
            for path, stats in found.items():
                before = total[path.parent]
                total[path.parent] = {key: before.get(key, 0) + value for key, value in stats.items()}
    return total
