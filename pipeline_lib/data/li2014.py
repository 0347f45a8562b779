"""The benchmark of Li et al. 2014 (fine-grained sketch-based image retrieval): `images/<class>/{img,cropped,sketch}`.

Its photos come from PASCAL VOC, so they must stay out of training wherever results are read beside this benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline_lib.data.folder import image_files
from pipeline_lib.data.source import Entry

HOME = "li2014"


def reserved(root: Path) -> Iterator[Entry]:
    """The whole photos (`img`) of every class, under their VOC names; nothing where the benchmark is not there."""
    images = root / HOME / "images"
    if not images.is_dir():
        return
    for inside in image_files(images):
        class_name, _, rest = inside.partition("/")
        if rest.startswith("img/"):
            stem = Path(inside).stem
            yield Entry(
                f"li2014/{class_name}/{stem}",
                "li2014",
                "reserved",
                "photo",
                f"{HOME}/images/{inside}",
                class_name,
                name=stem,
            )
