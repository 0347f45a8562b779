"""Reading shards: which row groups hold the wanted images, and a thread that reads ahead."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipeline_lib.data.schemas import opened_shard

Item = TypeVar("Item")

AHEAD = 4  # items that are ready in advance


class RowGroup(NamedTuple):
    """A row group that holds wanted images."""

    path: Path  # of the shard
    number: int
    rows: list[int]  # of the wanted images
    image_ids: list[str]  # of those rows
    draw: int = 0  # of all its rows, in a shard of patches


def wanted_groups(path: Path, wanted: frozenset[str], *, draws: bool = False) -> Iterator[RowGroup]:
    """The row groups of a shard that hold wanted images; reads names, no pixels.

    With `draws`, each row group holds one draw, as in shards of patches.

    Raises:
        PipelineError: the shard is truncated or damaged.
    """
    with opened_shard(path) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=["image_id", "draw"] if draws else ["image_id"])
            names = table["image_id"].to_pylist()
            rows = [row for row, name in enumerate(names) if name in wanted]
            if rows:
                draw = table["draw"][0].as_py() if draws else 0
                yield RowGroup(path, number, rows, [names[row] for row in rows], draw)


def read_ahead(make: Callable[[], Iterator[Item]], name: str) -> Generator[Item]:
    """The items, in order, of the iterator that `make` gives in a thread of this name, ahead of its consumer.

    What the iterator raises is raised here. The thread stops when the generator is closed.
    """
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(item: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in make():
                if not put(item):
                    return
            put(None)
        except BaseException as failure:  # noqa: BLE001  handed to the consumer, which raises it
            put(failure)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
