"""Figures of diversified lists (MMR): `python -m experiments.diversity NAME...`, recipes of finished runs.

Hubness is corrected, photos are compared by their whitened vectors. Writes metrics/retrieval_study_diversity.csv.
"""

from collections.abc import Iterator

from experiments.study import BEST, Finished, Line, command, figures_of, update_table
from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.evaluation.evaluation import evaluate_rankings
from pipeline_lib.index.diversity import diversify
from pipeline_lib.index.ranking import Ranked, Rows, rank_scores

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3)


def measure(row: Finished) -> Iterator[Line]:
    """A line per part of Sketchy and weight."""
    compared = row.whitened()
    for dataset, part in row.parts().items():
        gallery, queries = row.labels(part)
        found = list(rank_scores(row.scores(BEST, part), gallery.image_ids))
        for weight in WEIGHTS:
            values = figures_of(evaluate_rankings(_diverse(found, compared[part[0]], weight), gallery, queries))
            yield {"dataset": dataset, "alignment": BEST, "weight": weight, **values}


def _diverse(found: list[Ranked], photos: Vectors, weight: float) -> Iterator[Ranked]:
    def alike(rows: Rows) -> Vectors:
        similarities: Vectors = photos[rows] @ photos[rows].T
        return similarities

    return (diversify(block, alike, weight) for block in found)


if __name__ == "__main__":
    command(__doc__, lambda names: update_table("retrieval_study_diversity", names, measure))
