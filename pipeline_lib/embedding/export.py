"""From whole images to Parquet tables of vectors: several batches at once, each on one core.

A core that works by itself never waits for another, where layers that are shared by cores wait at the end of each; on
two cores with other work that halves the time. And vectors do not depend on how many cores there are.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pipeline_lib import params
from pipeline_lib.data.ahead import map_ahead
from pipeline_lib.data.images import BadImage, decode_encoded
from pipeline_lib.data.schemas import opened_shard, shard_paths
from pipeline_lib.data.source import Source
from pipeline_lib.embedding.alignment import Domain
from pipeline_lib.embedding.framing import frame
from pipeline_lib.embedding.vectors import batched, vector_table, vector_writer
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.inputs import normalise, scaled

Pixels = NDArray[np.uint8]
"""uint8[H, W, 3] or uint8[H, W]."""
Item = tuple[str, str, str, Callable[[], Pixels]]
"""image_id, class_name, instance_id, and what loads the image."""
Names = tuple[list[str], list[str], list[str]]
"""image_id, class_name and instance_id of N images."""
Result = TypeVar("Result")


def catalog_images(catalog: pd.DataFrame, source: Source) -> Iterator[Item]:
    """The images of catalog rows, in their source."""
    columns = ("image_id", "class_name", "instance_id", "path", "domain")
    for image_id, class_name, instance_id, path, domain in zip(*(catalog[name] for name in columns), strict=True):
        yield image_id, class_name, instance_id, partial(load, source, path, domain, image_id)


def load(source: Source, path: str, domain: str, image_id: str) -> Pixels:
    """An image that the catalog holds.

    Raises:
        PipelineError: it can't be read any more.
    """
    try:
        return source.load(path, domain, image_id)
    except (BadImage, OSError) as failure:
        raise PipelineError(
            f"{path}: can't be read any more ({failure}); mend or remove it and run `dvc repro catalog` again"
        ) from failure


def framed(items: Iterable[Item], domain: Domain, settings: params.Embed) -> Iterator[Item]:
    """The same images as a search frames them."""

    def as_framed(pixels: Callable[[], Pixels]) -> Pixels:
        return frame(pixels(), domain, settings)

    for image_id, class_name, instance_id, pixels in items:
        yield image_id, class_name, instance_id, partial(as_framed, pixels)


def framed_pairs(pairs: Path, column: str, catalog: pd.DataFrame, settings: params.Embed) -> Iterator[Item]:
    """Photos or edge maps of all pairs, framed alike: an edge map lies on its photo, and is cut to no ink."""
    return framed(pair_images(pairs, column, catalog), "photo", settings)


def pair_images(folder: Path, column: str, catalog: pd.DataFrame) -> Iterator[Item]:
    """The photos (`photo`) or edge maps (`edges`) of all pairs, in the order of the shards."""
    classes = dict(zip(catalog["image_id"], catalog["class_name"], strict=True))
    for path in shard_paths(folder):
        with opened_shard(path) as file:
            for block in file.iter_batches(64, columns=["image_id", column]):
                for image_id, value in zip(block["image_id"].to_pylist(), block[column], strict=True):
                    pixels = partial(decode_encoded, value.as_buffer(), grey=column == "edges")
                    yield image_id, classes.get(image_id, ""), image_id, pixels


@torch.inference_mode()
def export(
    items: Iterable[Item],
    total: int,
    systems: dict[Path, Callable[[Tensor], Tensor]],
    settings: params.Train,
    *,
    size: int,
    batch: int,
    description: str,
) -> dict[Path, float]:
    """Embeds images and writes one table per system, whole or not at all, a batch at a time.

    Args:
        items: the images.
        total: how many, for the progress bar.
        systems: per target file the function from float32[N, 3, size, size] to float[N, D].
        settings: section `train` of the encoder.
        size: px of the square that images are scaled to.
        batch: images a batch.
        description: of the progress bar.

    Returns:
        Seconds each system took.
    """
    seconds = dict.fromkeys(systems, 0.0)

    def embedded(images: Tensor) -> list[tuple[NDArray[np.float32], float]]:
        found = []
        for embed in systems.values():
            started = time.perf_counter()
            vectors = embed(images).float().cpu().numpy()
            found.append((vectors, time.perf_counter() - started))
        return found

    with ExitStack() as stack:
        writers = {
            path: stack.enter_context(vector_writer(path, embed(torch.zeros(1, 3, size, size)).shape[1]))
            for path, embed in systems.items()
        }
        ready = computed(items, total, embedded, settings, size=size, batch=batch, description=description)
        for (names, classes, instances), found in stack.enter_context(closing(ready)):
            for path, (vectors, spent) in zip(systems, found, strict=True):
                writers[path].write_table(vector_table(names, classes, instances, vectors))
                seconds[path] += spent / torch.get_num_threads()  # so many were at work at once
    return seconds


def computed(
    items: Iterable[Item],
    total: int,
    work: Callable[[Tensor], Result],
    settings: params.Train,
    *,
    size: int,
    batch: int,
    description: str,
) -> Generator[tuple[Names, Result]]:
    """What a network makes of images, in their order, under a progress bar.

    As many batches at once as torch has threads (`use_threads`), each read, scaled and computed by one thread.

    Args:
        items: the images.
        total: how many, for the progress bar.
        work: the function of a batch, float32[N, 3, size, size], channels last; called by several threads at once.
        settings: section `train` of the encoder.
        size: px of the square that images are scaled to.
        batch: images a batch.
        description: of the progress bar.

    Returns:
        Batches of N names and what `work` returned.
    """
    threads = torch.get_num_threads()

    @torch.inference_mode()
    def result(chunk: list[Item]) -> Result:
        images = torch.from_numpy(np.stack([scaled(pixels(), size) for *_, pixels in chunk]))
        return work(normalise(images, settings).contiguous(memory_format=torch.channels_last))

    bar = tqdm(total=total, desc=description, unit="image", unit_scale=True, mininterval=1.0)
    # The number that torch is given here holds for the thread that gives it.
    with bar, ThreadPoolExecutor(threads, "embed", torch.set_num_threads, (1,)) as pool:
        try:
            for chunk, found in map_ahead(pool, result, batched(items, batch), 2 * threads + 1):
                names, classes, instances, _ = map(list, zip(*chunk, strict=True))
                bar.update(len(chunk))
                yield (names, classes, instances), found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def export_all(
    systems: dict[Path, Callable[[Tensor], Tensor]],
    catalog: pd.DataFrame,
    source: Source,
    pairs: Path | None,
    settings: params.Train,
    framing: params.Embed,
    *,
    size: int,
    batch: int,
) -> dict[Path, float]:
    """Writes the four tables of every system: photos, sketches, pretext_photos and pretext_edges.

    Args:
        systems: per target folder the function from float32[N, 3, size, size] to float[N, D].
        catalog: rows as in `schemas.CATALOG`.
        source: where gallery and query images are read.
        pairs: folder of pair shards, for the pretext images; None leaves these out.
        settings: section `train` of the encoder.
        framing: section `embed`, by which images are framed.
        size: px of the square that images are scaled to.
        batch: images a batch.

    Returns:
        Seconds each system took for its gallery and queries.
    """
    seconds = dict.fromkeys(systems, 0.0)
    pretext = int((catalog["role"] == "pretext").sum())
    tables: dict[str, tuple[Iterable[Item], int]] = {}
    sides: tuple[tuple[str, str, Domain], ...] = (("photos", "gallery", "photo"), ("sketches", "query", "sketch"))
    for name, role, domain in sides:
        rows = catalog[catalog["role"] == role].sort_values("image_id")
        tables[name] = (framed(catalog_images(rows, source), domain, framing), len(rows))
    if pairs is not None:
        for name, column in (("pretext_photos", "photo"), ("pretext_edges", "edges")):
            tables[name] = (framed_pairs(pairs, column, catalog, framing), pretext)
    for name, (items, total) in tables.items():
        targets = {folder / f"{name}.parquet": embed for folder, embed in systems.items()}
        spent = export(items, total, targets, settings, size=size, batch=batch, description=f"embed {name}")
        if name in ("photos", "sketches"):
            for path, value in spent.items():
                seconds[path.parent] += value
    return seconds
