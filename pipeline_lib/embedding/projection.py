"""One small vector: a linear projection of all layers' numbers, fitted on photos and their own edge maps.

Maps of two layers at 224 px and of the mirror image give tens of thousands of numbers, most of which tell nothing that
a photo and a drawing of it share. Two linear steps, neither of which sees a label or a drawing, keep what they share:

- each map keeps the strongest principal directions of its channels, over places, photos and edge maps alike;
- of all numbers, those directions v are kept in which photos x and their own edges y agree most: the generalised
  eigenvectors S v = r (C + s t I) v, with S the symmetrised cross-covariance of x and y, C the mean of their own
  covariances and t the mean of C's eigenvalues (canonical correlation with one transform for both views, compare
  Hardoon, Szedmak and Shawe-Taylor 2004; regularised as in their section 5). Each has variance 1 over photos and edges:
  that whitens as well, so the alignment that follows has no whitening to do.

Of an image and its mirror image a and b, the sum a + b and the difference a - b are uncorrelated over photos that are
as often mirrored as not, so each is projected by itself; the difference counts `embed.facing` times.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pipeline_lib.embedding.vectors import Vectors, write_arrays
from pipeline_lib.errors import PipelineError

FILE_NAME: Final = "projection.safetensors"
SHRINKAGE: Final = 3.0
"""s above; chosen on `sketchy_even` among 0.1 to 10 (docs/retrieval.md)."""
Moments = NDArray[np.float64]


@dataclass(frozen=True)
class Projection:
    """The fitted projection; all numbers are float16 values, so that a file of them loses nothing."""

    channels: dict[str, Vectors]  # by layer float32[K, C], of the layers that are maps; empty where all are kept
    shared: Vectors  # float32[R, W], of a + b; of a alone where mirror images are not embedded
    facing: Vectors  # float32[Q, W], of a - b; Q is 0 where mirror images are not embedded

    @property
    def dimension(self) -> int:
        """Numbers that it gives."""
        return len(self.shared) + len(self.facing)

    def apply(self, views: Sequence[Vectors]) -> Vectors:
        """Projects vectors of images and, where there are any, of their mirror images: float32[N, W] each.

        Returns:
            float32[N, R + Q].
        """
        if len(views) == 1:
            return views[0] @ self.shared.T
        images, mirrored = views
        return np.hstack([(images + mirrored) @ self.shared.T, (images - mirrored) @ self.facing.T])

    def save(self, path: Path) -> None:
        """Writes it as safetensors of float16, whole or not at all."""
        arrays = {f"channels/{name}": array for name, array in self.channels.items()}
        arrays |= {"shared": self.shared, "facing": self.facing}
        write_arrays(path, {name: array.astype(np.float16) for name, array in arrays.items()})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            PipelineError: the file is missing, cut or holds something else.
        """
        try:
            arrays = {name: array.astype(np.float32) for name, array in load_file(str(path)).items()}
            shared, facing = arrays.pop("shared"), arrays.pop("facing")
        except (OSError, SafetensorError, KeyError) as failure:
            raise PipelineError(
                f"{path}: can't be read as a projection ({failure}); run `dvc repro embed`"
            ) from failure
        return cls({name.removeprefix("channels/"): array for name, array in arrays.items()}, shared, facing)


def rounded(values: NDArray[np.floating]) -> Vectors:
    """The nearest float16 values, as float32."""
    return values.astype(np.float16).astype(np.float32)


def channel_directions(covariance: Moments, kept: int) -> Vectors:
    """The strongest principal directions of a map's channels.

    Args:
        covariance: float64[C, C].
        kept: how many, at most C.

    Returns:
        float32[kept, C], orthonormal up to rounding, the strongest first.
    """
    _, directions = np.linalg.eigh(covariance)
    return rounded(directions[:, ::-1][:, :kept].T)


def agreeing(photos: Vectors, edges: Vectors, kept: int, shrinkage: float = SHRINKAGE) -> tuple[Vectors, Vectors]:
    """Directions in which photos and their own edges agree most, see the module.

    Args:
        photos: float[N, W].
        edges: float[N, W], row by row those of the photos.
        kept: how many, at most W.
        shrinkage: s, above 0.

    Returns:
        directions float32[K, W], each of variance 1, and correlations float32[K], falling; K is at most `kept`, and
        directions that do not agree at all are left out.
    """
    from scipy.linalg import eigh  # noqa: PLC0415  a projection is applied without it

    x, y = (np.asarray(each, np.float32) for each in (photos, edges))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    across = (x.T @ y).astype(np.float64) / len(x)
    across += across.T.copy()
    across /= 2
    own = (x.T @ x).astype(np.float64)
    own += y.T @ y
    own /= 2 * len(x)
    width = len(own)
    own[np.diag_indices(width)] += shrinkage * np.trace(own) / width
    found, vectors = eigh(
        across, own, subset_by_index=(max(0, width - kept), width - 1), overwrite_a=True, overwrite_b=True
    )
    order = [place for place in range(len(found) - 1, -1, -1) if found[place] > 0]
    return vectors[:, order].T.astype(np.float32), found[order].astype(np.float32)


def fit(
    photos: Sequence[NDArray[np.floating]],
    edges: Sequence[NDArray[np.floating]],
    channels: dict[str, Vectors],
    dimension: int,
    facing: float,
) -> Projection:
    """Fits a projection on the vectors of pretext pairs.

    Args:
        photos: float[N, W] of photos and, where `facing` is above 0, of their mirror images.
        edges: the same of their edge maps.
        channels: as in `Projection`; the vectors are already of reduced maps.
        dimension: numbers to keep in all.
        facing: how many times what mirror images differ in counts; 0 where there are none.
    """
    sides = [(photos[0], edges[0], 1.0)]
    if facing:
        sides = [(a, b, weight) for (a, b), weight in zip(_both(photos, edges), (1.0, facing), strict=True)]
    found = [agreeing(x, y, dimension) for x, y, _ in sides]
    least = np.sort(np.concatenate([agreement for _, agreement in found]))[::-1][:dimension][-1]
    parts = []
    for (directions, agreement), (_, _, weight) in zip(found, sides, strict=True):
        parts.append(rounded(directions[agreement >= least] * np.float32(weight**0.5)))
    return Projection(channels, parts[0], parts[1] if facing else parts[0][:0])


def _both(
    photos: Sequence[NDArray[np.floating]], edges: Sequence[NDArray[np.floating]]
) -> Iterator[tuple[Vectors, Vectors]]:
    """Sums and differences of images and mirror images, of photos and of edge maps, float32[N, W]."""
    for sign in (1, -1):
        x, y = (side[0].astype(np.float32) + np.float32(sign) * side[1].astype(np.float32) for side in (photos, edges))
        yield x, y
