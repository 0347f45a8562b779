"""Trains the context encoder: data/patches/ -> data/model/, metrics/pretext.json, metrics/training.csv."""

from __future__ import annotations

import shutil
from pathlib import Path

from common import ROOT, SCRATCH, run

from pipeline_lib.data.files import digest_of, digest_of_code, digest_of_file, write_json, write_text
from pipeline_lib.data.schemas import read_catalog, shard_paths
from pipeline_lib.params import Params
from pipeline_lib.pretext.batches import pair_table
from pipeline_lib.training.artefact import save_model
from pipeline_lib.training.loop import ViewSource, train
from pipeline_lib.training.summary import summarise

FREE = {"threads", "checkpoint_seconds", "bootstrap"}  # may differ between a checkpoint and the run that goes on


def main(params: Params, data: Path, metrics: Path) -> None:
    """Runs the stage."""
    catalog = read_catalog(data / "catalog.parquet")
    pretext = catalog[catalog["role"] == "pretext"].set_index("image_id")
    ids = {split: list(pretext.index[pretext["split"] == split]) for split in ("train", "val")}
    groups = pretext["group_id"]
    views = None
    shards = digest_of([digest_of_file(path) for path in shard_paths(data / "patches")])
    if params.train.contrast_weight:
        views = ViewSource(data / "pairs", params.contrast, dict(zip(groups.index, groups, strict=True)))
        shards = digest_of(shards, [digest_of_file(path) for path in shard_paths(data / "pairs")])
    rooms = ("data", "pretext", "models", "training")
    # Images of one group are no negatives of each other.
    contrast = views and [params.contrast.model_dump(), sorted(views.groups.items())]
    settings = [params.train.model_dump(exclude=FREE), contrast]
    key = digest_of(settings, shards, ids, digest_of_code(*rooms))
    scratch = SCRATCH / f"train-{key[:16]}"
    trained = train(params.train, data / "patches", ids["train"], ids["val"], ROOT, scratch, views)

    clusters = groups.loc[trained.predictions.image_ids].to_numpy(str)
    table = pair_table(params.train.domain)
    summary = summarise(trained.predictions, table, clusters, params.train.bootstrap, params.train.seed)
    if trained.matched is not None:
        summary["match_at_1"], summary["match_images"] = round(trained.matched, 6), len(ids["val"])
    columns = list(trained.history[0])
    lines = [",".join(str(row[name]) for name in columns) for row in trained.history]
    write_text(metrics / "training.csv", "\n".join([",".join(columns), *lines]) + "\n")
    write_json(metrics / "pretext.json", summary)
    save_model(data / "model", trained, params, summary, shards)
    shutil.rmtree(scratch)
    print(f"pretext accuracy {summary['accuracy']:.3f} {summary['accuracy_ci95']}, {trained.seconds:.0f} s")


if __name__ == "__main__":
    run(main)
