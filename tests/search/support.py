"""A small finished run of the pipeline, made of its real parts with an untrained encoder, to search with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from pipeline_lib.data.catalog import build_catalog
from pipeline_lib.data.files import write_json
from pipeline_lib.data.schemas import read_catalog, write_table
from pipeline_lib.data.source import open_source
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.pretext.edges import make_pairs
from pipeline_lib.retrieval.alignment import FILE_NAME
from pipeline_lib.retrieval.copies import take
from pipeline_lib.retrieval.encode import export_all
from pipeline_lib.retrieval.fitting import fit_pretext
from pipeline_lib.retrieval.networks import open_networks
from pipeline_lib.retrieval.vectors import EmbeddingTable
from pipeline_lib.search.messages import BuildJob
from pipeline_lib.search.opening import Run
from pipeline_lib.search.remote import RemoteFaiss
from tests.pipeline.support import ROOT, SMALL, draw_photos, set_params

PHOTOS = 12
SKETCHES = 5


def save_model(run: Run, seed: int = 0) -> None:
    """An encoder with random weights, as the train stage writes one."""
    torch.manual_seed(seed)
    encoder = Encoder(run.params.train, run.params.patches.size)
    # BatchNorm as if it had seen something: with its start values the vectors would hardly differ.
    encoder.train()
    with torch.no_grad():
        encoder(torch.randn(16, 3, 64, 64))
    encoder.eval()
    folder = run.data / "model"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in encoder.state_dict().items()}, folder / "encoder.safetensors")
    kept = run.params.model_dump(include={"train", "patches", "edges"})
    record = {"architecture": "alexnet, fc6 32", "start_weights": "none", "training_images": PHOTOS, "accuracy": 0.5}
    write_json(folder / "meta.json", {**record, "params": kept})


def embed(run: Run) -> None:
    """What the stages embed and index write."""
    out = run.data / "embeddings"
    take(run.params.embed.runs, run.root, out)
    networks = open_networks(run.data / "model", run.params.embed, out)
    catalog = read_catalog(run.data / "catalog.parquet")
    source = open_source(run.params.catalog, run.root)
    train = networks.own.train
    export_all({out: networks.embed}, catalog, source, run.data / "pairs", train, size=networks.size, batch=4)
    fit_pretext(out, networks.widths(), run.params.embed.facing).save(out / FILE_NAME)
    write_json(out / "system.json", {"seconds": 1.0, "embed": run.params.embed.model_dump()})
    kind = run.params.retrieval.alignment
    job = BuildJob((out / "photos.parquet",), out / FILE_NAME, kind, "exact", 0, run.data / "index")
    faiss = RemoteFaiss()
    faiss.build(job)
    faiss.close()


def make_run(top: Path, photos: int = PHOTOS) -> Run:
    """A folder with params.yaml, photos, sketches of some of them, and everything that search reads."""
    tree = top / "repository"
    tree.mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", tree)
    folder = draw_photos(top / "own photos", photos, SKETCHES)
    set_params(tree, {**SMALL, "catalog.root": str(folder), "catalog.sketches": "sketches"})
    run = Run.read(tree / "params.yaml")
    built = build_catalog(open_source(run.params.catalog, tree), run.params.catalog, top / "scratch")
    write_table(run.data / "catalog.parquet", built.table)
    make_pairs(read_catalog(run.data / "catalog.parquet"), run.params, tree, run.data / "pairs", top / "scratch")
    save_model(run)
    embed(run)
    return run


def with_params(run: Run, **changes: object) -> Run:
    """The run read again after a change of leaf keys, given as `search__kind="ivf"`."""
    set_params(run.root, {name.replace("__", "."): value for name, value in changes.items()})
    return Run.read(run.root / "params.yaml")


def stored_vectors(path: Path) -> dict[str, np.ndarray]:
    """image_id -> vector of an embedding table."""
    table = EmbeddingTable.open(path)
    return dict(zip(table.labels.image_ids.tolist(), table.read(), strict=True))


def params_text(run: Run) -> dict[str, object]:
    """The run's params file as a mapping."""
    loaded = yaml.safe_load((run.root / "params.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded
