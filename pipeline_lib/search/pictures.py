"""Photos for the page: thumbnails and edge maps from a bounded cache, and whole photos without one.

Everything is decoded and encoded again, so that nothing else in a file, such as its place and date, is sent.
"""

import base64
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from pipeline_lib import params
from pipeline_lib.data.images import encode_jpeg, encode_png, resize_short_side
from pipeline_lib.pretext.edges import edge_map
from pipeline_lib.search.gallery import Gallery, Pixels

LARGEST: Final = 1600
"""px, longer side of a photo that is opened."""
QUALITY: Final = 90


class ByteCache:
    """A least-recently-used cache of bytes; safe from any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._held: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int], make: Callable[[], bytes]) -> bytes:
        """The bytes of `key`, made and kept if they are not there."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        value = make()
        with self._lock:
            if key not in self._held and len(value) <= self.limit:
                self._held[key] = value
                self.size += len(value)
                while self.size > self.limit:
                    self.size -= len(self._held.popitem(last=False)[1])
        return value


def fit(image: Pixels, longest: int) -> Pixels:
    """An image scaled down, if need be, so that its longer side has at most `longest` px."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True)
class Pictures:
    """The pictures of a gallery as files that browsers show."""

    gallery: Gallery  # whose photos
    edges: params.Edges  # section `edges` that the model was trained with
    thumbnail_side: int  # px, longer side
    cache: ByteCache  # for thumbnails and edge maps

    def thumbnail(self, row: int) -> bytes:
        """A small JPEG of a photo. Raises as `Gallery.load`, like all of these."""
        load = self.gallery.load
        return self.cache.get(("thumbnail", row), lambda: encode_jpeg(fit(load(row), self.thumbnail_side), QUALITY))

    def edge_map(self, row: int) -> bytes:
        """The edge map of a photo, as training photos are drawn: PNG."""
        return self.cache.get(("edges", row), lambda: encode_png(self.edges_of(self.gallery.load(row))))

    def photo(self, row: int) -> bytes:
        """The photo as JPEG of at most `LARGEST` px."""
        return encode_jpeg(fit(self.gallery.load(row), LARGEST), QUALITY)

    def edges_of(self, image: Pixels) -> Pixels:
        """Canny edges of any image, uint8[H, W], at the scale of training."""
        # Scaling up the short side of a very long image would take any amount of memory.
        small = fit(image, 16 * self.edges.short_side)
        return edge_map(resize_short_side(small, self.edges.short_side), self.edges)


def data_address(image: Pixels) -> str:
    """An image as the data address of its PNG."""
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
