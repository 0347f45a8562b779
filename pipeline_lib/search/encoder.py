"""From drawings to query vectors, exactly as the embed stage makes them.

This module imports torch, so a process that holds faiss must not import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline_lib.embedding.alignment import Alignment
from pipeline_lib.embedding.networks import Networks
from pipeline_lib.embedding.vectors import Vectors


@dataclass(frozen=True)
class QueryEncoder:
    """A run's trained network, or several, and the alignment that follows.

    Attributes:
        networks: as they embedded the gallery.
        alignment: of `retrieval.alignment`.
    """

    networks: Networks
    alignment: Alignment

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """An image as the networks' input: float32[1, 3, S, S]; uint8[H, W, 3] RGB or uint8[H, W] comes in."""
        return self.networks.prepare(image)

    @torch.inference_mode()
    def raw(self, prepared: Sequence[Tensor]) -> Vectors:
        """Vectors as the embed stage writes them, float32[N, D]."""
        images = torch.cat(list(prepared)).contiguous(memory_format=torch.channels_last)
        vectors: Vectors = self.networks.embed(images).float().cpu().numpy()
        return vectors

    def queries(self, prepared: Sequence[Tensor]) -> Vectors:
        """Aligned query vectors, float32[N, D] of length 1."""
        return self.alignment.apply(self.raw(prepared), "sketch")
