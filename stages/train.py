"""Trains the context encoder: data/patches/ and data/pairs/ -> data/model/, with its figures and their history.

`torchrun --nproc-per-node 2 stages/train.py` does the same by two processes, see docs/scale.md.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from common import ROOT, SCRATCH, run

from pipeline_lib.data.schemas import read_catalog, shard_paths
from pipeline_lib.files import digest_of, digest_of_code, digest_of_file, exclusive, write_json, write_text
from pipeline_lib.models.device import choose_device
from pipeline_lib.models.saved import save_model
from pipeline_lib.params import Params, fingerprint
from pipeline_lib.pretext.batches import pair_table
from pipeline_lib.run import Run
from pipeline_lib.training import ranks
from pipeline_lib.training.loop import train
from pipeline_lib.training.streams import ViewSource
from pipeline_lib.training.summary import describe, summarise

FREE = (
    "threads",
    "bootstrap",
)  # may differ between a checkpoint and the run that goes on; `restore` checks the threads
CODE = ("data", "pretext", "models", "training", "registry.py")


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Runs the stage."""
    with ranks.joined(choose_device(params.train)):
        _train(params, data)


def _train(params: Params, data: Path) -> None:
    made = Run(data, params, ROOT)
    catalog = read_catalog(made.catalog)
    pretext = catalog[catalog["role"] == "pretext"].set_index("image_id")
    ids = {split: list(pretext.index[pretext["split"] == split]) for split in ("train", "val")}
    groups = pretext["group_id"]
    views = None
    shards = digest_of([digest_of_file(path) for path in shard_paths(data / "patches")])
    if params.train.views:
        views = ViewSource(made.pairs, params.contrast, dict(zip(groups.index, groups, strict=True)))
        shards = digest_of(shards, [digest_of_file(path) for path in shard_paths(made.pairs)])
    # Images of one group are no negatives of each other.
    contrast = views and [fingerprint(params.contrast), sorted(views.groups.items())]
    key = digest_of(fingerprint(params.train, FREE), contrast, shards, ids, digest_of_code(*CODE))
    scratch = SCRATCH / f"train-{key[:16]}"
    with exclusive(scratch) if ranks.first() else nullcontext():
        ranks.wait()
        seconds = params.machine.checkpoint_seconds
        trained = train(params.train, data / "patches", ids["train"], ids["val"], ROOT, scratch, views, seconds)
        if not ranks.first():
            return

        clusters = groups.loc[trained.predictions.image_ids].to_numpy(str)
        table = pair_table(params.train.domain)
        summary = summarise(trained.predictions, table, clusters, params.train.bootstrap, params.train.seed)
        if trained.matched is not None:
            summary["match_at_1"], summary["match_images"] = round(trained.matched, 6), len(ids["val"])
        columns = list(trained.history[0])
        lines = [",".join(str(row[name]) for name in columns) for row in trained.history]
        write_text(made.model / "training.csv", "\n".join([",".join(columns), *lines]) + "\n")
        write_json(made.model / "pretext.json", summary)
        states = (trained.model.encoder.state_dict(), trained.start)
        save_model(made.model, *states, params, describe(trained, params.train, summary, shards))
        shutil.rmtree(scratch)
    print(f"pretext accuracy {summary['accuracy']:.3f} {summary['accuracy_ci95']}, {trained.seconds:.0f} s")


if __name__ == "__main__":
    run(main)
