"""Random choices that are the same on every machine and in every process: generators, and who is held out.

Choices by hash need no list of what was chosen: new images change nothing for the old ones.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.errors import PipelineError

TEST_FRACTION = 0.2  # of each class, see `held_out`


def generator_for(*parts: object) -> np.random.Generator:
    """A random generator seeded by names and numbers, such as a seed and an image's id."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def stable_fraction(seed: int, key: str) -> float:
    """A number in 0..1, evenly distributed, that depends on the seed and the key alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:6], "big") / (1 << 48)


def split_groups(group_ids: list[str], val_fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which images are held out for validation: whole groups, each by its own hash.

    Args:
        group_ids: of every image.
        val_fraction: expected fraction of the groups that is held out, 0 to 1.
        seed: of the hash.

    Returns:
        bool[N], True for images held out; at least one group on either side.

    Raises:
        PipelineError: there are fewer than two groups.
    """
    place = {group: stable_fraction(seed, group) for group in group_ids}
    if len(place) < 2:
        raise PipelineError(
            f"catalog: {len(place)} different photos are left to train on, and training and validation need one each; "
            "add photos, raise catalog.limit or lower catalog.fingerprint_bits"
        )
    ordered = sorted(place.values())
    bound = min(max(val_fraction, ordered[1]), ordered[-1])
    return np.array([place[group] < bound for group in group_ids], bool)


def held_out(photos: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The depicted photos that systems which learn from pairs of photo and sketch are tested on, and never see.

    The photos of each class are sorted by the SHA-256 of their id, and the first round(TEST_FRACTION * count) are held
    out, at least one where the class has two. So there is no seed, other classes do not affect the choice, and the
    sketches of a photo go with it.

    Args:
        photos: (instance_id, class_name) of the photos that are depicted, in any order; duplicates count once.

    Returns:
        The instance_ids of the test part.
    """
    by_class: dict[str, set[str]] = defaultdict(set)
    for instance_id, class_name in photos:
        by_class[class_name].add(instance_id)
    chosen: set[str] = set()
    for members in by_class.values():
        count = max(round(TEST_FRACTION * len(members)), 1 if len(members) > 1 else 0)
        chosen.update(sorted(members, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:count])
    return frozenset(chosen)
