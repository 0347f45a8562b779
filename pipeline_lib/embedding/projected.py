"""Embeds pretext pairs whole, fits the projection on them, and writes their projected vectors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline_lib import params
from pipeline_lib.embedding.export import PRETEXT, Computed, Result, computed
from pipeline_lib.embedding.images import framed_pairs, pretext_images
from pipeline_lib.embedding.kept import Kept
from pipeline_lib.embedding.networks import Networks, joined, maps_of, parts_of
from pipeline_lib.embedding.projection import FILE_NAME, Moments, Projection, channel_directions, fit
from pipeline_lib.embedding.vectors import Vectors, batched, vector_table, vector_writer

PAIRS = 8192
"""Pairs at most that are embedded and fitted on, evenly spread, so that memory stays bounded."""
STATISTICS = 512
"""Of these, pairs whose maps tell the principal directions of the channels: each has dozens of places."""
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Pretext:
    """Pretext pairs as a network's input."""

    networks: Networks
    pairs: Path  # folder of pair shards
    catalog: pd.DataFrame  # rows as in `schemas.CATALOG`

    @property
    def settings(self) -> params.Embed:
        """By which images are framed and embedded."""
        return self.networks.own.params.embed

    @property
    def total(self) -> int:
        """How many pairs there are."""
        return int((self.catalog["role"] == "pretext").sum())

    def computed(
        self, column: str, rows: Rows, work: Callable[[Tensor], Result], words: str
    ) -> Iterator[Computed[Result]]:
        """See `export.computed`: of some rows of a column."""
        wanted = set(rows.tolist())
        items = framed_pairs(self.pairs, column, self.catalog, self.settings)
        chosen = (item for number, item in enumerate(items) if number in wanted)
        chunks, own = batched(chosen, self.settings.batch), self.networks.own.train
        return computed(chunks, len(rows), work, own, size=self.networks.size, description=words)


def project(networks: Networks, pairs: Path, catalog: pd.DataFrame, out: Path, kept: Kept) -> Networks:
    """Fits the projection that `embed.channels` and `embed.dimension` ask for; one that was fitted before is taken.

    Args:
        networks: one network, without a projection.
        pairs: folder of pair shards.
        catalog: rows as in `schemas.CATALOG`.
        out: folder of embeddings, to which the projection and the tables of pretext pairs are written.
        kept: where they are kept.

    Returns:
        The network with its projection.
    """
    pretext = Pretext(networks, pairs, catalog)
    images = pretext_images(pairs, PRETEXT["pretext_photos"], catalog, pretext.settings)
    kept.made_once("projection", images.parts, partial(_fit, pretext), out)
    return replace(networks, projection=Projection.load(out / FILE_NAME))


@torch.inference_mode()
def _fit(pretext: Pretext, out: Path) -> None:
    settings = pretext.settings
    taken = spread(pretext.total, PAIRS)
    channels = channels_of(pretext, taken[spread(len(taken), STATISTICS)])
    found = {name: whole_vectors(pretext, column, taken, channels) for name, column in PRETEXT.items()}
    photos, edges = (views for _, views in found.values())
    projection = fit(photos, edges, channels, settings.dimension, settings.facing)
    projection.save(out / FILE_NAME)
    for name, (labels, views) in found.items():
        with vector_writer(out / f"{name}.parquet", projection.dimension) as writer:
            for start in range(0, len(labels), PAIRS // 8):
                block = slice(start, start + PAIRS // 8)
                vectors = projection.apply([view[block].astype(np.float32) for view in views])
                names, classes, instances = zip(*labels[block], strict=True)
                writer.write_table(vector_table(names, classes, instances, vectors))


def spread(total: int, most: int) -> Rows:
    """At most `most` of `total` rows, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(most, total), dtype=np.intp))


def channels_of(pretext: Pretext, rows: Rows) -> dict[str, Vectors]:
    """By map the principal directions of its channels, as `embed.channels` asks for; none where all are kept."""
    kept = pretext.settings.channels
    names = [name for name in pretext.settings.layers.split("+") if name != "fc6"] if kept else []
    maps = maps_of(pretext.networks.own, pretext.settings)

    def products(images: Tensor) -> dict[str, Moments]:
        found = maps(images.to(pretext.networks.own.device))
        places = {name: found[name].permute(0, 2, 3, 1).flatten(0, 2).double() for name in names}
        # The places' own products, their sum, and their number, all in one matrix.
        ended = {name: torch.cat([each, each.new_ones(len(each), 1)], dim=1) for name, each in places.items()}
        return {name: (each.T @ each).cpu().numpy() for name, each in ended.items()}

    moments: dict[str, Moments] = {}
    for column in PRETEXT.values() if names else ():
        for _, found, _ in pretext.computed(column, rows, products, f"channels of {column}"):
            for name in names:
                moments[name] = moments.get(name, 0.0) + found[name]
    return {name: channel_directions(covariance(found), kept) for name, found in moments.items()}


def covariance(moments: Moments) -> Moments:
    """float64[C, C] of summed products of rows with a 1 at their end, float64[C + 1, C + 1]."""
    count, mean = moments[-1, -1], moments[-1, :-1] / moments[-1, -1]
    found: Moments = moments[:-1, :-1] / count - np.outer(mean, mean)
    return found


def whole_vectors(
    pretext: Pretext, column: str, rows: Rows, channels: dict[str, Vectors]
) -> tuple[list[tuple[str, str, str]], list[NDArray[np.float16]]]:
    """Labels and vectors before the projection, float16[N, W], of images and, under `embed.facing`, mirror images."""
    parts = parts_of(pretext.networks.own, pretext.settings, channels)
    labels: list[tuple[str, str, str]] = []
    views: list[list[NDArray[np.float16]]] = []

    def vectors(images: Tensor) -> list[NDArray[np.float16]]:
        shown = (images, images.flip(-1)) if pretext.settings.facing else (images,)
        return [joined(parts(each)).cpu().numpy().astype(np.float16) for each in shown]

    for named, found, _ in pretext.computed(column, rows, vectors, f"embed {column}"):
        labels += zip(*named, strict=True)
        views.append(found)
    return labels, [np.concatenate(view) for view in zip(*views, strict=True)]
