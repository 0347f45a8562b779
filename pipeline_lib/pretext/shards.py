"""Which row groups of shards hold the wanted images."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline_lib.data.schemas import opened_shard


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
