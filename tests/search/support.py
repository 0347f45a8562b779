"""A small finished run of the pipeline, made of its real parts with an untrained encoder, to search with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from pipeline_lib.data.catalog import build_catalog
from pipeline_lib.data.schemas import read_catalog, write_table
from pipeline_lib.data.source import open_source
from pipeline_lib.embedding.alignment import FILE_NAME, fit_pretext
from pipeline_lib.embedding.export import export_all
from pipeline_lib.embedding.kept import Kept
from pipeline_lib.embedding.networks import Networks, load_networks, take_beside, weights_of
from pipeline_lib.embedding.projected import project
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.index.facts import BuildJob
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.models import saved
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.params import parse
from pipeline_lib.pretext.edges import make_pairs
from pipeline_lib.run import Run
from tests.pipeline.support import ROOT, SMALL, draw_photos

PHOTOS = 12
SKETCHES = 5


def save_model(run: Run, seed: int = 0) -> Run:
    """An encoder with random weights, as the train stage writes one; returns the run with its new record."""
    torch.manual_seed(seed)
    encoder = Encoder(run.params.train, run.params.patches.size)
    # BatchNorm as if it had seen something: with its start values the vectors would hardly differ.
    encoder.train()
    with torch.no_grad():
        encoder(torch.randn(16, 3, 64, 64))
    encoder.eval()
    state = encoder.state_dict()
    record = {"architecture": "alexnet, fc6 32", "start_weights": "none", "training_images": PHOTOS, "accuracy": 0.5}
    saved.save_model(run.model, state, state, run.params, record)
    return recorded(run)


def recorded(run: Run) -> Run:
    """The run read again after its record was written."""
    run.write_record(data="of its images")
    return Run.open(run.folder, run.root)


def embed(run: Run) -> None:
    """What the stages embed and index write."""
    out = run.embeddings
    take_beside(run)
    networks, settings = Networks(load_networks(run)), run.params.embed
    catalog = read_catalog(run.catalog)
    source = open_source(run.params.catalog, run.root)
    with Kept.opened(run.folder / "kept", weights_of(run), run.params) as kept:
        if settings.dimension:
            networks = project(networks, run.pairs, catalog, out, kept)
        pairs = None if networks.projection else run.pairs
        train = networks.own.train
        sizes = {"size": networks.size, "batch": settings.batch}
        export_all({out: networks.embed}, catalog, source, pairs, train, settings, kept, **sizes)
    fit_pretext(out, networks.widths(), networks.facing, projected=networks.projection is not None).save(
        out / FILE_NAME
    )
    kind = run.params.retrieval.alignment
    job = BuildJob((out / "photos.parquet",), out / FILE_NAME, kind, "exact", 0, run.index)
    faiss = RemoteFaiss()
    faiss.build(job)
    faiss.close()
    recorded(run)


def make_run(top: Path, photos: int = PHOTOS) -> Run:
    """A tree with the folder `data` of a run, beside photos and sketches of some of them."""
    tree = top / "repository"
    tree.mkdir(parents=True)
    folder = draw_photos(top / "own photos", photos, SKETCHES)
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    change(values, {**SMALL, "catalog.root": str(folder), "catalog.sketches": "sketches"})
    run = Run(tree / "data", parse(values), tree)
    built = build_catalog(open_source(run.params.catalog, tree), run.params.catalog, top / "scratch", 1)
    write_table(run.catalog, built.table)
    make_pairs(read_catalog(run.catalog), run.params, tree, run.pairs, top / "scratch")
    embed(save_model(run))
    return Run.open(run.folder, run.root)


def change(values: dict[str, Any], changes: Mapping[str, object]) -> None:
    """Sets leaf keys of params, given as `{"train.epochs": 2}`."""
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[leaf] = value


def with_params(run: Run, **changes: object) -> Run:
    """The run as if it was made with other leaf keys, given as `index__kind="ivf"`."""
    values = run.params.model_dump(mode="json")
    change(values, {name.replace("__", "."): value for name, value in changes.items()})
    return recorded(replace(run, params=parse(values)))


def stored_vectors(path: Path) -> dict[str, np.ndarray]:
    """image_id -> vector of an embedding table."""
    table = EmbeddingTable.open(path)
    return dict(zip(table.labels.image_ids.tolist(), table.read(), strict=True))
