"""Parts of embedding tables made by a Ray cluster (`data.ray_tasks`), whose machines share the run's folder."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pandas as pd

from pipeline_lib.data.source import open_source
from pipeline_lib.data.tasks import Stats, finished_stats, map_shards, stats_or_raise
from pipeline_lib.embedding.export import embed_parts
from pipeline_lib.embedding.images import SEARCHED, Images, rows_of, searched_images
from pipeline_lib.embedding.kept import Kept
from pipeline_lib.embedding.networks import Networks, open_networks
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.device import choose_precision, use_threads
from pipeline_lib.params import Params
from pipeline_lib.run import Run


@dataclass(frozen=True)
class EmbedTask:
    """A part of a table to make."""

    path: Path  # its file
    table: Path  # of which it is a part
    images: pd.DataFrame  # rows as in `schemas.CATALOG`
    run: Run  # whose networks embed
    kept: Kept  # where the part is kept

    @property
    def rows(self) -> int:
        """Number of images."""
        return len(self.images)


def embed_on_cluster(run: Run, catalog: pd.DataFrame, kept: Kept) -> None:
    """Makes all parts of the tables of gallery and queries; `export_all` then finds them.

    Args:
        run: whose networks, and projection if it has one, are there. The cluster's machines read them, and the images,
            under the same paths as this one.
        catalog: rows as in `schemas.CATALOG`.
        kept: where the parts are kept.

    Raises:
        PipelineError: there is no cluster at `machine.ray`, or parts failed; those that are finished are kept.
    """
    networks, ray, tasks = open_networks(run), run.params.machine.ray, []
    # Machines that choose for themselves may choose otherwise than this one.
    precision = choose_precision(run.params.embed, networks.own.device)
    alike = run.params.embed.model_copy(update={"precision": precision})
    run = replace(run, params=run.params.model_copy(update={"embed": alike}))
    for name in SEARCHED:
        rows, table, start = rows_of(name, catalog), run.embeddings / f"{name}.parquet", 0
        for part in Images.of((), rows).parts:
            images = rows.iloc[start : start + part.rows]
            tasks.append(EmbedTask(kept.shard(table, part, networks.size), table, images, run, kept))
            start += part.rows
    stats_or_raise(map_shards(embed_task, tasks, workers=0, description="embed", unit="image", ray=ray))


def embed_task(task: EmbedTask) -> Stats:
    """Makes one part, on one core."""
    use_threads(1)
    run, settings = task.run, task.run.params
    networks = _networks(run.folder, run.root, settings.model_dump_json())
    images = searched_images(task.table.stem, task.images, open_source(settings.catalog, run.root), settings.embed)
    systems, train, size = {task.table: networks.embed}, networks.own.train, networks.size
    embed_parts(images, systems, train, task.kept, size=size, batch=settings.embed.batch, description="embed")
    stats = finished_stats(task.path)
    if stats is None:
        raise PipelineError(f"{task.path}: is not the part that these images make")
    return stats


@lru_cache(1)
def _networks(folder: Path, root: Path, settings: str) -> Networks:
    return open_networks(Run(folder, Params.model_validate_json(settings), root))
