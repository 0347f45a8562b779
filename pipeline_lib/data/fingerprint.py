"""Perceptual fingerprints: the same photo gives almost the same 64 bits after scaling and re-encoding."""

from __future__ import annotations

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

BLOCK = 1 << 17  # pairs compared at a time: 1 MB, whatever the number of images


def fingerprint(image: NDArray[np.uint8]) -> str:
    """The 64-bit perceptual hash of an image (ImageHash's `phash`).

    The signs of the 8 x 8 lowest frequencies of the 32 x 32 grey image, around their median.

    Args:
        image: uint8[H, W, 3], RGB.

    Returns:
        16 hex digits.
    """
    return str(imagehash.phash(Image.fromarray(image)))


def as_bits(fingerprints: list[str]) -> NDArray[np.uint64]:
    """Fingerprints as uint64[N], for `near_pairs`."""
    return np.array([int(text, 16) for text in fingerprints], np.uint64)


def near_pairs(a: NDArray[np.uint64], b: NDArray[np.uint64], bits: int, *, block: int = BLOCK) -> NDArray[np.int64]:
    """All pairs of fingerprints that differ in at most `bits` bits.

    Args:
        a: uint64[N].
        b: uint64[M].
        bits: largest Hamming distance, 0 to 64.
        block: pairs compared at a time; bounds the memory.

    Returns:
        int64[K, 3], rows (index in a, index in b, distance) in the order of the indices.
    """
    found = [np.empty((0, 3), np.int64)]
    wide = max(1, min(len(b), block))
    tall = max(1, block // wide)
    for top in range(0, len(a), tall):
        rows = a[top : top + tall, None]
        for left in range(0, len(b), wide):
            distance = np.bitwise_count(rows ^ b[None, left : left + wide])
            i, j = np.nonzero(distance <= bits)
            if len(i):
                found.append(np.stack([i + top, j + left, distance[i, j]], axis=1).astype(np.int64))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
