"""Photos for the page: thumbnails from a bounded cache, and whole photos without one.

Everything is decoded and encoded again, so that nothing else in a file, such as its place and date, is sent.
"""

import base64
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline_lib.data.images import SPARE, encode_jpeg, encode_png
from pipeline_lib.search.gallery import Gallery, Pixels
from pipeline_lib.search.thumbnails import fit

LARGEST: Final = 1600
"""px, longer side of a photo that is opened."""
ENOUGH: Final = LARGEST * 3 // 4 // SPARE
"""px of the shorter side that `decode` is asked for then; most photos are 3:4 or longer."""
QUALITY: Final = 90


class ByteCache:
    """A least-recently-used cache of bytes; safe from any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._held: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def held(self, key: tuple[str, int]) -> bytes | None:
        """The bytes of `key`; None if they are not there."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def get(self, key: tuple[str, int], make: Callable[[], bytes]) -> bytes:
        """The bytes of `key`, made and kept if they are not there."""
        found = self.held(key)
        if found is not None:
            return found
        value = make()
        with self._lock:
            if key not in self._held and len(value) <= self.limit:
                self._held[key] = value
                self.size += len(value)
                while self.size > self.limit:
                    self.size -= len(self._held.popitem(last=False)[1])
        return value


@dataclass(frozen=True)
class Pictures:
    """The pictures of a gallery as files that browsers show."""

    gallery: Gallery  # whose photos
    thumbnail_side: int  # px, longer side
    cache: ByteCache  # for thumbnails

    def stored(self, row: int) -> bytes | None:
        """The small JPEG of a photo where nothing needs to be decoded for it; None else. Raises as `Gallery.file`."""
        return self.cache.held(("thumbnail", row)) or self.gallery.thumbnail(row)

    def thumbnail(self, row: int) -> bytes:
        """A small JPEG of a photo. Raises as `Gallery.load`, like all of these."""

        def make() -> bytes:
            return encode_jpeg(fit(self.gallery.load(row, self.thumbnail_side), self.thumbnail_side), QUALITY)

        return self.stored(row) or self.cache.get(("thumbnail", row), make)

    def photo(self, row: int) -> bytes:
        """The photo as JPEG of at most `LARGEST` px."""
        return encode_jpeg(fit(self.gallery.seen(row, ENOUGH), LARGEST), QUALITY)


def data_address(image: Pixels) -> str:
    """An image as the data address of its PNG."""
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
