"""The search engine: drawings in, the nearest photos out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline_lib.index.facts import IndexFacts
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.run import Run
from pipeline_lib.search.encoder import QueryEncoder
from pipeline_lib.search.gallery import Gallery

MOST_HITS = 200
"""How many photos one search may ask for."""


@dataclass(frozen=True)
class Hit:
    """A photo that was found.

    Attributes:
        rank: from 1.
        row: of the gallery.
        score: cosine similarity of the aligned vectors, -1..1; with product quantisation an estimate of it. Under
            hubness correction (`pretext_csls`) half of the photo's nearness to drawings is taken off.
    """

    rank: int
    row: int
    score: float

    @property
    def distance(self) -> float:
        """1 - score; without hubness correction the cosine distance, 0..2."""
        return 1.0 - self.score


@dataclass(frozen=True)
class SearchEngine:
    """The encoder in this process, the index in the worker, and the photos that its rows mean.

    `prepare` may run in any thread; `search` in one at a time.

    Attributes:
        run: whose model searches.
        encoder: of the run.
        faiss: the worker, with the index open.
        facts: of that index.
        gallery: its photos, row by row.
        examples: drawings to try the search with; may be empty.
    """

    run: Run
    encoder: QueryEncoder
    faiss: RemoteFaiss
    facts: IndexFacts
    gallery: Gallery
    examples: Gallery

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """A drawing as the encoder's input; uint8[H, W, 3] RGB or uint8[H, W], dark lines on white."""
        return self.encoder.prepare(image)

    def search(self, prepared: Sequence[Tensor], top: int) -> list[list[Hit]]:
        """The nearest photos of each prepared drawing, best first, diversified (MMR) by `retrieval.diversity`.

        Args:
            prepared: from `prepare`.
            top: how many, 1 to `MOST_HITS`.

        Raises:
            PipelineError: the process that holds the index has died and can't be started again.
        """
        queries = self.encoder.queries(prepared)
        found = self.faiss.search(queries, max(1, min(top, MOST_HITS)), self.run.params.retrieval.diversity)
        return [
            [
                Hit(rank, int(row), float(score))
                for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)
            ]
            for rows, scores in found
        ]

    def close(self) -> None:
        """Ends the worker process."""
        self.faiss.close()
