"""The service behind the HTTP API: admits queries, prepares and batches them, and describes what was found."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline_lib.data.images import encode_png
from pipeline_lib.models.inputs import IMAGENET_MEAN, IMAGENET_STD
from pipeline_lib.search.batching import Admission, Batcher
from pipeline_lib.search.engine import Hit, SearchEngine
from pipeline_lib.search.gallery import Pixels
from pipeline_lib.search.pictures import ByteCache, Pictures, data_address
from pipeline_lib.search.wire import Found, Health, ModelInfo, Seen

Query = tuple[Tensor, int]
PREPARERS = 2
"""Threads that decode uploads and scale them."""
WARM_UP_TO = 2000
"""Photos up to which all thumbnails are made ahead."""
TITLES = {"openmoji": "OpenMoji", "sketchy": "Sketchy", "folder": "your folder"}
CREDITS = {"openmoji": "OpenMoji, CC BY-SA 4.0, changed (without outlines)"}
"""Attribution that a data set's licence asks for."""


@dataclass(frozen=True)
class Settings:
    """Limits of the server; none of them changes what is found."""

    threads: int = 1  # of the network, and of FAISS
    batch: int = 16  # queries that are embedded together at most
    queue: int = 64  # queries that may wait beside them; further ones are answered with 503
    upload_bytes: int = 10_000_000  # size of an uploaded picture at most
    upload_pixels: int = 30_000_000  # its pixels at most
    thumbnail: int = 192  # longer side of a small picture, px
    cache_bytes: int = 100_000_000  # memory for small pictures and edge maps


class Service:
    """A search engine for many callers."""

    def __init__(self, engine: SearchEngine, settings: Settings, version: str) -> None:
        """Starts the threads; `version` changes with the model and the index."""
        self.engine = engine
        self.version = version
        self.admission = Admission(settings.queue + settings.batch)
        edges = engine.run.params.edges
        self.pictures = Pictures(engine.gallery, edges, settings.thumbnail, ByteCache(settings.cache_bytes))
        self._batcher: Batcher[Query, list[Hit]] = Batcher(self._search, settings.batch)
        self._preparers = ThreadPoolExecutor(PREPARERS, thread_name_prefix="prepare")

    def _search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        found = self.engine.search([prepared for prepared, _ in queries], max(top for _, top in queries))
        return [hits[:top] for hits, (_, top) in zip(found, queries, strict=True)]

    async def find(self, make: Callable[[], Pixels], top: int, *, seen: bool) -> tuple[list[Found], Seen | None]:
        """Searches by the picture that `make` gives; it is called in another thread."""
        loop = asyncio.get_running_loop()
        prepared, told = await loop.run_in_executor(self._preparers, self._prepare, make, seen)
        hits = await asyncio.wrap_future(self._batcher.submit((prepared, top)))
        return [self._found(hit) for hit in hits], told

    def _prepare(self, make: Callable[[], Pixels], seen: bool) -> tuple[Tensor, Seen | None]:  # noqa: FBT001
        image = make()
        prepared = self.engine.prepare(image)
        if not seen:
            return prepared, None
        colours = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        edges = self.pictures.edges_of(colours)
        patch_norm = self.engine.run.params.train.patch_norm
        network = data_address(pixels_of(prepared, patch_norm=patch_norm))
        return prepared, Seen(input=network, edges=data_address(edges))

    def _found(self, hit: Hit) -> Found:
        gallery, place = self.engine.gallery, f"/photos/{hit.row}"
        return Found(
            rank=hit.rank,
            score=round(hit.score, 6),
            distance=round(hit.distance, 6),
            image_id=gallery.image_ids[hit.row],
            label=gallery.label(hit.row),
            photo=f"{place}?v={self.version}",
            thumbnail=f"{place}/thumbnail?v={self.version}",
            edges=f"{place}/edges?v={self.version}",
        )

    def example(self, number: int) -> bytes:
        """A drawing of the catalog as PNG. Raises as `Gallery.load`."""
        return encode_png(self.engine.examples.load(number))

    def health(self) -> Health:
        """Whether searches can be answered, and how many are."""
        counts = self.admission
        return Health(
            status="ok" if self.engine.faiss.alive else "degraded",
            photos=len(self.engine.gallery),
            waiting=counts.waiting,
            queue=counts.limit,
            answered=counts.answered,
            refused=counts.refused,
        )

    def model(self) -> ModelInfo:
        """The model and index that are searched with."""
        engine, networks = self.engine, self.engine.encoder.networks
        meta = networks.members[0].meta
        return ModelInfo(
            run=engine.run.name,
            gallery=TITLES.get(engine.gallery.name, engine.gallery.name),
            credit=CREDITS.get(engine.gallery.name, ""),
            photos=len(engine.gallery),
            architecture=" + ".join(str(each.meta.get("architecture", "")) for each in networks.members),
            start_weights=str(meta.get("start_weights", "")),
            pretext_accuracy=meta.get("accuracy"),
            training_images=meta.get("training_images"),
            embedding=" + ".join(each.params.embed.layers for each in networks.members),
            image_size=networks.size,
            alignment=engine.facts.alignment,
            index=engine.facts.settings,
            examples=len(engine.examples),
            version=self.version,
        )

    def close(self) -> None:
        """Ends the threads."""
        self._batcher.close()
        self._preparers.shutdown(cancel_futures=True)


def pixels_of(prepared: Tensor, *, patch_norm: bool) -> Pixels:
    """The encoder's input as a picture.

    Args:
        prepared: float32[1, 3, S, S], normalised.
        patch_norm: normalised by its own mean and deviation; it is then stretched from its darkest to its brightest.
    """
    values: NDArray[np.float32] = prepared[0].permute(1, 2, 0).numpy()
    if patch_norm:
        low, high = float(values.min()), float(values.max())
        values = (values - low) / (high - low) if high > low else np.ones_like(values)
    else:
        values = values * np.array(IMAGENET_STD, np.float32) + np.array(IMAGENET_MEAN, np.float32)
    return np.asarray(np.clip(np.round(values * 255), 0, 255), np.uint8)
