"""Which depicted photos a system that learns from pairs may see, and which are kept to test it on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

TEST_FRACTION = 0.2


def held_out(photos: Iterable[tuple[str, str]], fraction: float = TEST_FRACTION) -> frozenset[str]:
    """The photos of the test part: within every class the same share, chosen by a hash.

    The photos of a class are put in the order of the SHA-256 of their id, and the first round(fraction * count) of them
    are held out, at least one where the class has two. So no seed is needed, a class keeps its choice whatever happens
    to the others, and the sketches of a photo go with it.

    Args:
        photos: (instance_id, class_name) of the photos that are depicted, in any order; repeats count once.
        fraction: of each class, in 0..1.

    Returns:
        The instance_ids of the test part.
    """
    by_class: dict[str, set[str]] = defaultdict(set)
    for instance_id, class_name in photos:
        by_class[class_name].add(instance_id)
    chosen: set[str] = set()
    for members in by_class.values():
        count = round(fraction * len(members))
        if fraction > 0 and len(members) > 1:
            count = max(1, count)
        chosen.update(sorted(members, key=_hash)[:count])
    return frozenset(chosen)


def _hash(instance_id: str) -> str:
    return hashlib.sha256(instance_id.encode()).hexdigest()
