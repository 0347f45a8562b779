"""The methods side by side, and how their few settings are chosen: on training photos that are held back.

None of the sources' settings fit other features and another number of pairs, and the test part must not choose. So a
fifth of the training photos of each class is held back with its sketches, every setting is fitted on the rest and told
by the mean reciprocal rank of the photo that was drawn among the photos held back, and the best one is fitted again on
all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline_lib.baselines.subspace.correlation import fit_cca, fit_pls
from pipeline_lib.baselines.subspace.generalised import fit_blm, fit_gmlda, fit_gmmfa
from pipeline_lib.baselines.subspace.projection import Classes, Matrix, Projections, Reduction
from pipeline_lib.baselines.subspace.regression import fit_jfssl, fit_lcfs
from pipeline_lib.data.randomness import held_out
from pipeline_lib.embedding.alignment import normalise
from pipeline_lib.embedding.vectors import Labels, Vectors

Supervision = Literal["classes", "pairs"]


@dataclass(frozen=True)
class Examples:
    """Features of training photos and of their sketches."""

    photos: NDArray[np.floating]  # float[N, D]
    photo_labels: Labels  # of the photos
    sketches: NDArray[np.floating]  # float[M, E]
    sketch_labels: Labels  # of the sketches; each instance_id is the image_id of a photo

    @property
    def drawn(self) -> NDArray[np.int64]:
        """int64[M], the row of the photo that each sketch depicts."""
        rows = {image_id: row for row, image_id in enumerate(self.photo_labels.image_ids.tolist())}
        return np.array([rows[name] for name in self.sketch_labels.instance_ids.tolist()], np.int64)

    def classes(self) -> tuple[Classes, Classes]:
        """Class numbers of photos and of sketches."""
        names = np.concatenate([self.photo_labels.class_names, self.sketch_labels.class_names])
        _, numbers = np.unique(names, return_inverse=True)
        count = len(self.photo_labels)
        return numbers[:count].astype(np.int64), numbers[count:].astype(np.int64)

    def of_photos(self, image_ids: frozenset[str]) -> "Examples":
        """The chosen photos with their sketches."""
        photos = np.flatnonzero([name in image_ids for name in self.photo_labels.image_ids.tolist()])
        sketches = np.flatnonzero([name in image_ids for name in self.sketch_labels.instance_ids.tolist()])
        return Examples(
            self.photos[photos],
            self.photo_labels.take(photos),
            self.sketches[sketches],
            self.sketch_labels.take(sketches),
        )

    def reduced(self, reduction: Reduction, dimensions: int) -> "Examples":
        """The first `dimensions` principal components of both domains."""
        photos = reduction.apply(np.asarray(self.photos, np.float32), "photo")[:, :dimensions]
        sketches = reduction.apply(np.asarray(self.sketches, np.float32), "sketch")[:, :dimensions]
        return Examples(photos.astype(np.float64), self.photo_labels, sketches.astype(np.float64), self.sketch_labels)


Fit = Callable[..., Projections]


@dataclass(frozen=True)
class Method:
    """One method."""

    supervision: Supervision  # what it learns from
    fit: Fit  # from `Examples` and settings to projections
    settings: tuple[dict[str, Any], ...] = ({},)  # that are tried
    components: tuple[int, ...] | None = None  # sizes of the space that are tried; None where the classes are the space


def _pairs(method: Fit) -> Fit:
    def fit(data: Examples, components: int, **settings: Any) -> Projections:
        return method(data.photos[data.drawn], data.sketches, components, **settings)

    return fit


def _classes(method: Fit) -> Fit:
    def fit(data: Examples, components: int, **settings: Any) -> Projections:
        photos, sketches = data.classes()
        return method(data.photos, photos, data.sketches, sketches, components, **settings)

    return fit


def _double(values: NDArray[np.floating]) -> Matrix:
    return np.asarray(values, np.float64)


def _lcfs(data: Examples, **settings: Any) -> Projections:
    return fit_lcfs(_double(data.photos)[data.drawn], _double(data.sketches), data.classes()[1], **settings).projections


def _jfssl(data: Examples, **settings: Any) -> Projections:
    photos, sketches = data.classes()
    return fit_jfssl(_double(data.photos), photos, _double(data.sketches), sketches, **settings).projections


SIZES = (10, 20, 40, 80)
DIMENSIONS = (50, 100, 200)
_COUPLED = tuple({"coupling": coupling, "ridge": ridge} for coupling in (1.0, 3.0, 10.0, 30.0) for ridge in (0.1, 1.0))
_SPARSE = (0.01, 0.1, 1.0)
METHODS: dict[str, Method] = {
    "cca": Method("pairs", _pairs(fit_cca), components=SIZES),
    "pls": Method("pairs", _pairs(fit_pls), components=SIZES),
    "blm": Method("pairs", _pairs(fit_blm), ({"coupling": 1.0}, {"coupling": 10.0}), SIZES),
    "gmlda": Method("classes", _classes(fit_gmlda), _COUPLED, SIZES),
    "gmmfa": Method("classes", _classes(fit_gmmfa), _COUPLED, SIZES),
    "lcfs": Method("classes", _lcfs, tuple({"sparsity": s, "low_rank": r} for s in _SPARSE for r in (0.001, 0.01))),
    "jfssl": Method("classes", _jfssl, tuple({"sparsity": s, "graph": g} for s in _SPARSE for g in (0.0001, 0.001))),
}


@dataclass(frozen=True)
class Chosen:
    """What was fitted."""

    projections: Projections  # of the reduced features
    dimensions: int  # principal components that they read
    settings: dict[str, Any]  # of the method, with the number of components where it has one
    reciprocal_rank: float  # on the photos held back, 0..1
    tried: int  # how many settings there were


def choose(method: Method, data: Examples, reduction: Reduction, name: str = "") -> Chosen:
    """Chooses settings and fits the method with them.

    Args:
        method: one of METHODS.
        data: training photos and sketches, raw features.
        reduction: fitted without pairs or labels.
        name: for the progress bar.
    """
    ids = data.photo_labels.image_ids.tolist()
    back = held_out(zip(ids, data.photo_labels.class_names.tolist(), strict=True))
    rest = data.of_photos(frozenset(ids) - back)
    best: tuple[float, int, dict[str, Any]] | None = None
    tried = 0
    widest = reduction.photo.weights.shape[1], reduction.sketch.weights.shape[1]
    dimensions = sorted({min(count, *widest) for count in DIMENSIONS})
    grid = [(count, settings) for count in dimensions for settings in method.settings]
    for count, settings in tqdm(grid, desc=f"choose {name}", unit="setting", mininterval=1.0):
        judge = data.of_photos(back).reduced(reduction, count)
        for found, given in _fits(method, rest.reduced(reduction, count), settings):
            tried += 1
            score = reciprocal_rank(found, judge)
            if best is None or score > best[0]:
                best = score, count, given
    assert best is not None  # noqa: S101  the grid is not empty
    score, count, given = best
    return Chosen(method.fit(data.reduced(reduction, count), **given), count, given, score, tried)


def _fits(method: Method, data: Examples, settings: dict[str, Any]) -> Iterator[tuple[Projections, dict[str, Any]]]:
    """Fits one setting; the first components of a large space are those of a small one."""
    if method.components is None:
        yield method.fit(data, **settings), settings
        return
    width = data.photos.shape[1]
    sizes = [size for size in method.components if size <= width] or [width]
    whole = method.fit(data, components=max(sizes), **settings)
    for size in sizes:
        yield whole.first(size), {**settings, "components": size}


def reciprocal_rank(projections: Projections, data: Examples) -> float:
    """Mean of 1/place of the photo that was drawn among the photos of `data`, by cosine; ties count as lost."""
    photos: Vectors = normalise(projections.apply(data.photos, "photo"))
    sketches: Vectors = normalise(projections.apply(data.sketches, "sketch"))
    scores = sketches @ photos.T
    own = scores[np.arange(len(scores)), data.drawn]
    return float((1 / (scores >= own[:, None]).sum(axis=1)).mean())
