"""Li et al. 2014: fine-grained retrieval by matching deformable part models, with the models that they published.

The object is detected in a sketch and in a photo by the model of each domain. The components of the two models are
aligned by matching the models themselves; a photo ranks by how well its component fits that of the sketch, then by how
well the two placements match as star graphs. Photos without a detection come last.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pipeline_lib.baselines.dpm import detect
from pipeline_lib.baselines.dpm.detect import ROOT_CELL, ROOT_SIDE
from pipeline_lib.baselines.dpm.features import OUTSIDE, Features
from pipeline_lib.baselines.dpm.matching import Star, from_root, similarity
from pipeline_lib.baselines.dpm.model import Component, Model, Piece, read_model
from pipeline_lib.baselines.embedding import FromSource
from pipeline_lib.baselines.system import Benchmark, ScoreSystem
from pipeline_lib.closure import digest_of_imports
from pipeline_lib.data.li2014 import HOME, SOURCE_CLASSES
from pipeline_lib.data.schemas import read_table, write_table
from pipeline_lib.data.source import FileSource
from pipeline_lib.data.tasks import Stats, map_shards, stats_or_raise
from pipeline_lib.embedding.vectors import batched
from pipeline_lib.files import digest_of, digest_of_file

THRESHOLD = -1.0
IMAGES_PER_TASK = 12
# The photos' models bear VOC's names.
PHOTO_MODELS = {
    "airplane": "aeroplane",
    "car (sedan)": "car",
    "standing bird": "bird",
    "table": "diningtable",
}
COLUMNS = pa.schema([
    ("image_id", pa.string()), ("component", pa.int32()), ("score", pa.float64()),
    ("boxes", pa.list_(pa.float64())), ("appearance", pa.list_(pa.float32())),
])  # fmt: skip


@dataclass(frozen=True)
class DetectTask:
    """Images of one class and one domain, in which its model is looked for."""

    path: Path
    model: Path
    images: FromSource
    threshold: float

    @property
    def rows(self) -> int:
        """How many images."""
        return len(self.images)


@dataclass(frozen=True)
class PartModels(ScoreSystem):
    """Li et al. 2014."""

    def inapplicable(self, benchmark: Benchmark) -> str:
        """There are models for the 14 classes of Li 2014 alone, made for whole photos."""
        if benchmark.ratings is None:
            return "the authors published part models for the classes of Li 2014 only"
        if benchmark.name != "li2014_img":
            return "it finds the object itself, in whole photos (li2014_img)"
        return ""

    def score(
        self,
        benchmark: Benchmark,
        folder: Path,  # noqa: ARG002  nothing is learned here
        scratch: Path,
    ) -> tuple[NDArray[np.float32], float]:
        """Detects, class by class, then matches."""
        assert isinstance(benchmark.source, FileSource)  # noqa: S101  what `inapplicable` asks implies it
        models = benchmark.source.root / HOME / "DPMs"
        # Detections do not depend on the matching, so they are kept when it changes.
        found = _detections(benchmark, models, scratch.parent / "detections")
        scores = np.full((len(benchmark.queries), len(benchmark.gallery)), -np.inf, np.float32)
        for name in benchmark.queries["class_name"].unique():
            order = component_order(*(read_model(path) for path in model_paths(models, name)))
            rows = np.flatnonzero(benchmark.queries["class_name"] == name)
            columns = np.flatnonzero(benchmark.gallery["class_name"] == name)
            sketches = [found.get(image_id) for image_id in benchmark.queries["image_id"].iloc[rows]]
            photos = [found.get(image_id) for image_id in benchmark.gallery["image_id"].iloc[columns]]
            scores[np.ix_(rows, columns)] = match(sketches, photos, order)
        return scores, sum(entry.seconds for entry in found.values() if entry.is_photo)


@dataclass(frozen=True)
class Found:
    """The best placement in one image; `component` is -1 where there is none."""

    component: int
    star: Star | None
    seconds: float
    is_photo: bool


def model_paths(models: Path, class_name: str) -> tuple[Path, Path]:
    """The files of a class: the sketches' model and the photos'."""
    photo = PHOTO_MODELS.get(class_name, class_name)
    return models / "Sketch" / f"{class_name}_final.mat", models / "Img" / f"{photo}_final.mat"


def match(sketches: list[Found | None], photos: list[Found | None], order: NDArray[np.intp]) -> NDArray[np.float32]:
    """Scores of one class, float32[S, P].

    Args:
        sketches: what was found.
        photos: likewise.
        order: int[C, C'], places of the photos' components for each of the sketches' components, from 0.
    """
    scores = np.full((len(sketches), len(photos)), -np.inf, np.float32)
    for row, sketch in enumerate(sketches):
        for column, photo in enumerate(photos):
            if sketch is None or photo is None or sketch.star is None or photo.star is None:
                continue
            # Similarities lie in 0..1, so a better component always comes first.
            rank = int(order[sketch.component, photo.component])
            scores[row, column] = similarity(sketch.star, photo.star) - 2 * rank
    return scores


def component_order(sketches: Model, photos: Model) -> NDArray[np.intp]:
    """How well the photos' components fit each of the sketches', as places from 0: int[C, C']."""
    alike = np.array([[fit_of(own, other) for other in photos.components] for own in sketches.components])
    return np.argsort(np.argsort(-alike, axis=1, kind="stable"), axis=1, kind="stable")


def fit_of(own: Component, other: Component) -> float:
    """How well two components match as star graphs whose nodes are filters: -1..1.

    Half is the cosine of the roots' filters, half the mean over the best one-to-one matching of the parts of the cosine
    of their filters, weighted by how near they rest to one another. Filters are compared with their signs: what speaks
    against an object tells left from right as well as what speaks for it.
    """
    near = from_root(at_rest(own), at_rest(other))
    cosines = np.stack([_looks(p.filter) for p in own.parts]) @ np.stack([_looks(p.filter) for p in other.parts]).T
    rows, columns = linear_sum_assignment(near * cosines, maximize=True)
    root = float(_looks(own.root.filter) @ _looks(other.root.filter))
    return (root + float((near * cosines)[rows, columns].mean())) / 2


def at_rest(component: Component) -> NDArray[np.float64]:
    """The parts where their anchors are, as `Star.parts`."""
    boxes = [_at_rest(component.root, 1.0), *(_at_rest(part, 0.5) for part in component.parts)]
    return Star.of(np.array(boxes), np.ones(1)).parts


def _looks(weights: Features) -> NDArray[np.float64]:
    """A filter brought to one size, of length 1."""
    side = ROOT_SIDE // ROOT_CELL - 2
    planes = [cv2.resize(np.ascontiguousarray(weights[..., n]), (side, side)) for n in range(OUTSIDE)]
    flat = np.stack(planes, axis=-1).ravel().astype(np.float64)
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-12))


def _at_rest(piece: Piece, cell: float) -> tuple[float, float, float, float]:
    x, y = (cell * place for place in piece.anchor)
    height, width = piece.filter.shape[:2]
    return x, y, x + cell * width, y + cell * height


def detect_shard(task: DetectTask) -> Stats:
    """Finds the best placement in every image of a task; images without one have component -1."""
    torch.set_num_threads(1)
    model = _model(task.model)
    rows = []
    clock = cv2.TickMeter()
    clock.start()
    for image in task.images:
        pixels, factor = detect.bounded(image.pixels)
        best = detect.detect(pixels, model, task.threshold)
        row = {"image_id": image.image_id, "component": -1, "score": 0.0, "boxes": [], "appearance": []}
        if best is not None:
            looks = detect.appearance(pixels, best.boxes[0]).tolist()
            boxes = (best.boxes / factor).ravel().tolist()
            row |= {"component": best.component, "score": best.score, "boxes": boxes, "appearance": looks}
        rows.append(row)
    clock.stop()
    write_table(task.path, pa.Table.from_pylist(rows, schema=COLUMNS))
    return {"rows": len(rows), "seconds": clock.getTimeSec() / len(rows)}


@lru_cache(maxsize=4)
def _model(path: Path) -> Model:
    return read_model(path)


def _detections(benchmark: Benchmark, models: Path, folder: Path) -> dict[str, Found]:
    tasks = list(_tasks(benchmark, models, folder))
    outcomes = map_shards(detect_shard, tasks, description=f"part models {benchmark.name}", unit="image", workers=0)
    found: dict[str, Found] = {}
    for outcome, stats in zip(outcomes, stats_or_raise(outcomes), strict=True):
        is_photo = outcome.task.images.domain == "photo"
        for row in read_table(outcome.task.path, COLUMNS).to_pylist():
            star = None
            if row["component"] >= 0:
                star = Star.of(np.array(row["boxes"]).reshape(-1, 4), np.array(row["appearance"], np.float64))
            found[row["image_id"]] = Found(int(row["component"]), star, float(stats["seconds"]), is_photo)
    return found


def _tasks(benchmark: Benchmark, models: Path, folder: Path) -> Iterator[DetectTask]:
    sides: list[tuple[pd.DataFrame, float]] = [(benchmark.queries, -np.inf), (benchmark.gallery, THRESHOLD)]
    columns = ["image_id", "class_name", "instance_id", "path", "domain"]
    code = digest_of_imports(Path(detect.__file__))
    # The source's ten classes first: an interrupted run then has what the published figures are compared with.
    classes = sorted(benchmark.queries["class_name"].unique(), key=lambda name: (name not in SOURCE_CLASSES, name))
    for name in classes:
        for (frame, threshold), path in zip(sides, model_paths(models, name), strict=True):
            part = frame[frame["class_name"] == name]
            content = dict(zip(part["image_id"], part["content"], strict=True))
            rows = list(part[columns].itertuples(index=False, name=None))
            for number, chunk in zip(count(), batched(rows, IMAGES_PER_TASK), strict=False):
                key = digest_of(code, str(threshold), digest_of_file(path), [content[row[0]] for row in chunk])
                images = FromSource(tuple(chunk), benchmark.source)
                yield DetectTask(folder / f"part-{number:05d}-{key[:16]}.parquet", path, images, threshold)


SYSTEMS = (PartModels("li_dpm", "classes"),)
