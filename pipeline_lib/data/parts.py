"""Parts of a list that stay the same when the list gains or loses an item elsewhere."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

Item = TypeVar("Item")

ROWS: Final = 256
"""Items that a part has on average; of a million items the longest has about 2,000."""


def cut(items: Iterable[Item], name: Callable[[Item], str]) -> Iterator[list[Item]]:
    """Cuts a list where the names of its items say so, whatever else is in it.

    An item more or less changes the part that holds it, and no other; or, where it is the first of a part, it joins
    two parts or makes two of one. Deduplicating file systems cut files so (Muthitacharoen et al., "A low-bandwidth
    network file system", SOSP 2001).

    Args:
        items: in an order that does not depend on which there are. Those of one name that follow one another stay
            together.
        name: of an item.

    Yields:
        The parts, in order; none is empty.
    """
    part: list[Item] = []
    last = ""
    for item in items:
        found = name(item)
        if part and found != last and _begins(found):
            yield part
            part = []
        part.append(item)
        last = found
    if part:
        yield part


def _begins(name: str) -> bool:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % ROWS == 0
