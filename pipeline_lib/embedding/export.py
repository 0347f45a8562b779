"""From whole images to Parquet tables of vectors, a batch at a time."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pipeline_lib import params
from pipeline_lib.data.ahead import read_ahead
from pipeline_lib.data.images import BadImage, decode_encoded
from pipeline_lib.data.schemas import opened_shard, shard_paths
from pipeline_lib.data.source import Source
from pipeline_lib.embedding.alignment import Domain
from pipeline_lib.embedding.framing import frame
from pipeline_lib.embedding.vectors import batched, vector_table, vector_writer
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.inputs import normalise, scaled

Item = tuple[str, str, str, NDArray[np.uint8]]
"""image_id, class_name, instance_id, uint8[H, W, 3] or uint8[H, W]."""
Names = tuple[list[str], list[str], list[str]]
"""image_id, class_name and instance_id of N images."""


def catalog_images(catalog: pd.DataFrame, source: Source) -> Iterator[Item]:
    """The images of catalog rows, read from their source.

    Raises:
        PipelineError: an image that the catalog holds can't be read any more.
    """
    columns = ("image_id", "class_name", "instance_id", "path", "domain")
    for image_id, class_name, instance_id, path, domain in zip(*(catalog[name] for name in columns), strict=True):
        try:
            yield image_id, class_name, instance_id, source.load(path, domain, image_id)
        except (BadImage, OSError) as failure:
            raise PipelineError(
                f"{path}: can't be read any more ({failure}); mend or remove it and run `dvc repro catalog` again"
            ) from failure


def framed(items: Iterable[Item], domain: Domain, settings: params.Embed) -> Iterator[Item]:
    """The same images as a search frames them."""
    for image_id, class_name, instance_id, image in items:
        yield image_id, class_name, instance_id, frame(image, domain, settings)


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
                    image = decode_encoded(value.as_buffer(), grey=column == "edges")
                    yield image_id, classes.get(image_id, ""), image_id, image


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
    with ExitStack() as stack:
        writers = {
            path: stack.enter_context(vector_writer(path, embed(torch.zeros(1, 3, size, size)).shape[1]))
            for path, embed in systems.items()
        }
        ready = read_batches(items, total, settings, size=size, batch=batch, description=description)
        for (names, classes, instances), images in stack.enter_context(closing(ready)):
            for path, embed in systems.items():
                started = time.perf_counter()
                vectors = embed(images).float().cpu().numpy()
                seconds[path] += time.perf_counter() - started
                writers[path].write_table(vector_table(names, classes, instances, vectors))
    return seconds


def read_batches(
    items: Iterable[Item], total: int, settings: params.Train, *, size: int, batch: int, description: str
) -> Generator[tuple[Names, Tensor]]:
    """Images as a network's input, scaled ahead by a thread, under a progress bar.

    Args:
        items: the images.
        total: how many, for the progress bar.
        settings: section `train` of the encoder.
        size: px of the square that images are scaled to.
        batch: images a batch.
        description: of the progress bar.

    Returns:
        Batches of N names and float32[N, 3, size, size], channels last.
    """

    def prepared() -> Iterator[tuple[Names, Tensor]]:
        torch.set_num_threads(1)  # of the thread that reads: the network's take all cores
        for chunk in batched(items, batch):
            names, classes, instances, pixels = map(list, zip(*chunk, strict=True))
            images = normalise(torch.from_numpy(np.stack([scaled(image, size) for image in pixels])), settings)
            yield (names, classes, instances), images.contiguous(memory_format=torch.channels_last)

    bar = tqdm(total=total, desc=description, unit="image", unit_scale=True, mininterval=1.0)
    with bar, closing(read_ahead(prepared, "image-reader")) as ready:
        for names, images in ready:
            yield names, images
            bar.update(len(images))


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
