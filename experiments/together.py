"""What several networks find together: `python -m experiments.together NAME+NAME...`, recipes of finished runs.

Their similarities are added up, each network aligned by itself: the same as joining their aligned vectors, which have
length 1. Writes metrics/retrieval_study_together.csv.
"""

from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import numpy as np

from experiments.run import RUNS
from experiments.study import BEST, Finished, Line, command, figures, write_table
from pipeline_lib.errors import PipelineError

ALIGNMENTS = ("pretext_whitened", BEST)


def measure(combinations: list[str], runs: Path = RUNS) -> Iterator[Line]:
    """A line per combination, alignment and part of Sketchy; all networks must have embedded the same images."""
    members = {text: text.split("+") for text in combinations}
    opened = {name: Finished.open(name, runs) for names in members.values() for name in names}
    first = next(iter(opened.values()))
    for row in opened.values():
        for table, other in ((row.photos, first.photos), (row.sketches, first.sketches)):
            if not np.array_equal(table.labels.image_ids, other.labels.image_ids):
                raise PipelineError(f"{table.path}: holds other images than {first.name}'s; make {row.name} again")
    for dataset, part in first.parts().items():
        for kind in ALIGNMENTS:
            scores = {name: row.scores(kind, part) for name, row in opened.items()}
            for text, names in members.items():
                found = figures(reduce(np.add, (scores[name] for name in names)), *first.labels(part))
                dim = sum(opened[name].photos.dimension for name in names)
                yield {"names": text, "dataset": dataset, "alignment": kind, **found, "dim": dim}


if __name__ == "__main__":
    command(__doc__, lambda names: write_table("retrieval_study_together", measure(names)))
