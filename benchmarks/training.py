"""Training: the real loop, fed from Parquet shards by the reader thread, against the same steps on tensors in memory.

The limit's tensors are ready for the encoder, so ours also pays for reading, shuffling, stacking and normalising.
Checkpoints and validation are left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.timing import changed, compare, tell
from pipeline_lib.data.schemas import patches_schema, write_table
from pipeline_lib.models.context import ContextNet
from pipeline_lib.models.device import choose_device, choose_precision, keep_freed_memory, use_threads
from pipeline_lib.pretext.batches import Batch, PatchShards, pair_table
from pipeline_lib.training.start import learning_rate, make_optimiser, seed_of, start_network
from pipeline_lib.training.step import ContextTask, Pairs, inputs_of, train_step

STEPS, TURNS = 24, 5  # as many steps as an epoch of the default run has
ROW_GROUP, SHARD_GROUPS = 64, 4


class Trainer:
    """The default network, started from nothing, on random patches."""

    def __init__(self, folder: Path) -> None:
        settings = changed({"train.pretrained": "none"})
        self.settings, size = settings.train, settings.patches.size
        use_threads(self.settings.threads)
        keep_freed_memory()
        self.device = choose_device(self.settings)
        self.precision = choose_precision(self.settings, self.device)
        ids = write_patches(folder, STEPS * self.settings.batch_images, size)
        self.shards = PatchShards(folder, ids, self.settings.domain)
        self.model: ContextNet = start_network(self.settings, self.shards, folder, self.device)[0]
        self.model.train()
        self.optimiser = make_optimiser(self.model, self.settings)
        self.pairs = Pairs.of(pair_table(self.settings.domain), self.device)
        self.number = 0

    def inputs(self, batch: Batch) -> torch.Tensor:
        """What the encoder is given for a batch."""
        generator = torch.Generator().manual_seed(seed_of(self.settings, self.number))
        return inputs_of(batch, self.settings, self.device, generator)

    def step(self, images: torch.Tensor) -> float:
        """One step as `training.loop` takes it, and its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.number, 1_000_000, self.settings) * group["factor"]
        torch.manual_seed(seed_of(self.settings, self.number))
        self.number += 1
        task = ContextTask(images, self.settings.batch_images, self.pairs)
        found = train_step(self.model, self.optimiser, task, None, self.precision).context
        assert found is not None  # noqa: S101  the task above
        return float(found.loss)

    def epoch(self) -> Iterator[Batch]:
        """Batches from the shards, in a new order."""
        settings = self.settings
        return self.shards.epoch(0, settings.batch_images, shuffle=(settings.seed, self.number), drop_last=True)


def write_patches(folder: Path, images: int, size: int) -> list[str]:
    """Shards of one draw of random patches, in row groups as the patches stage writes them."""
    rng = np.random.default_rng(0)
    ids = [f"image/{number:05d}" for number in range(images)]
    shard = ROW_GROUP * SHARD_GROUPS
    for number, start in enumerate(range(0, images, shard)):
        names = ids[start : start + shard]
        boxes = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(16 * len(names), np.int16)), 16)
        photos = [rng.bytes(4 * size * size * 3) for _ in names]
        edges = [np.where(rng.random(4 * size * size) < 0.05, 0, 255).astype(np.uint8).tobytes() for _ in names]
        columns = [names, pa.array(np.zeros(len(names), np.int16)), boxes, photos, edges]
        write_table(folder / f"part-{number:05d}.parquet", pa.table(columns, patches_schema(size)), row_group=ROW_GROUP)
    return ids


def main() -> None:
    """Times steps fed both ways."""
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        trainer = Trainer(Path(folder))
        memory = [trainer.inputs(batch) for batch in trainer.epoch()]

        def real_loop() -> float:
            # A whole epoch with the reader's start: nothing was read ahead before the clock started.
            started = time.perf_counter()
            for batch in trainer.epoch():
                trainer.step(trainer.inputs(batch))
            return STEPS / (time.perf_counter() - started)

        def from_memory() -> float:
            started = time.perf_counter()
            for images in memory:
                trainer.step(images)
            return STEPS / (time.perf_counter() - started)

        row = compare(
            "training: shards / tensors in memory",
            real_loop,
            from_memory,
            unit="steps/s",
            goal=0.9,
            turns=TURNS,
            sense="at least",
        )
    tell([row])


if __name__ == "__main__":
    main()
