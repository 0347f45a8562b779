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
from pipeline_lib.models.device import autocast, choose_device, choose_precision, keep_freed_memory, use_threads
from pipeline_lib.pretext.batches import Batch
from pipeline_lib.training.context import ContextPrediction
from pipeline_lib.training.loop import Task, train_step
from pipeline_lib.training.objective import Weighted, weighted_loss
from pipeline_lib.training.start import learning_rate, make_optimiser, seed_of, start_network
from pipeline_lib.training.streams import Pairs, PatchOutputs, PatchStream, patch_inputs

STEPS, TURNS = 24, 5  # as many steps as an epoch of the default run has
ROW_GROUP, SHARD_GROUPS = 64, 4
OBJECTIVES = (Weighted(1.0, ContextPrediction()),)


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
        self.stream = PatchStream(self.settings, folder, ids, ids[:1], self.device, self.precision)
        self.model: ContextNet = start_network(self.settings, self.stream.shards, folder, self.device)[0]
        self.model.train()
        self.optimiser = make_optimiser(self.model, self.settings)
        self.number = 0

    def inputs(self, batch: Batch) -> torch.Tensor:
        """What the encoder is given for a batch."""
        return patch_inputs(batch, self.settings, self.device, torch.Generator().manual_seed(0))

    def prepare_step(self) -> int:
        """Sets the learning rate and torch's seed as `training.loop` does, and returns the seed."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.number, 1_000_000, self.settings) * group["factor"]
        seed = seed_of(self.settings, self.number)
        torch.manual_seed(seed)
        self.number += 1
        return seed

    def step(self, batch: Batch) -> float:
        """One step as `training.loop` takes it, and its loss."""
        task = Task(self.stream, batch, OBJECTIVES)
        return float(train_step(self.model, self.optimiser, [task], self.prepare_step())["train_loss"])

    def step_from_memory(self, images: torch.Tensor) -> float:
        """The same on the encoder's input."""
        self.prepare_step()
        count = self.settings.batch_images
        return step_on(images, self.model, self.optimiser, self.stream.pairs, count, self.precision)

    def epoch(self) -> Iterator[Batch]:
        """Batches from the shards, in a new order."""
        return self.stream.batches(self.number, 0, STEPS)


def step_on(
    images: torch.Tensor,
    model: ContextNet,
    optimiser: torch.optim.Optimizer,
    pairs: Pairs,
    count: int,
    precision: str,
) -> float:
    """One step on the encoder's input, and its loss.

    Args:
        images: float32[B * P, 3, H, W].
        model: in training mode.
        optimiser: over the model's parameters.
        pairs: of the patches of an image.
        count: number of images B.
        precision: `bf16` or `fp32`.
    """
    optimiser.zero_grad(set_to_none=True)
    with autocast(images.device, precision):
        logits = model(images, count)
    loss, figures = weighted_loss(OBJECTIVES, PatchOutputs(logits, pairs))
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(figures["train_loss"])


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
                trainer.step(batch)
            return STEPS / (time.perf_counter() - started)

        def from_memory() -> float:
            started = time.perf_counter()
            for images in memory:
                trainer.step_from_memory(images)
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
