from __future__ import annotations

import cv2
import imagehash
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline_lib.data.fingerprint import as_bits, fingerprint, near_pairs
from pipeline_lib.data.images import decode_encoded, encode_jpeg


def scene(seed: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC), np.uint8)


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def test_it_is_imagehash_phash_as_16_digits() -> None:
    text = fingerprint(scene(0))
    assert len(text) == 16
    assert imagehash.hex_to_hash(text) == imagehash.phash(Image.fromarray(scene(0)))


def test_scaling_and_compression_change_few_bits_and_another_scene_many() -> None:
    for seed in range(10):
        original = fingerprint(scene(seed))
        small = np.asarray(cv2.resize(scene(seed), (160, 120), interpolation=cv2.INTER_AREA), np.uint8)
        assert distance(original, fingerprint(decode_encoded(encode_jpeg(small, 80)))) <= 4
        assert distance(original, fingerprint(scene(seed + 100))) > 10


hashes = st.lists(st.integers(0, 2**64 - 1), max_size=30)
flips = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 2**64 - 1)), max_size=10)


@settings(max_examples=60, deadline=None)
@given(a=hashes, b=hashes, near=flips, bits=st.integers(0, 40), block=st.integers(1, 50))
def test_near_pairs_are_those_of_a_double_loop(
    a: list[int], b: list[int], near: list[tuple[int, int]], bits: int, block: int
) -> None:
    # Some of b are some of a with a few bits changed, so that there is something to find.
    b = b + [a[place % len(a)] ^ (mask & 0x8001000000000101) for place, mask in near if a]
    expected = [
        [i, j, (x ^ y).bit_count()] for i, x in enumerate(a) for j, y in enumerate(b) if (x ^ y).bit_count() <= bits
    ]
    found = near_pairs(np.array(a, np.uint64), np.array(b, np.uint64), bits, block=block)
    assert found.dtype == np.int64
    assert found.shape[1] == 3
    assert found.tolist() == expected


def test_hex_digits_become_the_same_number() -> None:
    assert as_bits(["ffffffffffffffff", "0000000000000001"]).tolist() == [2**64 - 1, 1]
    assert as_bits([]).dtype == np.uint64
