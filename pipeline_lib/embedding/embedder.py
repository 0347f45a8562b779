"""What turns images into vectors, whatever computes it: a run's own networks by torch, or an exported one without.

This module imports neither, so that a program that searches with an exported model needs no torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.errors import PipelineError
from pipeline_lib.run import Run

BESIDE: Final = "beside"
"""Below a folder of embeddings: run folders of the other networks that take part, numbered in their order."""


class Embedder(Protocol):
    """Images in, vectors out."""

    @property
    def size(self) -> int:
        """Side of the square that it is shown, px."""

    @property
    def batch(self) -> int:
        """Images at a time."""

    @property
    def dimension(self) -> int:
        """Numbers per vector."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """What `meta.json` tells of the network: `architecture`, `start_weights`, `accuracy`, `training_images`."""

    def scaled(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image, uint8[H, W, 3] RGB or uint8[H, W], as uint8[size, size, 3], bilinear with antialiasing."""

    def vectors(self, images: NDArray[np.uint8]) -> Vectors:
        """Vectors as the embed stage writes them, float32[N, D], of uint8[N, size, size, 3]."""


def open_embedder(run: Run, threads: int) -> Embedder:
    """The run's networks, or the exported one, on `threads` threads.

    Raises:
        PipelineError: a network is missing or damaged, or what runs it is not installed.
    """
    if run.exported.exists():
        from pipeline_lib.embedding.exported import ExportedNetwork  # noqa: PLC0415  each way needs its own libraries

        return ExportedNetwork.open(run, threads)
    try:
        from pipeline_lib.embedding.networks import open_networks  # noqa: PLC0415
        from pipeline_lib.models.device import keep_freed_memory, use_threads  # noqa: PLC0415
    except ModuleNotFoundError as failure:
        raise PipelineError(
            f"{run.folder}: this run is searched by {failure.name}, which is not installed; install the whole program "
            "with `make setup`, or search with an exported run such as models/photos"
        ) from failure
    use_threads(threads)
    keep_freed_memory()
    return open_networks(run)


def beside(embeddings: Path) -> list[Path]:
    """The run folders of the networks that take part beside the own one, in their order."""
    # File managers leave files of their own, such as .DS_Store.
    numbered = (folder for folder in (embeddings / BESIDE).glob("*") if folder.name.isdecimal())
    return sorted(numbered, key=lambda folder: int(folder.name))
