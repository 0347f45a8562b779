"""Two views of an image for the contrastive objective: a crop of the photo, and a drawing of about the same crop.

Nothing but the photo is needed. The crops are shifted a little and the drawing is bent, so that pixels do not match by
position. Both may be flipped together.
"""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.ahead import read_ahead
from pipeline_lib.data.cores import usable_cores
from pipeline_lib.data.images import decode_encoded
from pipeline_lib.data.randomness import generator_for
from pipeline_lib.data.schemas import opened_shard, shard_paths
from pipeline_lib.data.share import ALL, Share
from pipeline_lib.pretext.drawing import draw_edges
from pipeline_lib.pretext.shards import RowGroup, wanted_groups

Pixels = NDArray[np.uint8]

WINDOW = 16
"""Row groups (of at most 64 encoded photos) that are held and shuffled together."""
CORES_FED = 8
"""Cores that learn for each thread that makes views: two of them learn for five times as long as a thread takes."""
MAKERS = 4
"""Threads that make views at most: about half of the work holds Python's lock, so that more add nothing."""
WHOLE = 32
"""Batch size of `ViewShards.whole`."""
ASPECT = 1.15
"""The drawing's crop is wider or higher than the photo's by up to this factor."""


@dataclass(frozen=True)
class Views:
    """The views of B images."""

    image_ids: list[str]
    photos: Pixels  # uint8[B, size, size, 3]
    edges: Pixels  # uint8[B, size, size], dark lines on white
    mirrored: NDArray[np.bool_] | None = None  # bool[B], where the batch holds each image twice, as it is and flipped


def make_views(
    photo: Pixels, settings: params.Contrast, rng: np.random.Generator, *, mirrored: bool | None = None
) -> tuple[Pixels, Pixels]:
    """A photo view, uint8[size, size, 3], and an edge view, uint8[size, size], of a photo, uint8[H, W, 3], RGB.

    `mirrored` says whether both are flipped horizontally; None decides by chance.
    """
    height, width = photo.shape[:2]
    sides = rng.uniform(*settings.crop, 2) * (width, height)
    corner = rng.uniform(0, 1, 2) * ((width, height) - sides)
    off = rng.uniform(-settings.shift, settings.shift, 2) * sides
    stretch = np.exp(rng.uniform(-1, 1, 2) * np.log(ASPECT)) * sides
    drawn = rng.random() < 0.5
    first = cut_out(photo, corner, sides)
    second = cut_out(photo, corner + off + (sides - stretch) / 2, stretch)
    if drawn if mirrored is None else mirrored:
        first, second = first[:, ::-1], second[:, ::-1]
    grey = cv2.cvtColor(np.ascontiguousarray(second), cv2.COLOR_RGB2GRAY)
    drawing = draw_edges(np.asarray(grey, np.uint8), settings, rng)
    return recolour(scaled(first, settings.image_size), settings, rng), drawing


def scaled(photo: Pixels, size: int) -> Pixels:
    """A photo scaled to a square of `size` px; its aspect ratio is not kept."""
    method = cv2.INTER_AREA if min(photo.shape[:2]) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(photo, (size, size), interpolation=method), np.uint8)


def cut_out(photo: Pixels, corner: NDArray[np.float64], sides: NDArray[np.float64]) -> Pixels:
    """Crops a photo from `corner` (x, y) on to `sides` (width, height), as far as that is inside the photo."""
    limits = np.array([photo.shape[1], photo.shape[0]])
    x0, y0 = np.clip(np.rint(corner), 0, limits - 8).astype(int).tolist()
    x1, y1 = np.clip(np.rint(corner + sides), (x0 + 8, y0 + 8), limits).astype(int).tolist()
    return photo[y0:y1, x0:x1]


def recolour(view: Pixels, settings: params.Contrast, rng: np.random.Generator) -> Pixels:
    """Changes saturation, contrast and brightness of a photo view, or makes it grey."""
    saturation, contrast, brightness = 1 + rng.uniform(-settings.colour, settings.colour, 3)
    if rng.random() < settings.grey:
        saturation = 0.0
    grey = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    middle = float(grey.mean())
    gain = contrast * brightness
    # gain * (s * view + (1 - s) * grey), and a shift that makes the mean brightness * middle.
    shift = brightness * middle * (1 - contrast)
    return np.asarray(cv2.addWeighted(view, gain * saturation, grey, gain * (1 - saturation), shift), np.uint8)


class ViewShards:
    """Views of some images, made from a folder of pair shards."""

    def __init__(
        self, folder: Path, image_ids: Collection[str], settings: params.Contrast, *, ahead: bool = True
    ) -> None:
        """Reads the shards' footers and names, no photos.

        Args:
            folder: of the shards.
            image_ids: the images.
            settings: section `contrast`.
            ahead: whether views are made while earlier ones are learned from, by cores that are idle then. Where none
                is, all cores make a batch when it is asked for: a core that is taken from a network holds up the others
                at the end of each layer.

        Raises:
            PipelineError: a shard is truncated or damaged.
        """
        self.settings, self.ahead = settings, ahead
        # Most of the work is OpenCV's and numpy's, which let other threads go on.
        cores = usable_cores()
        makers = min(MAKERS, max(1, cores // CORES_FED) if ahead else cores)
        self._makers = ThreadPoolExecutor(makers, "view-maker")
        wanted = frozenset(image_ids)
        self._groups = [group for path in shard_paths(folder) for group in wanted_groups(path, wanted)]
        self.count = sum(len(group.rows) for group in self._groups)
        # Flipped images take half of the batch.
        self.batch = min(settings.batch_images // (2 if settings.mirror_negatives else 1), self.count)

    def batches(self, seed: int, start: int = 0, share: Share = ALL) -> Iterator[Views]:
        """Endless batches, pass after pass over all images in random order.

        Args:
            seed: of the order and of every view.
            start: batches to skip; batch n is the same with and without skipping.
            share: what is made of each batch.

        Returns:
            Batches of `contrast.batch_images` images, or of all where there are fewer. With
            `contrast.mirror_negatives`, half as many: first all as they are, then all flipped horizontally.
        """
        return self._given(lambda: self._make(seed, start, share))

    def once(self) -> Iterator[Views]:
        """Batches of every image once, in the order of the shards, with the same views in every call."""
        return self._given(self._once)

    def _given(self, make: Callable[[], Iterator[Views]]) -> Iterator[Views]:
        return read_ahead(make, "view-maker") if self.ahead else make()

    def names(self) -> list[str]:
        """All images, in the order of the shards."""
        return [name for group in self._groups for name in group.image_ids]

    def whole(self, size: int) -> Iterator[Pixels]:
        """Batches, uint8[B, size, size, 3], of every whole photo once, `scaled`, in the order of the shards."""
        return read_ahead(lambda: self._whole(size), "photo-reader")

    def _whole(self, size: int) -> Iterator[Pixels]:
        rows = (value for group in self._groups for _, value in self._rows(group))
        while chunk := list(islice(rows, WHOLE)):
            yield np.stack([scaled(decode_encoded(value), size) for value in chunk])

    def _once(self) -> Iterator[Views]:
        rows = (row for group in self._groups for row in self._rows(group))
        while chunk := list(islice(rows, self.batch)):
            yield self._views(chunk, 0, -1)

    def _make(self, seed: int, start: int, share: Share) -> Iterator[Views]:
        per_pass = self.count // self.batch
        number, skipped = divmod(start, per_pass)
        while True:
            order = self._shuffled(generator_for(seed, "order of views", number))
            rows = islice(order, skipped * self.batch, per_pass * self.batch)
            while chunk := list(islice(rows, self.batch)):
                yield self._views(chunk[share.own(len(chunk))], seed, number, twice=self.settings.mirror_negatives)
            number, skipped = number + 1, 0

    def _shuffled(self, rng: np.random.Generator) -> Iterator[tuple[str, pa.Buffer]]:
        order = rng.permutation(len(self._groups))
        for first in range(0, len(order), WINDOW):
            window = [row for k in order[first : first + WINDOW] for row in self._rows(self._groups[k])]
            yield from (window[k] for k in rng.permutation(len(window)))

    def _rows(self, group: RowGroup) -> Iterator[tuple[str, pa.Buffer]]:
        with opened_shard(group.path) as file:
            table = file.read_row_group(group.number, columns=["photo"])
        for row, name in zip(group.rows, group.image_ids, strict=True):
            yield name, table["photo"][row].as_buffer()

    def _views(self, rows: list[tuple[str, pa.Buffer]], seed: int, number: int, *, twice: bool = False) -> Views:
        """Views of encoded photos in pass `number`; `twice` makes all as they are, then all flipped horizontally."""
        sides: tuple[bool | None, ...] = (False, True) if twice else (None,)

        def views_of(row: tuple[str, pa.Buffer]) -> list[tuple[Pixels, Pixels]]:
            name, photo = row[0], decode_encoded(row[1])
            found = []
            for mirrored in sides:
                key = (name,) if mirrored is None else (name, mirrored)
                rng = generator_for(seed, "view", number, *key)
                found.append(make_views(photo, self.settings, rng, mirrored=mirrored))
            return found

        made = zip(*self._makers.map(views_of, rows), strict=True)
        photos, edges = map(np.stack, zip(*chain(*made), strict=True))
        names = [name for name, _ in rows] * len(sides)
        return Views(names, photos, edges, np.arange(len(names)) >= len(rows) if twice else None)
