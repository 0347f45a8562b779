"""The benchmarks: Sketchy with its parts, the embedded OpenMoji set, and Li et al. 2014."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline_lib.baselines.system import Benchmark, Part, Run, Training
from pipeline_lib.data import li2014_benchmark
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import FileSource, open_source
from pipeline_lib.data.split import held_out
from pipeline_lib.errors import PipelineError

COLUMNS = ["image_id", "class_name", "instance_id", "path", "domain", "content"]
# Where the Sketchy database lists the photos of its own test set, below the folder that holds it.
TEST_LISTS = ("sketchy/info-06-04/info/testset.txt", "info-06-04/info/testset.txt", "sketchy/testset.txt")


def openmoji(run: Run, joint: Run | None = None) -> Benchmark:
    """The embedded set: every drawing depicts one picture. Nothing is left for supervised systems to learn from.

    Args:
        run: on the set.
        joint: another, of the default's method.
    """
    catalog = _catalog(run)
    gallery, queries = _sides(catalog)
    source = open_source(run.settings.catalog, run.base)
    nothing = catalog.iloc[:0]
    training = Training(
        "openmoji",
        run.settings,
        source,
        catalog,
        run.data / "pairs",
        run.data / "model",
        nothing,
        nothing,
        joint,
        run.base,
    )
    whole = Part("openmoji", frozenset(gallery["image_id"]), frozenset(queries["image_id"]), unseen=True)
    return Benchmark("openmoji", training, source, gallery, queries, (whole,))


def sketchy(run: Run, root: Path, joint: Run | None = None) -> Benchmark:
    """The gallery and all sketches of a run on VOC and Sketchy, with the parts that supervised systems have not seen.

    Args:
        run: of `catalog.dataset: voc_sketchy`.
        root: the folder that the run's images were read from; the community's test list is looked for there.
        joint: another run on the same gallery and queries, of the default's method.
    """
    catalog = _catalog(run)
    gallery, queries = _sides(catalog)
    depicted = list(zip(queries["instance_id"], queries["class_name"], strict=True))
    named = {instance for instance, _ in depicted}
    test = held_out(depicted)
    listed = _listed(root, gallery)
    seen = named - test - listed
    train = queries["instance_id"].isin(seen)
    training = Training(
        "voc_sketchy",
        run.settings,
        open_source(run.settings.catalog, run.base),
        catalog,
        run.data / "pairs",
        run.data / "model",
        gallery[gallery["image_id"].isin(seen)].reset_index(drop=True),
        queries[train].reset_index(drop=True),
        joint,
        run.base,
    )
    everything = frozenset(gallery["image_id"])

    def of(photos: Iterable[str]) -> frozenset[str]:
        return frozenset(queries["image_id"][queries["instance_id"].isin(set(photos))])

    parts = [
        Part("sketchy", everything, frozenset(queries["image_id"]), unseen=False),
        Part("sketchy_test", test & everything, of(test), unseen=True),
        Part("sketchy_test_unseen", everything - seen, of(test), unseen=True),
    ]
    if listed:
        parts.append(Part("sketchy_community_test", listed, of(listed), unseen=True))
    return Benchmark("sketchy", training, training.source, gallery, queries, tuple(parts))


def li2014(root: Path, side: li2014_benchmark.Side, training: Training) -> Benchmark:
    """The benchmark of Li et al. 2014; `li2014` is the photos cut to the object, `li2014_img` the whole photos.

    Raises:
        PipelineError: it is not there, or damaged.
    """
    source = FileSource(root, training.settings.catalog.max_pixels)
    found = list(li2014_benchmark.entries(root, side))
    rows = [
        (e.image_id, e.class_name, e.image_id if e.role == "gallery" else "", e.path, e.domain, source.content(e.path))
        for e in found
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    is_photo = frame["domain"] == "photo"
    gallery, queries = (frame[mask].sort_values("image_id").reset_index(drop=True) for mask in (is_photo, ~is_photo))
    column = {image_id: number for number, image_id in enumerate(gallery["image_id"])}
    row = {image_id: number for number, image_id in enumerate(queries["image_id"])}
    ratings = np.full((len(queries), len(gallery)), np.nan)
    for rated in li2014_benchmark.read_ratings(root):
        places = np.ix_([row[name] for name in rated.sketches], [column[name] for name in rated.photos])
        ratings[places] = rated.values
    name = "li2014" if side == "cropped" else "li2014_img"
    whole = Part(name, frozenset(gallery["image_id"]), frozenset(queries["image_id"]), unseen=True)
    return Benchmark(name, training, source, gallery, queries, (whole,), ratings)


def _catalog(run: Run) -> pd.DataFrame:
    path = run.data / "catalog.parquet"
    if not path.exists():
        raise PipelineError(f"{path}: is missing; the comparison reads a finished run of the pipeline (make repro)")
    return read_catalog(path)


def _sides(catalog: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    gallery, queries = (
        catalog.loc[catalog["role"] == role, COLUMNS].sort_values("image_id").reset_index(drop=True)
        for role in ("gallery", "query")
    )
    return gallery, queries


def _listed(root: Path, gallery: pd.DataFrame) -> frozenset[str]:
    """Photos of the community's test list that are in the gallery; empty where there is no list."""
    path = next((root / name for name in TEST_LISTS if (root / name).is_file()), None)
    if path is None:
        return frozenset()
    lines = path.read_text(encoding="utf-8").split()
    ids = {f"sketchy/photo/{line.removesuffix('.jpg')}" for line in lines}
    found = frozenset(ids & set(gallery["image_id"]))
    if not found:
        raise PipelineError(f"{path}: names no photo of the gallery; its lines must read class/name.jpg")
    return found
