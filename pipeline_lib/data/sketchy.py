"""The Sketchy database (Sangkloy et al. 2016) in its official layout.

`256x256/photo/<rendering>/<class>/n02691156_58.jpg` is depicted by
`256x256/sketch/<rendering>/<class>/n02691156_58-1.png`, `-2.png`, ...
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline_lib.data.folder import image_files
from pipeline_lib.data.source import Entry
from pipeline_lib.errors import PipelineError
from pipeline_lib.params import Rendering

DATASET: Final = "sketchy"
HOMES: Final = ("sketchy/256x256", "256x256")
DRAWING_OF = re.compile(r"(?P<photo>.+)-\d+")


def entries(root: Path, rendering: Rendering) -> Iterator[Entry]:
    """Photos as gallery, then sketches as queries; `root` holds `sketchy/256x256` or `256x256`.

    Raises:
        PipelineError: the data set or the rendering is not there.
    """
    home = next((name for name in HOMES if (root / name).is_dir()), None)
    if home is None:
        raise PipelineError(
            f"{root}: holds neither {HOMES[0]} nor {HOMES[1]}; catalog.root must hold the Sketchy database in its "
            "official layout (it is fetched from its home page)"
        )
    for class_name, path in _images(root, f"{home}/photo", rendering.photo, "photo"):
        stem = Path(path).stem
        yield Entry(f"{DATASET}/photo/{class_name}/{stem}", DATASET, "gallery", "photo", path, class_name, name=stem)
    for class_name, path in _images(root, f"{home}/sketch", rendering.sketch, "sketch"):
        stem = Path(path).stem
        depicts = DRAWING_OF.fullmatch(stem)
        photo = f"{DATASET}/photo/{class_name}/{depicts['photo'] if depicts else stem}"
        image_id = f"{DATASET}/sketch/{class_name}/{stem}"
        yield Entry(image_id, DATASET, "query", "sketch", path, class_name, instance_id=photo)


def _images(root: Path, side: str, rendering: str, key: str) -> Iterator[tuple[str, str]]:
    """(class, path relative to root) of every image of one rendering."""
    place = root / side / rendering
    if not place.is_dir():
        there = sorted(p.name for p in (root / side).iterdir() if p.is_dir()) if (root / side).is_dir() else []
        raise PipelineError(
            f"catalog.rendering.{key}: {place} is not a folder; "
            + (f"renderings there: {', '.join(there)}" if there else "unpack the Sketchy database again")
        )
    empty = True
    for inside in image_files(place):
        class_name, _, rest = inside.partition("/")
        if rest:
            empty = False
            yield class_name, f"{side}/{rendering}/{inside}"
    if empty:
        raise PipelineError(f"{place}: holds no images; unpack the Sketchy database again")
