"""Work over shards on a Ray cluster: two nodes on this machine, one of which is killed."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib import params
from pipeline_lib.data import parts, ray_tasks
from pipeline_lib.data.schemas import read_catalog, read_parquet
from pipeline_lib.data.source import open_source
from pipeline_lib.data.tasks import Stats, map_shards, stats_or_raise
from pipeline_lib.embedding.export import export_all
from pipeline_lib.embedding.kept import Kept
from pipeline_lib.embedding.networks import open_networks, weights_of
from pipeline_lib.embedding.on_cluster import embed_on_cluster
from pipeline_lib.errors import PipelineError
from pipeline_lib.pretext.edges import EdgesTask, process_shard
from tests.data.test_files_and_tasks import tasks_in, work
from tests.pipeline.support import HANGS, draw_photos
from tests.search.support import make_run

Make = Callable[..., params.Params]
SHARDS = 12
DIES = -1


def noted(task: EdgesTask) -> Stats:
    """Draws edges after a note that it has begun; where the node is to be lost, never."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (task.base / f"begun-{uuid.uuid4().hex}").touch()
    if node == (task.base / "lost").read_text():
        (task.base / "waits").touch()
        time.sleep(HANGS)
    return process_shard(task)


def work_or_die(task: Any) -> Stats:
    if task.fails == DIES:
        os._exit(9)
    return work(task)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node of one core."""
    utils = pytest.importorskip("ray.cluster_utils")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    made = utils.Cluster(initialize_head=True, head_node_args=node)
    yield made
    made.shutdown()


def edges_tasks(settings: params.Params, photos: Path, shards: Path, base: Path) -> list[EdgesTask]:
    base.mkdir()
    names = sorted(path.name for path in photos.glob("*.jpg"))
    assert len(names) == SHARDS
    paths = [shards / f"part-{number:05d}.parquet" for number in range(SHARDS)]
    return [
        EdgesTask(path, ((name, name, "photo"),), settings.catalog, settings.edges, base)
        for path, name in zip(paths, names, strict=True)
    ]


def test_a_cluster_that_loses_a_machine_makes_the_shards_that_processes_make(
    cluster: Any, make_params: Make, tmp_path: Path
) -> None:
    photos = draw_photos(tmp_path / "photos", SHARDS, 0)
    settings = make_params({"catalog.dataset": "folder", "catalog.root": str(photos)})
    here = edges_tasks(settings, photos, tmp_path / "here", tmp_path / "base here")
    stats_or_raise(map_shards(process_shard, here, workers=2, description="test", unit="image"))

    there = edges_tasks(settings, photos, tmp_path / "there", tmp_path / "base there")
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    base = tmp_path / "base there"
    (base / "lost").write_text(node.node_id)

    def kill() -> None:
        while not (base / "waits").exists():
            time.sleep(0.01)
        node.kill_raylet()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    outcomes = map_shards(noted, there, workers=0, description="test", unit="image", ray=cluster.address)
    killer.join(HANGS)
    cluster.remove_node(node)

    assert [outcome.task for outcome in outcomes] == there
    assert all(stats["rows"] == 1 for stats in stats_or_raise(outcomes))
    assert len(list(base.glob("begun-*"))) > SHARDS  # what the lost machine was doing was done again
    made = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert len(made) == 2 * SHARDS  # shards and their stats, and nothing else


def test_a_cluster_embeds_the_very_parts_that_this_machine_embeds(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROWS", 3)
    made = make_run(tmp_path / "top")
    settings = made.params.model_copy(
        update={"machine": made.params.machine.model_copy(update={"ray": cluster.address})}
    )
    run, catalog, networks = replace(made, params=settings), read_catalog(made.catalog), open_networks(made)
    source, train, embed = open_source(settings.catalog, made.root), networks.own.train, settings.embed
    table = read_parquet(made.embeddings / "photos.parquet")
    sizes = {"size": networks.size, "batch": embed.batch}

    def no_image(images: Any) -> Any:
        assert not images.any()  # but one of zeros, which tells how wide vectors are
        return networks.embed(images)

    with Kept.opened(tmp_path / "there", weights_of(run), settings) as there:
        embed_on_cluster(run, catalog, there)
        finished = {path.name: path.read_bytes() for path in there.folder.glob("*.parquet")}
        export_all({made.embeddings: no_image}, catalog, source, None, train, embed, there, **sizes)
    assert len(finished) > 3
    here = {path.name: path.read_bytes() for path in (made.folder / "kept").glob("*.parquet")}
    assert finished.items() <= here.items()
    assert read_parquet(made.embeddings / "photos.parquet").equals(table)


def test_on_a_cluster_failures_are_values_as_well_and_finished_shards_are_kept(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_tasks, "LOST", 0)
    tasks = tasks_in(tmp_path, (0, 1, 9, DIES))
    outcomes = map_shards(work_or_die, tasks, workers=0, description="test", unit="row", ray=cluster.address)
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, False]
    raised, died = (outcome.error or "" for outcome in outcomes[2:])
    assert re.match("OSError: .*No space left", raised)
    assert died.startswith("WorkerCrashedError: ")
    assert [task.log.read_text() for task in tasks[:3]] == ["1", "2", "2"]
    map_shards(work_or_die, tasks[:3], workers=0, description="test", unit="row", ray=cluster.address)
    assert [task.log.read_text() for task in tasks[:3]] == ["1", "2", "4"]


def test_without_ray_a_cluster_is_refused_and_no_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    tasks = tasks_in(tmp_path, (0,))
    with pytest.raises(PipelineError, match=r"machine\.ray: auto, but Ray can't be loaded .*requirements-cluster\.txt"):
        map_shards(work, tasks, workers=0, description="test", unit="row", ray="auto")
    assert not tasks[0].log.exists()
