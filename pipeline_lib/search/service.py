"""The service behind the HTTP API: admits queries, prepares and batches them, and describes what was found."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from pipeline_lib.data.cores import usable_cores
from pipeline_lib.data.images import encode_png
from pipeline_lib.embedding.likeness import ALIKE
from pipeline_lib.errors import PipelineError
from pipeline_lib.search.batching import Batcher
from pipeline_lib.search.engine import Hit, Prepared, SearchEngine
from pipeline_lib.search.gallery import EVERYWHERE, Among
from pipeline_lib.search.pace import WITHIN, Admission, BusyError, Line
from pipeline_lib.search.pictures import ByteCache, Pictures, data_address
from pipeline_lib.search.queries import Query, mirrored
from pipeline_lib.search.wire import Answer, Found, Health, ModelInfo, Photo, Seen

Waiting = tuple[Prepared, int, Among]
DECODERS = 2
"""Threads that decode uploads, and photos to show: few, so that they leave memory, and the processor to the search."""
LOOK = 2.0
"""Seconds between two looks whether the process that holds the index answers."""
WARM_UP_TO = 2000
"""Photos up to which all thumbnails are made ahead."""
TITLES = {"openmoji": "OpenMoji", "sketchy": "Sketchy", "folder": "your folder"}
CREDITS = {"openmoji": "OpenMoji, CC BY-SA 4.0, changed (without outlines)"}
"""Attribution that a data set's licence asks for."""


@dataclass(frozen=True)
class Settings:
    """Limits of the server; none of them changes what is found."""

    threads: int = min(2, usable_cores())  # of the network, and of FAISS
    batch: int = 16  # queries that are embedded together at most
    upload_bytes: int = 10_000_000  # size of an uploaded picture at most
    upload_pixels: int = 30_000_000  # its pixels at most
    thumbnail: int = 192  # longer side of a small picture, px
    cache_bytes: int = 32_000_000  # memory for small pictures


@dataclass(frozen=True)
class Wish:
    """How a query is to be searched."""

    top: int  # photos
    mirror: bool = False  # search for its mirror image
    seen: bool = False  # tell what the network sees
    among: Among = EVERYWHERE  # which photos may be found


class Service:
    """A search engine for many callers."""

    def __init__(self, engine: SearchEngine, settings: Settings, version: str) -> None:
        """Starts the threads; `version` changes with the model and the index."""
        self.engine = engine
        self.settings = settings
        self.version = version
        self.admission = Admission()  # of searches
        self.viewing = Admission()  # of whoever wants a picture
        self.pictures = Pictures(engine.gallery, settings.thumbnail, ByteCache(settings.cache_bytes))
        self._batcher: Batcher[Waiting, list[Hit]] = Batcher(self._search, settings.batch)
        self._strokes = Line("strokes", 1)
        self._decoding = Line("decode", DECODERS)

    def _search(self, queries: Sequence[Waiting]) -> list[list[Hit]]:
        hits: list[list[Hit]] = [[] for _ in queries]
        for among in {among for _, _, among in queries}:
            places = [place for place, query in enumerate(queries) if query[2] == among]
            top = max(queries[place][1] for place in places)
            found = self.engine.search([queries[place][0] for place in places], top, among)
            for place, one in zip(places, found, strict=True):
                hits[place] = one[: queries[place][1]]
        return hits

    async def answer(self, make: Callable[[], Query], wish: Wish, started: float, *, decodes: bool = True) -> Answer:
        """Searches by the query that `make` gives; it is called in another thread.

        Args:
            make: reads the query.
            wish: how it is searched.
            started: `time.perf_counter` of when the request arrived.
            decodes: whether `make` decodes a picture, which may take longer than to draw strokes.

        Raises:
            BusyError: it would take too long.
        """
        line = self._decoding if decodes else self._strokes
        async with self.admission.enter(line.pace, self._batcher.pace):
            query, prepared = await asyncio.wrap_future(line.submit(partial(self._prepare, make, wish.mirror)))
            hits: list[Hit] = []
            if not query.blank:
                hits = await asyncio.wrap_future(self._batcher.submit((prepared, wish.top, wish.among)))
        return Answer(
            found=self._found(hits),
            blank=query.blank,
            kind="photo" if query.domain == "photo" else "drawing",
            version=self.version,
            seen=self._seen(prepared) if wish.seen else None,
            milliseconds=round((time.perf_counter() - started) * 1e3, 2),
        )

    def _prepare(self, make: Callable[[], Query], mirror: bool) -> tuple[Query, Prepared]:  # noqa: FBT001
        query = make()
        if mirror:
            query = mirrored(query)
        return query, self.engine.prepare(query.pixels, query.domain)

    def _seen(self, prepared: Prepared) -> Seen:
        inputs = [data_address(pixels) for pixels in prepared.pixels]
        return Seen(inputs=inputs, alignment=self.engine.facts.alignment)

    def query_of_photo(self, row: int) -> Query:
        """A photo of the gallery as a query. Raises as `Gallery.load`."""
        return Query(self.engine.gallery.seen(row, self.engine.encoder.embedder.size), "photo", blank=False)

    def _found(self, hits: Sequence[Hit]) -> list[Found]:
        """Hits as they are told, each with its near-duplicates behind it."""
        stacks = self.engine.gallery.stacked([hit.row for hit in hits])
        return [
            Found(
                **self._photo(hits[first].row).model_dump(),
                rank=rank,
                score=round(hits[first].score, 6),
                likeness=hits[first].likeness,
                alike=hits[first].likeness >= ALIKE,
                stack=[self._photo(hits[place].row) for place in behind],
            )
            for rank, (first, *behind) in enumerate(stacks, start=1)
        ]

    def _photo(self, row: int) -> Photo:
        gallery, place = self.engine.gallery, f"photos/{self.version}/{row}"
        path = PurePosixPath(gallery.shown_path(row))
        is_file = gallery.file(row) is not None
        return Photo(
            number=row,
            image_id=gallery.shown_id(row),
            label=gallery.label(row),
            folder=str(path.parent),
            path=str(path) if is_file else "",
            photo=place,
            thumbnail=f"{place}/thumbnail",
            input=f"{place}/input",
            original=f"{place}/original" if is_file else place,
        )

    async def paint(self, make: Callable[[int], bytes], row: int) -> bytes:
        """What `make` gives for a row; it is called in one of few threads.

        Raises:
            BusyError: it would not be begun in time.
        """
        self.viewing.admit(self._decoding.pace.expected())
        job = self._decoding.submit(partial(make, row))
        made = asyncio.wrap_future(job)
        await asyncio.wait({made}, timeout=WITHIN)
        # A picture that takes long is waited for once it is being made, since to begin it again would take longer.
        if not made.done() and job.cancel():
            self.viewing.refused += 1
            raise BusyError(WITHIN)
        return await made

    def input(self, row: int) -> bytes:
        """What the network sees of a photo, as PNG. Raises as `Gallery.load`."""

        def make() -> bytes:
            photo = self.engine.gallery.seen(row, self.engine.encoder.embedder.size)
            return encode_png(self.engine.prepare(photo, "photo").pixels[0])

        return self.pictures.cache.get(("input", row), make)

    def example(self, number: int) -> bytes:
        """A drawing of the catalog as PNG. Raises as `Gallery.load`."""
        return encode_png(self.engine.examples.load(number))

    def health(self) -> Health:
        """Whether searches can be answered, and how many are."""
        counts = self.admission
        return Health(
            status="ok" if self.engine.faiss.answers else "degraded",
            version=self.version,
            photos=len(self.engine.gallery),
            waiting=counts.waiting,
            expected=round(self._strokes.pace.expected() + self._batcher.pace.expected(), 3),
            answered=counts.answered,
            refused=counts.refused,
        )

    def model(self) -> ModelInfo:
        """The model and index that are searched with."""
        engine, embedder = self.engine, self.engine.encoder.embedder
        gallery, meta = engine.gallery, embedder.meta
        return ModelInfo(
            run=engine.run.name,
            gallery=TITLES.get(gallery.name, gallery.name),
            folders=gallery.folders,
            filters=gallery.filters,
            credit=CREDITS.get(gallery.name, ""),
            photos=len(gallery),
            architecture=str(meta.get("architecture", "")),
            start_weights=str(meta.get("start_weights", "")),
            pretext_accuracy=meta.get("accuracy"),
            training_images=meta.get("training_images"),
            embedding=engine.run.params.embed.layers,
            image_size=embedder.size,
            alignment=engine.facts.alignment,
            index=engine.facts.settings,
            examples=len(engine.examples),
            upload_bytes=self.settings.upload_bytes,
            upload_pixels=self.settings.upload_pixels,
            version=self.version,
        )

    async def watch(self) -> None:
        """Looks again and again whether the process that holds the index answers, and has it replaced if not."""
        while True:
            await asyncio.sleep(LOOK)
            with suppress(PipelineError):  # the next search tells what is wrong
                await asyncio.to_thread(self.engine.faiss.look)

    def close(self) -> None:
        """Ends the threads."""
        self._batcher.close()
        self._strokes.close()
        self._decoding.close()
