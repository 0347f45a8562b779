"""Parts of a list that stay the same when the list gains or loses an item elsewhere."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from pipeline_lib.data.randomness import stable_fraction

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
        if part and found != last and stable_fraction(0, found) < 1 / ROWS:
            yield part
            part = []
        part.append(item)
        last = found
    if part:
        yield part
