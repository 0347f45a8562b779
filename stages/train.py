"""Trains the context encoder: data/patches/ -> data/model/, metrics/pretext.json, metrics/training.csv."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from common import ROOT, SCRATCH, run
from safetensors.torch import save_file

from pipeline_lib.data.files import digest_of, digest_of_code, digest_of_file, replacing, write_json, write_text
from pipeline_lib.data.schemas import read_catalog, shard_paths
from pipeline_lib.params import Params
from pipeline_lib.pretext.batches import pair_table
from pipeline_lib.training.loop import Trained, train
from pipeline_lib.training.summary import summarise

FREE = {"threads", "checkpoint_seconds", "bootstrap"}  # may differ between a checkpoint and the run that goes on


def main(params: Params, data: Path, metrics: Path) -> None:
    """Runs the stage."""
    catalog = read_catalog(data / "catalog.parquet")
    pretext = catalog[catalog["role"] == "pretext"].set_index("image_id")
    ids = {split: list(pretext.index[pretext["split"] == split]) for split in ("train", "val")}
    shards = digest_of([digest_of_file(path) for path in shard_paths(data / "patches")])
    rooms = ("data", "pretext", "models", "training")
    key = digest_of(params.train.model_dump(exclude=FREE), shards, ids, digest_of_code(*rooms))
    scratch = SCRATCH / f"train-{key[:16]}"
    trained = train(params.train, data / "patches", ids["train"], ids["val"], ROOT, scratch)

    groups = pretext["group_id"].loc[trained.predictions.image_ids].to_numpy(str)
    table = pair_table(params.train.domain)
    summary = summarise(trained.predictions, table, groups, params.train.bootstrap, params.train.seed)
    columns = list(trained.history[0])
    lines = [",".join(str(row[name]) for name in columns) for row in trained.history]
    write_text(metrics / "training.csv", "\n".join([",".join(columns), *lines]) + "\n")
    write_json(metrics / "pretext.json", summary)
    save(trained, params, shards, summary, len(ids["train"]), data / "model")
    shutil.rmtree(scratch)
    print(f"pretext accuracy {summary['accuracy']:.3f} {summary['accuracy_ci95']}, {trained.seconds:.0f} s")


def save(trained: Trained, params: Params, shards: str, summary: dict[str, object], images: int, folder: Path) -> None:
    """Writes the model's files; the record comes last, so a folder with a record is whole."""
    for name, state in (("start", trained.start), ("encoder", trained.model.encoder.state_dict())):
        with replacing(folder / f"{name}.safetensors") as aside:
            save_file({key: value.contiguous() for key, value in state.items()}, aside)
    record = {
        "architecture": f"{params.train.encoder}, fc6 {params.train.fc6}",
        "start_weights": trained.origin,
        "training_images": images,
        "data_sha256": shards,
        "accuracy": summary["accuracy"],
        "accuracy_ci95": summary["accuracy_ci95"],
        "precision": trained.precision,
        "device": trained.device,
        "python": sys.version.split()[0],
        "params": params.model_dump(include={"edges", "patches", "train"}),
    }
    write_json(folder / "meta.json", record)


if __name__ == "__main__":
    run(main)
