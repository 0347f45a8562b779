"""From whole images to vectors: the trained encoder, its start, and the export into Parquet tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from pipeline_lib import params
from pipeline_lib.data.files import read_json, replacing
from pipeline_lib.data.images import BadImage, decode_encoded
from pipeline_lib.data.schemas import embeddings_schema, opened_shard, shard_paths
from pipeline_lib.data.source import Source
from pipeline_lib.errors import PipelineError
from pipeline_lib.models import earlier
from pipeline_lib.models.context import normalise
from pipeline_lib.models.device import choose_device
from pipeline_lib.models.encoder import Encoder

Item = tuple[str, str, str, NDArray[np.uint8]]
"""image_id, class_name, instance_id, uint8[H, W, 3] or uint8[H, W]."""


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder in evaluation mode and the params it was trained with."""

    encoder: Encoder
    train: params.Train
    meta: dict[str, Any]
    device: torch.device


def load_encoder(folder: Path, weights: str = "encoder.safetensors") -> LoadedEncoder:
    """Loads an encoder that the train stage wrote.

    Args:
        folder: with `meta.json` and the weights.
        weights: `encoder.safetensors` (trained) or `start.safetensors` (before the first step).

    Raises:
        PipelineError: a file is missing, damaged, or does not fit the record.
    """
    meta = read_json(folder / "meta.json")
    try:
        settings = params.Train.model_validate({**earlier.TRAIN, **meta["params"]["train"]})
        encoder = Encoder(settings, int(meta["params"]["patches"]["size"]))
    except (KeyError, TypeError, ValueError) as failure:
        raise PipelineError(
            f"{folder / 'meta.json'}: tells of no network that this version can build ({failure}); run `dvc repro`"
        ) from failure
    try:
        encoder.load_state_dict(load_file(folder / weights))
    except (OSError, RuntimeError, SafetensorError) as failure:
        raise PipelineError(f"{folder / weights}: can't be used ({failure}); run `dvc repro train` again") from failure
    encoder.eval()
    # CUDA is what it was trained on; where it is used, another machine may have none.
    device = choose_device(settings.model_copy(update={"device": "cpu" if settings.device == "cpu" else "auto"}))
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedEncoder(encoder, settings, meta, device)


def prepare(image: NDArray[np.uint8], size: int, settings: params.Train) -> Tensor:
    """A whole image as the encoder's input.

    Args:
        image: uint8[H, W, 3] RGB, or uint8[H, W].
        size: px; the image is scaled to this square, bilinear with antialiasing, whatever its aspect ratio.
        settings: section `train` (colour, normalisation).

    Returns:
        float32[1, 3, size, size].
    """
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    scaled = functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return normalise(scaled.permute(0, 2, 3, 1).contiguous(), settings)


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
        writers = {}
        for path, embed in systems.items():
            width = embed(torch.zeros(1, 3, size, size)).shape[1]
            aside = stack.enter_context(replacing(path))
            # Left before the file takes its name, since an ExitStack unwinds from the last.
            writers[path] = stack.enter_context(
                pq.ParquetWriter(aside, embeddings_schema(width), compression="lz4", use_dictionary=False)
            )
        with tqdm(total=total, desc=description, unit="image", unit_scale=True, mininterval=1.0) as bar:
            for chunk in batched(items, batch):
                images = torch.cat([prepare(item[3], size, settings) for item in chunk])
                for path, embed in systems.items():
                    started = time.perf_counter()
                    vectors = embed(images.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
                    seconds[path] += time.perf_counter() - started
                    writers[path].write_table(_table(chunk, vectors))
                bar.update(len(chunk))
    return seconds


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of at most `size` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _table(items: list[Item], vectors: NDArray[np.float32]) -> pa.Table:
    names = [pa.array([item[column] for item in items], pa.string()) for column in range(3)]
    width = vectors.shape[1]
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), width)
    return pa.table([*names, values], schema=embeddings_schema(width))


def export_all(
    systems: dict[Path, Callable[[Tensor], Tensor]],
    catalog: pd.DataFrame,
    source: Source,
    pairs: Path,
    settings: params.Train,
    *,
    size: int,
    batch: int,
) -> dict[Path, float]:
    """Writes the four tables of every system: photos, sketches, pretext_photos and pretext_edges.

    Args:
        systems: per target folder the function from float32[N, 3, size, size] to float[N, D].
        catalog: rows as in `schemas.CATALOG`.
        source: where gallery and query images are read.
        pairs: folder of pair shards, for the pretext images.
        settings: section `train` of the encoder.
        size: px of the square that images are scaled to.
        batch: images a batch.

    Returns:
        Seconds each system took for its gallery and queries.
    """
    seconds = dict.fromkeys(systems, 0.0)
    pretext = int((catalog["role"] == "pretext").sum())
    tables: dict[str, tuple[Iterable[Item], int]] = {}
    for name, role in (("photos", "gallery"), ("sketches", "query")):
        rows = catalog[catalog["role"] == role].sort_values("image_id")
        tables[name] = (catalog_images(rows, source), len(rows))
    for name, column in (("pretext_photos", "photo"), ("pretext_edges", "edges")):
        tables[name] = (pair_images(pairs, column, catalog), pretext)
    for name, (items, total) in tables.items():
        targets = {folder / f"{name}.parquet": embed for folder, embed in systems.items()}
        spent = export(items, total, targets, settings, size=size, batch=batch, description=f"embed {name}")
        if name in ("photos", "sketches"):
            for path, value in spent.items():
                seconds[path.parent] += value
    return seconds
