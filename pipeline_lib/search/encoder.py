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

from pipeline_lib.retrieval.alignment import Alignment
from pipeline_lib.retrieval.encode import prepare
from pipeline_lib.retrieval.networks import Networks
from pipeline_lib.retrieval.vectors import Vectors


@dataclass(frozen=True)
class QueryEncoder:
    """The trained network, or several, with what stands before and behind.

    Attributes:
        networks: as they embedded the gallery.
        alignment: the domain means that are removed.
    """

    networks: Networks
    alignment: Alignment

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """An image as the encoder's input: float32[1, 3, S, S]; uint8[H, W, 3] RGB or uint8[H, W] comes in."""
        return prepare(image, self.networks.size, self.networks.own.train)

    @torch.inference_mode()
    def raw(self, prepared: Sequence[Tensor]) -> Vectors:
        """Vectors as the embed stage writes them, float32[N, D]."""
        images = torch.cat(list(prepared)).contiguous(memory_format=torch.channels_last)
        vectors: Vectors = self.networks.embed(images).float().cpu().numpy()
        return vectors

    def queries(self, prepared: Sequence[Tensor]) -> Vectors:
        """Aligned query vectors, float32[N, D] of length 1."""
        return self.alignment.apply(self.raw(prepared), "sketch")
