"""What a similarity says to a person: a number from 0 to 1, calibrated on pretext photos and their edge maps.

How similar two vectors are means something else in every run, and hubness correction shifts it. So scores are read
against two distributions that need no label: those of photos that have nothing to do with the query (other photos than
the one whose edges are the query), and those of its own photo.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from pipeline_lib.embedding.alignment import Alignment, Domain
from pipeline_lib.embedding.vectors import EmbeddingTable, Vectors

PAIRS = 2048
"""Pairs at most, evenly spread: four million similarities of photos to edges of others."""
ALIKE = 0.5
"""Likeness from which a photo counts as alike: its score is above a part RARE of those of unrelated photos."""
RARE = 0.9999
"""On half of Sketchy's classes, 58 % of the photos above it among the first 24 are of the drawing's class, and 15 % of
those below; at 0.999, 32 and 11 %."""


@dataclass(frozen=True)
class Scale:
    """Scores of three meanings, ascending."""

    chance: float  # median of photos that have nothing to do with the query: likeness 0
    unlike: float  # RARE of these lie below: likeness ALIKE
    same: float  # median of the photo that is meant: likeness 1

    def of(self, score: float) -> float:
        """The likeness of a score, 0..1, linear between the three."""
        return round(float(np.interp(score, (self.chance, self.unlike, self.same), (0.0, ALIKE, 1.0))), 4)


@dataclass(frozen=True)
class Likeness:
    """The scales of queries that are drawings, and of those that are photos."""

    sketch: Scale
    photo: Scale

    def of(self, score: float, domain: Domain) -> float:
        """The likeness, 0..1, of a photo with a score under a query of a domain."""
        return (self.sketch if domain == "sketch" else self.photo).of(score)

    @classmethod
    def fit(cls, photos: EmbeddingTable, edges: EmbeddingTable, alignment: Alignment) -> Self:
        """Of pretext photos and their edge maps, in the same order, under the alignment that searches."""
        gallery = alignment.apply(photos.spread(PAIRS), "photo")
        drawn = alignment.apply(edges.spread(PAIRS), "sketch")
        queries = gallery.copy()
        queries[:, alignment.dimension :] = 0  # as `Alignment.queries` gives them, without aligning them again
        return cls(_scale(drawn, gallery), _scale(queries, gallery))

    @classmethod
    def of_record(cls, record: Mapping[str, Any] | None) -> Self:
        """From what `record` gave; of an older run that has none, the cosine itself, halves at 0.5."""
        if not record:
            return cls(Scale(0.0, 0.5, 1.0), Scale(0.0, 0.5, 1.0))
        return cls(*(Scale(**record[domain]) for domain in ("sketch", "photo")))

    def record(self) -> dict[str, dict[str, float]]:
        """As JSON holds it."""
        return {name: {key: round(value, 6) for key, value in scale.items()} for name, scale in asdict(self).items()}


def _scale(queries: Vectors, gallery: Vectors) -> Scale:
    scores = queries @ gallery.T
    own = np.diag(scores).copy()
    others = scores[~np.eye(len(scores), dtype=bool)] if len(scores) > 1 else np.zeros(1, np.float32)
    chance, unlike = (float(value) for value in np.quantile(others, (0.5, RARE)))
    # Of few pairs, or of an untrained network, the three may not ascend; a step of any size keeps the scale usable.
    unlike = max(unlike, chance + 1e-6)
    return Scale(chance, unlike, max(float(np.median(own)), unlike + 1e-6))
