"""The benchmark of Li et al. 2014 (fine-grained sketch-based image retrieval): `images/<class>/{img,cropped,sketch}`.

14 classes of 60 photos and 6 sketches, and how similar people found each pair. The photos come from PASCAL VOC, so they
must stay out of training wherever this benchmark is measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import scipy.io
from numpy.typing import NDArray

from pipeline_lib.data.folder import image_files
from pipeline_lib.data.source import Entry
from pipeline_lib.errors import PipelineError

Side = Literal["cropped", "img"]

HOME: Final = "li2014"
"""The data set's name, and its folder below the root."""
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
    """How similar people found the photos and sketches of one class."""

    class_name: str
    photos: tuple[str, ...]  # image_ids in the order of the columns
    sketches: tuple[str, ...]  # image_ids in the order of the rows
    values: NDArray[np.uint8]  # uint8[S, P], 0..8: sum of four ratings (view, configuration, body, zoom), each 0..2


def entries(root: Path, side: Side) -> Iterator[Entry]:
    """The photos (as gallery), then the sketches (as queries); image_ids are the same for both sides.

    Args:
        root: the folder that holds `li2014/`.
        side: `cropped` for photos cropped to the detected object, `img` for whole photos.

    Raises:
        PipelineError: the benchmark is not there.
    """
    if not (images := root / HOME / "images").is_dir():
        raise PipelineError(f"{images}: is not a folder; the Li 2014 benchmark is fetched from its home page")
    found = sorted(_images(root))
    for wanted, role, kind in ((side, "gallery", "photo"), ("sketch", "query", "sketch")):
        for path, folder, class_name in found:
            if folder == wanted:
                yield Entry(f"{HOME}/{kind}/{class_name}/{Path(path).stem}", HOME, role, kind, path, class_name)


def reserved(root: Path) -> Iterator[Entry]:
    """The whole photos (`img`) of every class, under their VOC names; nothing where the benchmark is not there."""
    for path, folder, class_name in _images(root):
        if folder == "img":
            stem = Path(path).stem
            yield Entry(f"{HOME}/{class_name}/{stem}", HOME, "reserved", "photo", path, class_name, name=stem)


def _images(root: Path) -> Iterator[tuple[str, str, str]]:
    """(path relative to root, folder, class) of every image."""
    images = root / HOME / "images"
    for inside in image_files(images) if images.is_dir() else ():
        class_name, folder, *deeper = inside.split("/")
        if deeper:
            yield f"{HOME}/images/{inside}", folder, class_name


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
