"""The images that are embedded: those of a catalog, and of pretext pairs; and the parts that their tables have."""

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.images import BadImage, decode_encoded
from pipeline_lib.data.parts import cut
from pipeline_lib.data.schemas import opened_shard, shard_paths
from pipeline_lib.data.source import Source
from pipeline_lib.embedding.alignment import Domain
from pipeline_lib.embedding.framing import frame
from pipeline_lib.embedding.vectors import batched
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of

Pixels = NDArray[np.uint8]
"""uint8[H, W, 3] or uint8[H, W]."""
Item = tuple[str, str, str, Callable[[], Pixels]]
"""image_id, class_name, instance_id, and what loads the image."""
LABELLED: Final = ["image_id", "class_name", "instance_id", "content"]
"""Columns of a catalog that tell what a row of an embedding table is made from."""
SEARCHED: Final[dict[str, tuple[str, Domain]]] = {"photos": ("gallery", "photo"), "sketches": ("query", "sketch")}
"""Tables of the images that are searched and that search, with their roles in the catalog and their domains."""


class Part(NamedTuple):
    """Images that follow one another in a table."""

    digest: str  # of their names, labels and contents
    rows: int  # how many


@dataclass(frozen=True)
class Images:
    """The images of a table, in its order."""

    items: Iterable[Item]
    parts: list[Part]  # all of them, see `cut`

    @classmethod
    def of(cls, items: Iterable[Item], rows: pd.DataFrame) -> Self:
        """Images and the rows of a catalog that they are of."""
        told = zip(*(rows[name] for name in LABELLED), strict=True)
        return cls(items, [Part(digest_of(part), len(part)) for part in cut(told, itemgetter(0))])

    def chunks(self, parts: Container[int], most: int) -> Iterator[list[Item]]:
        """Items of the parts of some numbers, at most so many at once and none of two parts; others aren't loaded."""
        items = iter(self.items)
        for number, part in enumerate(self.parts):
            some = islice(items, part.rows)
            if number in parts:
                yield from batched(some, most)
            else:
                deque(some, maxlen=0)


def rows_of(table: str, catalog: pd.DataFrame) -> pd.DataFrame:
    """The rows of a catalog that a table of `SEARCHED` is made from, in its order."""
    role, _ = SEARCHED[table]
    return catalog[catalog["role"] == role].sort_values("image_id")


def searched_images(table: str, catalog: pd.DataFrame, source: Source, settings: params.Embed) -> Images:
    """The images of a table of `SEARCHED`, in their source."""
    rows, (_, domain) = rows_of(table, catalog), SEARCHED[table]
    return Images.of(framed(catalog_images(rows, source), domain, settings), rows)


def pretext_images(pairs: Path, column: str, catalog: pd.DataFrame, settings: params.Embed) -> Images:
    """Photos (`photo`) or edge maps (`edges`) of all pairs; see `framed_pairs`."""
    ids = [name for path in shard_paths(pairs) for name in _ids(path)]
    rows = catalog[catalog["role"] == "pretext"].set_index("image_id").loc[ids].reset_index()
    return Images.of(framed_pairs(pairs, column, catalog, settings), rows)


def _ids(path: Path) -> list[str]:
    with opened_shard(path) as file:
        found: list[str] = file.read(columns=["image_id"])["image_id"].to_pylist()
        return found


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
