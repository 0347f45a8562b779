"""Which part of every batch is this process's own, where several learn from one batch."""

from typing import NamedTuple


class Share(NamedTuple):
    """Part `number`, from 0, of `of` equal ones."""

    number: int = 0
    of: int = 1

    def own(self, count: int) -> slice:
        """Where the part lies among `count` items, a multiple of `of`."""
        each = count // self.of
        return slice(self.number * each, (self.number + 1) * each)


ALL = Share()
