"""Two-dimensional maps of embeddings (t-SNE): colour by class, marker by domain, lines between true pairs."""

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from pipeline_lib.embedding.vectors import Strings, Vectors

COMPONENTS = 50
PERPLEXITY = 30.0
KEY = "circles: photos, triangles: drawings or edge maps, lines: true pairs"


@dataclass(frozen=True)
class MapPoints:
    """What one map shows."""

    vectors: Vectors  # float32[N, D], both domains
    is_photo: NDArray[np.bool_]  # bool[N]
    classes: Strings  # str[N], "" for points without a class
    pairs: NDArray[np.int64]  # int64[K, 2], rows that belong together


def project(vectors: Vectors, seed: int) -> NDArray[np.float32]:
    """t-SNE (van der Maaten and Hinton 2008) of the first principal components of float32[N, D], as float32[N, 2]."""
    count = min(COMPONENTS, *vectors.shape)
    reduced = PCA(count, random_state=seed, svd_solver="randomized").fit_transform(vectors)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced), np.float32)


def embedding_maps(maps: dict[str, MapPoints], seed: int) -> Figure:
    """Maps side by side, each under its title, such as before and after training; `seed` is that of `project`."""
    figure = Figure(figsize=(6.0 * len(maps), 6.6), dpi=100, layout="constrained")
    for axes, (title, points) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
        _draw(axes, points, project(points.vectors, seed))
        axes.set_title(title, loc="left", fontsize=12)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(7, len(handles)), frameon=False, title=KEY)
    return figure


def _draw(axes: Axes, points: MapPoints, places: NDArray[np.float32]) -> None:
    for first, second in points.pairs:
        axes.plot(*places[[first, second]].T, color="#bbbbbb", linewidth=0.5, zorder=1)
    names = np.unique(points.classes)
    colours = mpl.colormaps["tab20"](np.linspace(0, 1, max(2, len(names))))
    for name, colour in zip(names, colours, strict=False):
        for is_photo, marker in ((True, "o"), (False, "^")):
            part = (points.classes == name) & (points.is_photo == is_photo)
            label = str(name) if is_photo and name else None
            axes.scatter(
                places[part, 0], places[part, 1], s=16, color=[colour], marker=marker, alpha=0.85, label=label, zorder=2
            )
    if not names.any():
        for is_photo, marker, colour in ((True, "o", "#0072b2"), (False, "^", "#d55e00")):
            part = points.is_photo == is_photo
            label = "photo" if is_photo else "edges"
            axes.scatter(places[part, 0], places[part, 1], s=14, color=colour, marker=marker, label=label, zorder=3)
    axes.set_xticks([])
    axes.set_yticks([])
