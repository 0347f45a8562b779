"""Reads artefacts as the program does, in a process of its own, since damaged bytes may bring a library down.

    python -m campaign.reading FAMILY

Each line of standard input is a kind and a path, as JSON; each line of the answer either the digest of what was read,
or the message with which the program refused it. FAMILY keeps torch and FAISS apart: `torch` or `faiss`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.timing import ROOT
from pipeline_lib.data.images import BadImage
from pipeline_lib.data.schemas import CATALOG, opened_shard, read_catalog, read_table
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.errors import PipelineError
from pipeline_lib.run import Run


def digest(values: Any) -> str:
    """SHA-256 (hex) of whatever was read."""
    total = hashlib.sha256()
    for part in parts(values):
        total.update(part)
        total.update(b"\0")
    return total.hexdigest()


def parts(values: Any) -> Iterator[bytes]:
    """The bytes of values, however nested."""
    if isinstance(values, bytes):
        yield values
    elif isinstance(values, pa.Array | pa.ChunkedArray):  # whose repr leaves out what is in the middle
        yield from parts(values.to_pylist())
    elif isinstance(values, np.ndarray):
        yield str((values.dtype, values.shape)).encode()
        yield values.tobytes() if values.dtype != object else str(values.tolist()).encode()
    elif isinstance(values, dict):
        for key in sorted(values, key=str):
            yield str(key).encode()
            yield from parts(values[key])
    elif isinstance(values, list | tuple):
        yield str(len(values)).encode()
        for each in values:
            yield from parts(each)
    elif values is None or isinstance(values, str | int | float | np.generic):
        yield repr(values).encode()
    else:  # the repr of an object may tell where it lies in memory
        raise TypeError(f"{type(values)} has no bytes to compare")


def catalog(path: Path) -> Any:
    """As all stages after the first read it."""
    return read_catalog(path)[CATALOG.names].to_dict("list")


def table(path: Path) -> Any:
    """As the report reads rankings."""
    return _values(read_table(path))


def shard(path: Path) -> Any:
    """As pairs and patches are read, with the shapes that the schema tells."""
    with opened_shard(path) as file:
        groups = [_values(file.read_row_group(number)) for number in range(file.num_row_groups)]
        return [dict(file.schema_arrow.metadata or {}), groups]


def _values(found: pa.Table) -> Any:
    return {name: found[name].to_pylist() for name in found.column_names}


def embeddings(path: Path) -> Any:
    """As the stages index and evaluate read vectors."""
    found = EmbeddingTable.open(path)
    labels = found.labels
    return [labels.image_ids.tolist(), labels.class_names.tolist(), labels.instance_ids.tolist(), found.read()]


def run(path: Path) -> Any:
    """As a search opens a run: its record, its networks, its alignment."""
    from pipeline_lib.search.engine import open_encoder  # noqa: PLC0415  not beside FAISS

    made = Run.open(path, ROOT)
    encoder = open_encoder(made, 1)
    side = encoder.embedder.size
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    kept = {name: made.record.get(name) for name in ("likeness", "data")}
    return [made.params.model_dump(mode="json"), kept, dict(encoder.embedder.meta), encoder.embedder.vectors(images)]


def start(path: Path) -> Any:
    """As the stage baselines opens the start weights."""
    from pipeline_lib.models.saved import START, load_encoder  # noqa: PLC0415

    made = Run.open(path, ROOT)
    state = load_encoder(made.model, made.params, START, fold=False).encoder.state_dict()
    return {name: value.numpy() for name, value in state.items()}


def checkpoint(path: Path) -> Any:
    """As training goes on from it; `path` is that of its tree."""
    import torch  # noqa: PLC0415  not beside FAISS

    from pipeline_lib.files import read_yaml  # noqa: PLC0415
    from pipeline_lib.models.context import ContextNet  # noqa: PLC0415
    from pipeline_lib.params import parse  # noqa: PLC0415
    from pipeline_lib.pretext.batches import pair_table  # noqa: PLC0415
    from pipeline_lib.training.checkpoint import restore  # noqa: PLC0415
    from pipeline_lib.training.start import make_optimiser  # noqa: PLC0415

    settings = parse(read_yaml(path / "params.yaml"))
    pairs = pair_table(settings.train.domain)
    model = ContextNet(
        settings.train, settings.patches.size, torch.from_numpy(pairs.first), torch.from_numpy(pairs.second)
    )
    optimiser = make_optimiser(model, settings.train)
    (file,) = path.glob(".scratch/train-*/checkpoint.pt")
    progress = restore(file, model, optimiser, 1, "cpu")
    moved = optimiser.state_dict()["state"]
    return [
        {name: value.numpy() for name, value in model.state_dict().items()},
        {number: one["momentum_buffer"].numpy() for number, one in moved.items()},
        vars(progress) if progress else None,
    ]


def own(path: Path) -> Any:
    """As the page opens an index of one's own photos: what photos find there, with what is kept of them."""
    from pipeline_lib.search.command import box  # noqa: PLC0415
    from pipeline_lib.search.engine import open_engine  # noqa: PLC0415

    with closing(open_engine(Run.open(box(), ROOT), "own", 1, path)) as engine:
        gallery, rows = engine.gallery, range(0, len(engine.gallery), 5)
        queries = [engine.prepare(gallery.load(row, engine.encoder.embedder.size), "photo") for row in rows]
        hits = [[(gallery.image_ids[hit.row], round(hit.score, 5)) for hit in one] for one in engine.search(queries, 5)]
        places = [list(gallery.paths), [str(root) for root in gallery.roots]]
        return [hits, places, gallery.name, gallery.stacked([*rows])]


def update(path: Path) -> Any:
    """As `drawfind index` brings an index up to date: it reads the record and all shards, and then searches."""
    from pipeline_lib.search.command import box  # noqa: PLC0415
    from pipeline_lib.search.engine import open_encoder  # noqa: PLC0415
    from pipeline_lib.search.index_photos import update as bring_up_to_date  # noqa: PLC0415

    made = Run.open(box(), ROOT)
    bring_up_to_date(made, [], lambda: open_encoder(made, 1), index=path)
    return own(path)


def thumbnail(path: Path) -> Any:
    """As the page shows them: where none is told to be whole, it is made again of the photo."""
    from pipeline_lib.search.thumbnails import Thumbnails  # noqa: PLC0415

    found = Thumbnails(path.parents[1]).read(path.stem)
    if found is None:
        raise PipelineError(f"{path.name}: is made again")
    return found


def index(path: Path) -> Any:
    """As the process that holds FAISS opens an index and searches it."""
    from pipeline_lib.index.photo_index import PhotoIndex  # noqa: PLC0415  not beside torch

    opened = PhotoIndex.load(path)
    queries = np.random.default_rng(0).standard_normal((4, opened.facts.dimension)).astype(np.float32)
    found = opened.search(queries, 10)
    names = [opened.image_ids.take(pa.array(one.rows[0])) for one in found]
    return [names, [one.scores for one in found], opened.facts.alignment]


FAMILIES: dict[str, tuple[Callable[[Path], Any], ...]] = {
    "torch": (run, start, checkpoint),
    "faiss": (index,),
    "none": (catalog, table, shard, embeddings, own, update, thumbnail),
}
FAMILY_OF = {each.__name__: family for family, kinds in FAMILIES.items() for each in kinds}


def serve(family: str) -> None:
    """Answers until standard input ends."""
    kinds = {each.__name__: each for each in FAMILIES[family]}
    for line in sys.stdin:
        kind, path = json.loads(line)
        try:
            answer = {"read": digest(kinds[kind](Path(path)))}
        except (PipelineError, BadImage) as failure:
            answer = {"refused": str(failure)}
        except Exception as failure:  # noqa: BLE001  what this process is for
            answer = {"broke": f"{type(failure).__name__}: {failure}"[:300]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
