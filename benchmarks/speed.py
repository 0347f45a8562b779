"""Speed on the processor at hand: `make bench`, or `python -m benchmarks.speed PART ...`, writes metrics/speed.csv.

A part that is measured replaces its rows. Most rows are ratios of two figures of one run, taken in turns. Parts:

- repro: the whole pipeline in a fresh clone, with nothing cached: minutes of the processor and of the clock
- step: the default's training step against its trunk alone on tensors in memory; on one thread and on all; and what
  `keep_freed_memory` is worth
- embed: the embed stage, from files to vectors, against the network alone; and folded against unfolded
- others: what a user would take instead, on the same pictures: a SimCLR step of lightly with the same trunk, batch and
  views, and a loop of torchvision's `ImageFolder` and `DataLoader` against `drawfind index`; and what
  `keep_freed_memory` is worth to that loop, in a fresh process each. open-metric-learning is left out: it asks for
  NumPy below 2

Whether a processor with bfloat16 computes as one without: ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2, and
`--precision fp32`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import pandas as pd
import torch
from torch import nn

from benchmarks.timing import changed, spent, update_table
from pipeline_lib import params
from pipeline_lib.data.cores import usable_cores
from pipeline_lib.data.images import decode
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.embedding.export import export
from pipeline_lib.embedding.images import LABELLED, Images, Pixels, catalog_images
from pipeline_lib.embedding.kept import Kept
from pipeline_lib.embedding.networks import fc6_of
from pipeline_lib.models.device import (
    KEPT_AT_MOST,
    KEPT_BELOW,
    autocast,
    choose_precision,
    keep_freed_memory,
    use_threads,
)
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.folding import folded
from pipeline_lib.models.saved import LoadedEncoder
from pipeline_lib.run import processor
from pipeline_lib.training.context import ContextPrediction
from pipeline_lib.training.contrast import Contrast
from pipeline_lib.training.loop import Task, train_step
from pipeline_lib.training.objective import Weighted
from pipeline_lib.training.start import make_optimiser, start_network
from pipeline_lib.training.streams import PatchStream, Stream, ViewSource, ViewStream

ROOT: Final = Path(__file__).resolve().parents[1]
TABLE: Final = ROOT / "metrics" / "speed.csv"
COLUMNS: Final = ("what", "value", "unit", "goal", "precision", "processor", "note")
STEPS: Final = 6
TURNS: Final = 3
EFFICIENTNET: Final = {
    "train.encoder": "efficientnet_lite0",
    "train.weights": "efficientnet_lite0",
    "contrast.image_size": 128,
    "contrast.batch_images": 64,
}
"""As the recipe `photos` trains."""
KEEPING: Final = {"MALLOC_MMAP_THRESHOLD_": str(KEPT_BELOW), "MALLOC_TRIM_THRESHOLD_": str(KEPT_AT_MOST)}
"""What gives a process `keep_freed_memory` from the outside."""


class Row(NamedTuple):
    """A line of the table."""

    what: str
    value: float
    unit: str
    goal: str = ""
    note: str = ""


Rows = Iterator[Row]
Timed = Callable[[], float]
"""Does some work and returns its seconds."""


def ratio(ours: Timed, other: Timed) -> tuple[float, float, float]:
    """The median over turns of other / ours (how much faster ours is), and the median seconds of both."""
    times = [(ours(), other()) for _ in range(TURNS + 1)][1:]  # the first warms up
    return median(b / a for a, b in times), median(a for a, _ in times), median(b for _, b in times)


def seconds_of(batches: Iterator[Any], step: Callable[[Any], None]) -> float:
    """Seconds of STEPS steps; one before them waits for the readers to start."""
    started = 0.0
    for number, batch in enumerate(itertools.islice(batches, STEPS + 1)):
        if number == 1:
            started = time.perf_counter()
        step(batch)
    return time.perf_counter() - started


def settings(precision: str, changes: Mapping[str, Any] = MappingProxyType({})) -> params.Params:
    """The default params but for `changes`, computed with in a precision."""
    return changed({**changes, "train.precision": precision, "embed.precision": precision})


def resolved(precision: str) -> str:
    """The precision that this processor computes with where the params say `precision`."""
    return choose_precision(settings(precision).train, torch.device("cpu"))


def repro(precision: str) -> Rows:
    """The pipeline's stages in a clone of what is committed."""
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        if precision != resolved("auto"):
            values = clone / "params.yaml"
            values.write_text(re.sub(r"(?m)^  precision: \w+", f"  precision: {precision}", values.read_text()))
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        # Its results stay in this repository's cache, so that `dvc repro` has them here without computing them again.
        subprocess.run(
            ["dvc", "cache", "dir", "--local", ROOT / ".dvc" / "cache"], cwd=clone, env=environment, check=True
        )
        before, started = spent(), time.perf_counter()
        command = ["dvc", "repro", "--quiet", "--force"]
        subprocess.run(command, cwd=clone, env=environment, check=True)
        used, clock = spent() - before, time.perf_counter() - started
    yield Row("repro_processor_minutes", used / 60, "min", "at most 20")
    yield Row("repro_clock_minutes", clock / 60, "min", "at most 10", f"{usable_cores()} cores")


class Trainer:
    """The default's network and its streams, on the pictures of `make repro`."""

    def __init__(self, values: params.Params, threads: int) -> None:
        self.threads = use_threads(threads)
        self.settings = values.train
        catalog = read_catalog(ROOT / "data" / "catalog.parquet")
        ids = catalog.loc[(catalog["role"] == "pretext") & (catalog["split"] == "train"), "image_id"].tolist()
        device, precision = torch.device("cpu"), choose_precision(values.train, torch.device("cpu"))
        self.precision = precision
        self.patches = PatchStream(values.train, ROOT / "data" / "patches", ids, ids[:1], device, precision)
        self.views = ViewStream(
            values.train, ViewSource(ROOT / "data" / "pairs", values.contrast, {}), ids, ids[:2], device, precision
        )
        self.model = start_network(values.train, self.patches.shards, ROOT, device)[0].train()
        self.optimiser = make_optimiser(self.model, values.train)
        weights = values.train.objectives
        self.objectives = [
            [Weighted(weights["context"], ContextPrediction())],
            [Weighted(weights["contrast"], Contrast())],
        ]
        # What the trunk is given in a step: layouts, then views.
        shapes = [
            (8 * values.train.batch_images, values.patches.size),
            (2 * self.views.shards.batch, values.contrast.image_size),
        ]
        self.images = [
            torch.randn(count, 3, side, side).contiguous(memory_format=torch.channels_last) for count, side in shapes
        ]

    def steps(self) -> float:
        """Seconds of some steps as the training takes them, reading and drawing included."""
        use_threads(self.threads)
        streams: tuple[Stream, ...] = (self.patches, self.views)
        given = [stream.batches(0, 0, STEPS + 1) for stream in streams]

        def step(batches: tuple[Any, ...]) -> None:
            tasks = [Task(*task) for task in zip(streams, batches, self.objectives, strict=True)]
            train_step(self.model, self.optimiser, tasks, 0)

        return seconds_of(zip(*given, strict=False), step)

    def bare(self) -> float:
        """Seconds of as many steps of the trunk alone: forward and backward."""
        use_threads(self.threads)
        started = time.perf_counter()
        for _ in range(STEPS):
            for images in self.images:
                with autocast(images.device, self.precision):
                    loss = self.model.encoder.stages(images).square().mean()
                loss.backward()
        return time.perf_counter() - started


def step(precision: str) -> Rows:
    """Training steps."""
    values = settings(precision)
    # glibc's own way comes first: what is kept stays kept.
    plain = Trainer(values, 0)
    plain.steps()
    before = min(plain.steps() for _ in range(TURNS))
    keep_freed_memory()
    found, ours, _ = ratio(plain.steps, plain.bare)
    views = 2 * plain.views.shards.batch
    yield Row(
        "step_over_bare_trunk", found, "ratio", "at least 0.85", f"{STEPS / ours:.3g} steps/s, {views} views each"
    )
    yield Row("step_keeping_freed_memory", before / ours, "ratio", "", "over the same without")
    one = Trainer(values, 1)
    faster, _, _ = ratio(plain.steps, one.steps)
    yield Row("step_all_threads_over_one", faster, "ratio", "", f"{plain.threads} threads")


def network(values: params.Params, *, fold: bool) -> LoadedEncoder:
    """The default's network with random weights."""
    torch.manual_seed(0)
    encoder = Encoder(values.train.model_copy(update={"pretrained": "none"}), values.patches.size).eval()
    if fold:
        folded(encoder)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedEncoder(encoder, values, {}, torch.device("cpu"))


def embed(precision: str) -> Rows:
    """The embed stage on the gallery of `make repro` as files of 256 px."""
    with tempfile.TemporaryDirectory() as scratch:
        yield from embedding(settings(precision), Path(scratch))


@torch.inference_mode()
def embedding(values: params.Params, folder: Path) -> Rows:
    """The rows of `embed`; `folder` takes the files."""
    use_threads(values.embed.threads)
    keep_freed_memory()
    count = pictures(values, folder / "photos")
    files = sorted((folder / "photos").iterdir())
    loaded = {fold: fc6_of(network(values, fold=fold), values.embed) for fold in (True, False)}
    size, batch = values.embed.largest, values.embed.batch
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)

    def read(path: Path) -> Pixels:
        return decode(path.read_bytes(), max_pixels=1 << 20)

    def from_files() -> float:
        started = time.perf_counter()
        items = ((path.name, "", path.name, partial(read, path)) for path in files)
        images = Images.of(items, pd.DataFrame({name: [path.name for path in files] for name in LABELLED}))
        with tempfile.TemporaryDirectory() as parts:
            systems, kept = {folder / "vectors.parquet": loaded[True]}, Kept(Path(parts), "")
            export(images, systems, values.train, kept, size=size, batch=batch, description="embed")
            return time.perf_counter() - started

    def alone(fold: bool) -> Timed:  # noqa: FBT001
        def seconds() -> float:
            started = time.perf_counter()
            for _ in range(count // batch):
                loaded[fold](images)
            loaded[fold](images[: count % batch])
            return time.perf_counter() - started

        return seconds

    found, ours, _ = ratio(from_files, alone(fold=True))
    yield Row("embed_over_folded_network", found, "ratio", "at least 0.9", f"{count / ours:.4g} images/s from files")
    faster, _, _ = ratio(alone(fold=True), alone(fold=False))
    yield Row("embed_folded_over_unfolded", faster, "ratio", "", values.train.encoder)
    other = values.model_copy(update={"train": values.train.model_copy(update={"encoder": "efficientnet_lite0"})})
    loaded = {fold: fc6_of(network(other, fold=fold), values.embed) for fold in (True, False)}
    faster, _, _ = ratio(alone(fold=True), alone(fold=False))
    yield Row("embed_folded_over_unfolded_efficientnet", faster, "ratio", "at least 1.5", other.train.encoder)


def others(precision: str) -> Rows:
    """What a user would take instead."""
    values = settings(precision)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        count = pictures(values, folder / "photos" / "all")
        yield lightly("step_over_lightly", values, folder / "photos")
        yield lightly("step_over_lightly_efficientnet", settings(precision, EFFICIENTNET), folder / "photos")
        yield from plain_loop(folder / "photos", count)


def pictures(values: params.Params, folder: Path) -> int:
    """Writes the gallery of `make repro` as JPEGs of 256 px; returns how many."""
    from PIL import Image  # noqa: PLC0415

    folder.mkdir(parents=True)
    catalog = read_catalog(ROOT / "data" / "catalog.parquet")
    rows = catalog[catalog["role"] == "gallery"]
    for number, (*_, pixels) in enumerate(catalog_images(rows, open_source(values.catalog, ROOT))):
        Image.fromarray(pixels()).save(folder / f"{number:05d}.jpg", quality=92)
    return len(rows)


def lightly(what: str, values: params.Params, photos: Path) -> Row:
    """A step of SimCLR with the same trunk, batch, size of views and precision, fed by two workers."""
    from lightly.loss import NTXentLoss  # noqa: PLC0415  only this benchmark needs it
    from lightly.models.modules import SimCLRProjectionHead  # noqa: PLC0415
    from lightly.transforms.simclr_transform import SimCLRTransform  # noqa: PLC0415
    from torch.utils.data import DataLoader  # noqa: PLC0415
    from torchvision.datasets import ImageFolder  # noqa: PLC0415

    trainer = Trainer(values, 0)
    keep_freed_memory()
    stages: nn.Module = network(values, fold=False).encoder.stages.train()
    size, batch = values.contrast.image_size, trainer.views.shards.batch
    width = stages(torch.randn(2, 3, size, size)).shape[1]
    head, criterion = SimCLRProjectionHead(width, 512, 128), NTXentLoss(temperature=values.contrast.temperature)
    optimiser = torch.optim.SGD([*stages.parameters(), *head.parameters()], lr=values.train.learning_rate)
    loader = DataLoader(
        ImageFolder(str(photos), SimCLRTransform(input_size=size)), batch, shuffle=True, num_workers=2, drop_last=True
    )
    rounds = itertools.chain.from_iterable(itertools.repeat(loader))

    def simclr(batch: Any) -> None:
        first, second = (head(stages(part).mean(dim=(2, 3))) for part in batch[0])
        optimiser.zero_grad()
        criterion(first, second).backward()
        optimiser.step()

    def contrast(views: Any) -> None:
        train_step(trainer.model, trainer.optimiser, [Task(trainer.views, views, trainer.objectives[1])], 0)

    def theirs() -> float:
        return seconds_of(rounds, simclr)

    def ours() -> float:
        return seconds_of(trainer.views.batches(0, 0, STEPS + 1), contrast)

    found, a, b = ratio(ours, theirs)
    told = f"{2 * batch * STEPS / a:.3g} and {2 * batch * STEPS / b:.3g} views/s, {batch} pairs of {size} px"
    return Row(what, found, "ratio", "at least 1.5", f"{told}, {values.train.encoder}")


def plain_loop(photos: Path, count: int) -> Rows:
    """`drawfind index`, from start to end, against the loop that a user would write; each in a process of its own."""

    def ours() -> float:
        with tempfile.TemporaryDirectory() as home:
            environment = {**os.environ, "XDG_DATA_HOME": home}
            command = [sys.executable, "-m", "pipeline_lib.search", "index", str(photos)]
            started = time.perf_counter()
            subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
            return time.perf_counter() - started

    def theirs(**environment: str) -> float:
        code = "import sys; from benchmarks import speed; print(speed.seconds_of_loop(sys.argv[1]))"
        command = [sys.executable, "-c", code, str(photos)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, encoding="utf-8", check=True
        )
        return float(done.stdout)

    a, b, kept = ours(), theirs(), theirs(**KEEPING)
    told = f"{count / a:.3g} and {count / b:.3g} photos/s: EfficientNet-Lite0, two maps, 224 px, mirrored"
    yield Row("embed_over_torchvision_loader", b / a, "ratio", "at least 2", told)
    yield Row("torchvision_loader_keeping_freed_memory", b / kept, "ratio", "", "over the same without")


@torch.inference_mode()
def seconds_of_loop(photos: str) -> float:
    """Embeds a folder by ImageFolder, DataLoader and the network of models/photos in torch, without its projection."""
    from torch.utils.data import DataLoader  # noqa: PLC0415
    from torchvision import transforms  # noqa: PLC0415
    from torchvision.datasets import ImageFolder  # noqa: PLC0415

    values = changed({"train.encoder": "efficientnet_lite0", "train.pretrained": "none"})
    encoder = Encoder(values.train, values.patches.size).eval()
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ready = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor(), normalise])
    started, found = time.perf_counter(), []
    for images, _ in DataLoader(ImageFolder(photos, ready), 32, num_workers=2):
        for shown in (images, images.flip(-1)):
            before, last = encoder.maps(shown)
            found.append(torch.cat([encoder.read(last), last.flatten(1), before.flatten(1)], dim=1).numpy())
    return time.perf_counter() - started


PARTS: Final = {"repro": repro, "step": step, "embed": embed, "others": others}


def save(rows: Sequence[Row], precision: str) -> None:
    """Writes rows into the table, in the place of those of the same name and precision."""
    cells = [(row.what, f"{row.value:.4g}", row.unit, row.goal, precision, processor(), row.note) for row in rows]
    update_table(TABLE, COLUMNS, ("what", "precision"), [dict(zip(COLUMNS, row, strict=True)) for row in cells])


def main() -> None:
    """Measures the parts that are asked for."""
    parser = argparse.ArgumentParser(description="speed, as ratios to what it could be and to what others do")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    asked = parser.parse_args()
    precision = resolved(asked.precision)
    for part in asked.parts or PARTS:
        for row in PARTS[part](precision):
            print(*row)
            save([row], precision)


if __name__ == "__main__":
    main()
