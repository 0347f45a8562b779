"""Small pictures of photos: made once while photos are indexed, kept as files beside the index."""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline_lib.data.images import encode_jpeg
from pipeline_lib.files import is_left, replacing

SIDE: Final = 256
"""px, longer side of a kept picture."""
QUALITIES: Final = (80, 60, 40, 20)
END: Final = b"\xff\xd9"
"""Of every JPEG. What is kept has its checksum behind that, where whoever shows a JPEG looks no more."""
SUM_BYTES: Final = 4
MOST_BYTES: Final = 32 << 10
"""Of a kept picture: of these qualities it gets the best that fits. Photos take 12 KB on average, 12 MB a thousand."""


def fit(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """An image scaled down, if need be, so that its longer side has at most `longest` px."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True)
class Thumbnails:
    """A folder of small JPEGs, named by the digest of the photo's file: copies share one, and a moved photo keeps it.

    They are made of pixels alone, so nothing else in a file, such as its place and date, is in them.
    """

    folder: Path

    def path(self, content: str) -> Path:
        """Where the picture of a photo lies; `content` is the digest of its file."""
        return self.folder / content[:2] / f"{content}.jpg"

    def read(self, content: str) -> bytes | None:
        """The JPEG of a photo; None where none was kept, or it is cut or damaged."""
        try:
            stored = self.path(content).read_bytes()
        except OSError:
            return None
        data, told = stored[:-SUM_BYTES], stored[-SUM_BYTES:]
        if data.endswith(END) and zlib.crc32(data).to_bytes(SUM_BYTES) == told:
            return data
        return stored if stored.endswith(END) else None  # kept before there were checksums

    def keep(self, content: str, image: NDArray[np.uint8]) -> None:
        """Makes and keeps the picture of a photo, uint8[H, W, 3] RGB, unless it is there; from any thread.

        Raises:
            OSError: it can't be written.
            PipelineError: there is no room.
        """
        path = self.path(content)
        if path.exists():
            return
        small = fit(image, SIDE)
        made = (encode_jpeg(small, quality) for quality in QUALITIES)
        data = next((jpeg for jpeg in made if len(jpeg) <= MOST_BYTES), None)
        if data is None:
            return
        with replacing(path) as aside:
            aside.write_bytes(data + zlib.crc32(data).to_bytes(SUM_BYTES))

    def keep_only(self, contents: NDArray[np.bytes_]) -> None:
        """Removes the pictures of all other photos, and what a killed process has left; `contents` are sorted."""
        for folder in self.folder.glob("*/"):
            start = folder.name.encode()
            low, high = np.searchsorted(contents, np.array([start, start + b"\xff"]))
            kept = {content.decode() for content in contents[low:high].tolist()}
            with os.scandir(folder) as names:  # a million of which are looked at in a second
                gone = [entry.name for entry in names if entry.name.removesuffix(".jpg") not in kept]
            for path in map(folder.joinpath, gone):
                if path.suffix != ".tmp" or is_left(path):
                    path.unlink(missing_ok=True)
