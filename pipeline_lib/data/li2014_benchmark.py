"""Li et al. 2014 as a benchmark: 14 classes of 60 photos and 6 sketches, and how alike people found each pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import scipy.io
from numpy.typing import NDArray

from pipeline_lib.data.folder import image_files
from pipeline_lib.data.li2014 import HOME
from pipeline_lib.data.source import Entry
from pipeline_lib.errors import PipelineError

Side = Literal["cropped", "img"]
SIDES: Final[tuple[Side, ...]] = ("cropped", "img")

SOURCE_CLASSES = (
    "airplane", "bicycle", "car (sedan)", "cat", "chair", "cow", "dog", "horse", "motorbike", "sheep",
)  # fmt: skip
"""The ten classes of the source's table, by this benchmark's names."""

SKETCHY_CLASSES = {"car (sedan)": "car_(sedan)", "motorbike": "motorcycle"}
"""The same classes in Sketchy, where the names differ."""

CRITERIA = 4


@dataclass(frozen=True)
class Ratings:
    """What people said of one class.

    Attributes:
        class_name: of the class.
        photos: image_ids in the order of the columns.
        sketches: image_ids in the order of the rows.
        values: uint8[S, P], 0..8: the sum of four ratings (view, configuration, body, zoom), each 0..2.
    """

    class_name: str
    photos: tuple[str, ...]
    sketches: tuple[str, ...]
    values: NDArray[np.uint8]


def entries(root: Path, side: Side) -> Iterator[Entry]:
    """The photos (as gallery), then the sketches (as queries); image_ids are the same for both sides.

    Args:
        root: the folder that holds `li2014/`.
        side: `cropped` are the photos cut to the object that was detected, `img` the whole photos.

    Raises:
        PipelineError: the benchmark is not there.
    """
    images = root / HOME / "images"
    if not images.is_dir():
        raise PipelineError(f"{images}: is not a folder; the Li 2014 benchmark is fetched from its home page")
    found = sorted(image_files(images))
    for folder, role, domain, kind in ((side, "gallery", "photo", "photo"), ("sketch", "query", "sketch", "sketch")):
        for inside in found:
            class_name, _, rest = inside.partition("/")
            if rest.startswith(f"{folder}/"):
                image_id = f"{HOME}/{kind}/{class_name}/{Path(inside).stem}"
                yield Entry(image_id, HOME, role, domain, f"{HOME}/images/{inside}", class_name)


def read_ratings(root: Path) -> list[Ratings]:
    """The ratings of all classes.

    Rows of `Ratings.mat` are the photos of a class in alphabetical order; columns 4s..4s+3 belong to sketch s, in
    the order of the sketches' names.

    Raises:
        PipelineError: the file is missing, damaged, or does not fit the images.
    """
    path = root / HOME / "ratings" / "Ratings.mat"
    try:
        table = scipy.io.loadmat(str(path))["rating"]
        named = [(str(name[0]), np.asarray(values, np.uint8)) for values, name in table]
    except (OSError, ValueError, KeyError, TypeError, IndexError, scipy.io.matlab.MatReadError) as failure:
        raise PipelineError(f"{path}: can't be read ({failure}); fetch the Li 2014 benchmark again") from failure
    ids: dict[tuple[str, str], list[str]] = {}
    for entry in entries(root, "cropped"):
        ids.setdefault((entry.role, entry.class_name), []).append(entry.image_id)
    result = []
    for class_name, values in named:
        photos, sketches = (tuple(ids.get((role, class_name), ())) for role in ("gallery", "query"))
        if values.shape != (len(photos), CRITERIA * len(sketches)):
            raise PipelineError(
                f"{path}: rates {class_name} as {values.shape}, but there are {len(photos)} photos and {len(sketches)} "
                "sketches; fetch the Li 2014 benchmark again"
            )
        summed = values.reshape(len(photos), len(sketches), CRITERIA).sum(axis=2, dtype=np.uint8)
        result.append(Ratings(class_name, photos, sketches, np.ascontiguousarray(summed.T)))
    return result
