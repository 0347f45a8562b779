"""How much the whitening's one constant matters: `python -m experiments.shrinkage NAME...`, recipes of finished runs.

Sketchy is measured on the classes that settings are chosen by, other sets whole. Writes
metrics/retrieval_study_shrinkage.csv.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from experiments.study import Finished, Line, command, figures, write_table
from pipeline_lib.embedding.alignment import Alignment
from pipeline_lib.embedding.vectors import open_pretext
from pipeline_lib.embedding.whitening import Whitening

VALUES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
CHAIN = ("mean", "whitening")


def measure(names: list[str]) -> Iterator[Line]:
    """A line per run and value of the constant."""
    for row in map(Finished.open, names):
        first, second = open_pretext(row.photos.path.parent)
        means = Alignment(first.dimension).fitted(CHAIN[:1], first, second)
        differences = means.pairs(first, second, len(first))
        dataset, part = "openmoji", (np.arange(len(row.photos)), np.arange(len(row.sketches)))
        if row.photos.labels.class_names[0]:
            ((dataset, part),) = row.parts(final=False).items()
        shown, drawn = row.photos.read()[part[0]], row.sketches.read()[part[1]]
        for value in VALUES:
            whitening = Whitening.of_differences(differences, means, value)
            alignment = replace(means, steps={**means.steps, CHAIN: whitening}, chain=CHAIN)
            scores = alignment.apply(drawn, "sketch") @ alignment.apply(shown, "photo").T
            found = figures(scores, *row.labels(part))
            yield {"dataset": dataset, "dim": row.photos.dimension, "shrinkage": value, **found}


if __name__ == "__main__":
    command(__doc__, lambda names: write_table("retrieval_study_shrinkage", measure(names)))
