"""A network that was exported to ONNX, run by ONNX Runtime: what a search needs, without torch.

The file holds everything between a square of pixels and a vector: normalisation, the network with BatchNorm folded into
its convolutions, the layers and the projection. Weights are stored in float16 and computed with in float32. Where
mirror images count, an image and its mirror image are shown at once, each to a thread: two cores that share the layers
of one image wait for each other at the end of each.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import read_sealed
from pipeline_lib.params import Embed
from pipeline_lib.run import META, Run

VECTORS: Final = "vectors"
"""What a network gives: the vectors of images,"""
SHARED, FACING = "vectors_shared", "vectors_facing"
"""or what of an image is added to that of its mirror image, and what is taken off it."""
BATCH: Final = 8
"""Images at a time: more are no faster on a processor, and each takes 30 MB while it is computed."""


def outputs_of(embed: Embed) -> list[str]:
    """What a network gives under these settings."""
    return [SHARED, FACING] if embed.facing and embed.dimension else [VECTORS]


@dataclass(frozen=True)
class ExportedNetwork:
    """See `Embedder`."""

    session: Any  # onnxruntime.InferenceSession, which carries no types
    size: int
    batch: int
    meta: Mapping[str, Any]
    each: Callable[..., Any]  # `map`, or one whose calls go on at once

    @classmethod
    def open(cls, run: Run, threads: int) -> Self:
        """The exported network of a run.

        Args:
            run: an exported run.
            threads: that compute.

        Raises:
            PipelineError: ONNX Runtime is not installed, or can't use the file.
        """
        path = run.exported
        try:
            import onnxruntime  # noqa: PLC0415  only exported networks need it
        except ImportError as failure:
            raise PipelineError(
                f"{path}: is run by onnxruntime, which is not installed ({failure}); pip install onnxruntime"
            ) from failure
        options = onnxruntime.SessionOptions()
        # Two calls at once share those of the session, and each brings its own.
        both = threads > 1 and outputs_of(run.params.embed) != [VECTORS]
        options.intra_op_num_threads, options.inter_op_num_threads = threads - both, 1
        # Threads that wait by spinning would take the cores from those that decode photos.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as failure:  # the library raises types of its own
            raise PipelineError(f"{path}: can't be used ({failure}); fetch it again or export it anew") from failure
        each = ThreadPoolExecutor(2, "mirror").map if both else map
        return cls(session, run.params.embed.largest, BATCH, read_sealed(run.model / META), each)

    @cached_property
    def dimension(self) -> int:
        """See `Embedder`."""
        return sum(int(output.shape[1]) for output in self.session.get_outputs())

    def scaled(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `Embedder`; Pillow's filter differs from torch's by one level in a pixel of a hundred."""
        square = Image.fromarray(image).convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(square)

    def vectors(self, images: NDArray[np.uint8]) -> Vectors:
        """See `Embedder`."""
        if [output.name for output in self.session.get_outputs()] == [VECTORS]:
            return self._given(images)[0]
        own, mirrored = self.each(self._given, (images, images[:, :, ::-1]))
        return np.hstack([own[0] + mirrored[0], own[1] - mirrored[1]])

    def _given(self, images: NDArray[np.uint8]) -> list[Vectors]:
        """What the network gives, each float32[N, D]."""
        name = self.session.get_inputs()[0].name
        return [np.asarray(found, np.float32) for found in self.session.run(None, {name: np.ascontiguousarray(images)})]
