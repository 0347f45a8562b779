"""Training images, scaled once into one file, and batches of photos with some of their sketches."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.baselines.supervised.recipe import Recipe
from pipeline_lib.baselines.system import Domain
from pipeline_lib.data.randomness import generator_for
from pipeline_lib.data.schemas import parquet_writer, read_parquet
from pipeline_lib.errors import PipelineError

Rows = NDArray[np.int64]
ROWS = 64


def square(image: NDArray[np.uint8], size: int, domain: Domain) -> NDArray[np.uint8]:
    """A whole image as a square, whatever its shape: uint8[size, size, 3] of a photo, uint8[size, size] of a sketch."""
    if domain == "sketch" and image.ndim == 3:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    if domain == "photo" and image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    method = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)


@dataclass(frozen=True)
class Pixels:
    """Scaled images of one domain."""

    image_ids: list[str]  # str[N]
    images: NDArray[np.uint8]  # uint8[N, size, size, 3] or uint8[N, size, size], a view of the file

    @classmethod
    def open(cls, path: Path) -> Self:
        """Maps a file that `write` wrote.

        Raises:
            PipelineError: it is cut or holds something else.
        """
        try:
            table = read_parquet(path, memory_map=True).combine_chunks()
            shape = tuple(int(side) for side in table.schema.metadata[b"shape"].split(b","))
            column = table["pixels"].chunk(0)
            images = np.frombuffer(column.buffers()[2], np.uint8).reshape(-1, *shape)
        except (OSError, pa.ArrowException, KeyError, TypeError, IndexError, ValueError) as failure:
            raise PipelineError(f"{path}: is cut or damaged ({failure}); delete it and run again") from failure
        return cls(table["image_id"].to_pylist(), images)


def write(path: Path, images: Iterable[tuple[str, NDArray[np.uint8]]], size: int, domain: Domain) -> None:
    """Writes scaled images, a block at a time, uncompressed so that they need not be unpacked; whole or not at all.

    Args:
        path: the file.
        images: image_id and pixels, uint8[H, W, 3] RGB or uint8[H, W].
        size: px.
        domain: of all of them.
    """
    shape = (size, size, 3) if domain == "photo" else (size, size)
    # Offsets of 64 bits: the column of a large set exceeds 2 GB.
    columns = [("image_id", pa.string()), ("pixels", pa.large_binary())]
    schema = pa.schema(columns, metadata={"shape": ",".join(map(str, shape))})
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    with parquet_writer(path, schema, **options) as writer:
        block: list[dict[str, object]] = []
        for image_id, pixels in images:
            block.append({"image_id": image_id, "pixels": square(pixels, size, domain).tobytes()})
            if len(block) == ROWS:
                writer.write_table(pa.Table.from_pylist(block, schema))
                block = []
        if block:
            writer.write_table(pa.Table.from_pylist(block, schema))


@dataclass(frozen=True)
class Batch:
    """Images of a step, moved and mirrored."""

    photos: NDArray[np.uint8]  # uint8[P, size, size, 3]
    sketches: NDArray[np.uint8]  # uint8[S, size, size]
    drawn: Rows  # int64[S], which of the P photos each sketch depicts
    photo_classes: Rows  # int64[P]


@dataclass(frozen=True)
class PairBatches:
    """Batches of training photos and their sketches, each a function of seed, epoch and place."""

    photos: Pixels  # N photos; each has at least one sketch
    sketches: Pixels  # of the photos
    drawn: Rows  # int64, the photo's row of each sketch
    classes: Rows  # int64[N]
    recipe: Recipe  # sizes and augmentation

    @property
    def steps(self) -> int:
        """Of an epoch; photos that fill no batch wait for another order."""
        return len(self.photos.image_ids) // self.recipe.photos

    def order(self, epoch: int) -> Rows:
        """The photos of an epoch in order: at random, but some of one class together."""
        rng = generator_for(self.recipe.seed, "order", epoch)
        groups: list[Rows] = []
        for label in np.unique(self.classes):
            members = rng.permutation(np.flatnonzero(self.classes == label))
            groups += [
                members[start : start + self.recipe.same_class]
                for start in range(0, len(members), self.recipe.same_class)
            ]
        return np.concatenate([groups[number] for number in rng.permutation(len(groups))])

    def batch(self, epoch: int, step: int) -> Batch:
        """Batch `step` of an epoch."""
        recipe = self.recipe
        rng = generator_for(recipe.seed, "batch", epoch, step)
        photos = self.order(epoch)[step * recipe.photos : (step + 1) * recipe.photos]
        sketches, drawn = [], []
        for place, photo in enumerate(photos):
            own = np.flatnonzero(self.drawn == photo)
            chosen = rng.permutation(own)[: recipe.sketches_each]
            sketches.append(chosen)
            drawn.append(np.full(len(chosen), place))
        rows, places = np.concatenate(sketches), np.concatenate(drawn)
        mirrored = rng.random(len(photos)) < 0.5
        return Batch(
            self._moved(self.photos.images[photos], mirrored, rng),
            self._moved(self.sketches.images[rows], mirrored[places], rng),
            places,
            self.classes[photos],
        )

    def _moved(
        self, images: NDArray[np.uint8], mirrored: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Mirrors some images and moves all; what comes in from outside repeats the border."""
        shift, size = self.recipe.shift, self.recipe.image_size
        result = np.empty_like(images)
        corners = rng.integers(0, 2 * shift + 1, (len(images), 2))
        margins = [(shift, shift), (shift, shift)] + [(0, 0)] * (images.ndim - 3)
        for number, (y, x) in enumerate(corners):
            image = images[number][:, ::-1] if mirrored[number] else images[number]
            result[number] = np.pad(image, margins, mode="edge")[y : y + size, x : x + size]
        return result
