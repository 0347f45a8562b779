"""The benchmarks: Sketchy with its parts, the embedded OpenMoji set, and Li et al. 2014."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline_lib.baselines.system import Benchmark, Part, Training
from pipeline_lib.data import li2014 as rated_photos
from pipeline_lib.data.randomness import held_out
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import FileSource, open_source
from pipeline_lib.errors import PipelineError
from pipeline_lib.run import Run

COLUMNS = ["image_id", "class_name", "instance_id", "path", "domain", "content"]
# Where the Sketchy database lists the photos of its own test set, below the folder that holds it.
TEST_LISTS = ("sketchy/info-06-04/info/testset.txt", "info-06-04/info/testset.txt", "sketchy/testset.txt")


def openmoji(runs: Sequence[Run]) -> Benchmark:
    """The embedded set: every drawing depicts one picture. Nothing is left for supervised systems to learn from.

    Args:
        runs: on the set; systems learn from the first.
    """
    catalog, gallery, queries = _images(runs[0])
    training = _training("openmoji", runs, catalog, catalog.iloc[:0], catalog.iloc[:0])
    whole = Part("openmoji", frozenset(gallery["image_id"]), frozenset(queries["image_id"]), unseen=True)
    return Benchmark("openmoji", training, training.source, gallery, queries, (whole,))


def sketchy(runs: Sequence[Run], root: Path) -> Benchmark:
    """The gallery and all sketches of runs on VOC and Sketchy, with the parts that supervised systems have not seen.

    Args:
        runs: of `catalog.dataset: voc_sketchy`; systems learn from the first.
        root: the folder that the runs' images were read from; the community's test list is looked for there.
    """
    catalog, gallery, queries = _images(runs[0])
    depicted = list(zip(queries["instance_id"], queries["class_name"], strict=True))
    test, listed = held_out(depicted), _listed(root, gallery)
    seen = {instance for instance, _ in depicted} - test - listed
    photos = gallery[gallery["image_id"].isin(seen)].reset_index(drop=True)
    sketches = queries[queries["instance_id"].isin(seen)].reset_index(drop=True)
    training = _training("voc_sketchy", runs, catalog, photos, sketches)
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


def li2014(root: Path, side: rated_photos.Side, training: Training) -> Benchmark:
    """The benchmark of Li et al. 2014; `li2014` is the photos cropped to the object, `li2014_img` the whole photos.

    Args:
        root: the folder that holds `li2014/`.
        side: which photos.
        training: what systems learn from: these photos and sketches are for measuring alone.

    Raises:
        PipelineError: it is not there, or damaged.
    """
    source = FileSource(root, training.run.params.catalog.max_pixels)
    rows = [
        (e.image_id, e.class_name, e.image_id if e.role == "gallery" else "", e.path, e.domain, source.content(e.path))
        for e in rated_photos.entries(root, side)
    ]
    gallery, queries = _sides(pd.DataFrame(rows, columns=COLUMNS), "domain", ("photo", "sketch"))
    column = {image_id: number for number, image_id in enumerate(gallery["image_id"])}
    row = {image_id: number for number, image_id in enumerate(queries["image_id"])}
    ratings = np.full((len(queries), len(gallery)), np.nan)
    for rated in rated_photos.read_ratings(root):
        places = np.ix_([row[name] for name in rated.sketches], [column[name] for name in rated.photos])
        ratings[places] = rated.values
    name = "li2014" if side == "cropped" else "li2014_img"
    whole = Part(name, frozenset(gallery["image_id"]), frozenset(queries["image_id"]), unseen=True)
    return Benchmark(name, training, source, gallery, queries, (whole,), ratings)


def _images(run: Run) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The catalog of a run, its gallery and its queries."""
    catalog = read_catalog(run.catalog)
    return catalog, *_sides(catalog, "role", ("gallery", "query"))


def _sides(frame: pd.DataFrame, column: str, values: tuple[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    first, second = (frame.loc[frame[column] == value, COLUMNS].sort_values("image_id") for value in values)
    return first.reset_index(drop=True), second.reset_index(drop=True)


def _training(
    name: str, runs: Sequence[Run], catalog: pd.DataFrame, photos: pd.DataFrame, sketches: pd.DataFrame
) -> Training:
    source = open_source(runs[0].params.catalog, runs[0].root)
    return Training(name, runs[0], source, catalog, photos, sketches, {run.name: run for run in runs})


def _listed(root: Path, gallery: pd.DataFrame) -> frozenset[str]:
    """Photos of the community's test list that are in the gallery; empty where there is no list."""
    path = next((root / name for name in TEST_LISTS if (root / name).is_file()), None)
    if path is None:
        return frozenset()
    lines = path.read_text(encoding="utf-8").split()
    found = {f"sketchy/photo/{line.removesuffix('.jpg')}" for line in lines} & set(gallery["image_id"])
    if not found:
        raise PipelineError(f"{path}: names no photo of the gallery; its lines must read class/name.jpg")
    return frozenset(found)
