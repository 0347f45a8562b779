"""HOG on edges: histograms of oriented gradients of blurred edge maps of both sides. Nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.baselines.hog import hog_vectors, photo_lines
from pipeline_lib.baselines.system import Domain, Embedder, Image, Vectors, VectorSystem
from pipeline_lib.params import Params


@dataclass(frozen=True)
class HogOnEdges(VectorSystem):
    """Photos become Canny edge maps, sketches stay what they are; see `hog.hog_vector`."""

    code = ("baselines/hog.py",)

    def embedder(self, folder: Path, settings: Params) -> Embedder:  # noqa: ARG002  nothing is learned
        """HOG of the lines, with the sizes of section `baselines`."""

        def embed(images: Sequence[Image], domain: Domain) -> Vectors:
            lines = [
                photo_lines(image.pixels, settings.edges) if domain == "photo" else image.pixels for image in images
            ]
            return hog_vectors(lines, settings.baselines)

        return embed


SYSTEMS = (HogOnEdges("hog", "none"),)
