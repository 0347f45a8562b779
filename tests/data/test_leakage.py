from __future__ import annotations

import cv2
import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline_lib.data import leakage
from pipeline_lib.data.images import decode_encoded, encode_jpeg
from pipeline_lib.data.leakage import (
    Leak,
    Photos,
    find_leaks,
    fingerprint,
    near_pairs,
    repeat_groups,
)

FAR = [f"{0x1111111111111111 * n:016x}" for n in range(8)]  # multiples differ in at least 16 bits


def flipped(text: str, bits: int) -> str:
    return f"{int(text, 16) ^ ((1 << bits) - 1):016x}"


def leaks(training: Photos, apart: Photos, bits: int = 4) -> list[Leak]:
    return find_leaks(training, apart, bits, repeat_groups(training, bits))


def test_a_name_or_a_near_fingerprint_leaks_and_the_name_comes_first() -> None:
    training = Photos(["a", "", "c", ""], [FAR[1], flipped(FAR[2], 4), FAR[3], flipped(FAR[4], 5)])
    apart = Photos(["", "x", "a", "c"], [FAR[2], FAR[1], FAR[5], FAR[3]])
    assert leaks(training, apart) == [Leak(0, "name", 2), Leak(1, "fingerprint", 0), Leak(2, "name", 3)]


def test_the_nearest_match_is_told() -> None:
    apart = Photos(["", "", ""], [flipped(FAR[1], 3), flipped(FAR[1], 1), flipped(FAR[1], 2)])
    assert leaks(Photos([""], [FAR[1]]), apart) == [Leak(0, "fingerprint", 1)]


def test_unknown_names_and_unreadable_photos_match_nothing() -> None:
    assert leaks(Photos(["", ""], ["", FAR[1]]), Photos(["", ""], ["", ""])) == []
    assert leaks(Photos([], []), Photos([], [])) == []


def test_a_name_leaks_even_if_the_photo_kept_apart_cannot_be_read() -> None:
    assert leaks(Photos(["a"], [FAR[1]]), Photos(["a"], [""])) == [Leak(0, "name", 0)]


def test_what_repeats_a_leaked_photo_leaks_with_it() -> None:
    training = Photos(["", "a", ""], [flipped(FAR[1], 2), FAR[1], FAR[3]])
    apart = Photos(["z", "a"], [FAR[6], FAR[5]])
    assert leaks(training, apart) == [Leak(0, "fingerprint", 1), Leak(1, "name", 1)]


def test_groups_join_through_others_and_bear_their_first_index() -> None:
    chain = [FAR[1], FAR[2], flipped(FAR[1], 4), flipped(FAR[1], 8)]
    assert repeat_groups(Photos([""] * 4, chain), 4).tolist() == [0, 1, 0, 0]
    assert repeat_groups(Photos([""] * 4, chain), 3).tolist() == [0, 1, 2, 3]


def test_names_and_given_groups_join_too() -> None:
    photos = Photos(["n", "", "n", "", ""], FAR[1:6])
    assert repeat_groups(photos, 0, ["", "g", "", "g", ""]).tolist() == [0, 1, 0, 1, 4]


def test_many_equal_fingerprints_take_no_quadratic_memory() -> None:
    blank = ["8000000000000000"] * 50_000
    assert set(repeat_groups(Photos([""] * len(blank), blank), 4).tolist()) == {0}


photos = st.lists(
    st.tuples(st.sampled_from(["", "", "a", "b"]), st.sampled_from([0, 1, 3, 7, 0xFF, 0xFFF, 0xFFFFFF, None])),
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(items=photos, bits=st.integers(0, 6))
def test_groups_are_the_components_found_by_repeated_relabelling(
    items: list[tuple[str, int | None]], bits: int
) -> None:
    def same(i: int, j: int) -> bool:
        (name, mine), (other, theirs) = items[i], items[j]
        near = mine is not None and theirs is not None and (mine ^ theirs).bit_count() <= bits
        return near or (name == other != "")

    expected = list(range(len(items)))
    for _ in items:
        for i in range(len(items)):
            for j in range(len(items)):
                if same(i, j):
                    expected[i] = expected[j] = min(expected[i], expected[j])
    given_photos = Photos([name for name, _ in items], ["" if p is None else f"{p:016x}" for _, p in items])
    assert repeat_groups(given_photos, bits).tolist() == expected


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leakage, "BLOCK", block)
        found = near_pairs(np.array(a, np.uint64), np.array(b, np.uint64), bits)
    assert found.dtype == np.int64
    assert found.shape[1] == 3
    assert found.tolist() == expected


def test_hex_digits_become_the_same_number_and_photos_without_any_are_passed_over() -> None:
    rows, bits = leakage._readable(Photos(["", "", ""], ["ffffffffffffffff", "", "0000000000000001"]))
    assert rows.tolist() == [0, 2]
    assert bits.tolist() == [2**64 - 1, 1]
    assert leakage._readable(Photos([], []))[1].dtype == np.uint64
