"""Stage evaluate: how often the photo that was meant is found, by ours and by every system beside it.

Reads data/embeddings, data/index and data/baselines/*. Writes metrics/retrieval.json (ours, as configured),
metrics/comparison.csv (every system, and chance), metrics/paired.csv (ours minus each) and data/rankings.parquet (the
nearest photos of each query, for the report).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from common import run
from tqdm import tqdm

from pipeline_lib.data.files import write_json
from pipeline_lib.data.schemas import write_table
from pipeline_lib.params import Params
from pipeline_lib.retrieval.alignment import KINDS
from pipeline_lib.retrieval.comparison import System, chance, comparison_table, measure, paired_table, write_csv
from pipeline_lib.retrieval.evaluation import metrics_dict, rankings_table
from pipeline_lib.retrieval.index import PhotoIndex

NEAREST = 50


def main(params: Params, data: Path, metrics: Path) -> None:
    """Evaluates all systems on the same queries."""
    dataset = {"voc_sketchy": "sketchy"}.get(params.catalog.dataset, params.catalog.dataset)
    drawn = {"resamples": params.evaluate.bootstrap, "seed": params.evaluate.seed}
    kind, diversity = params.retrieval.alignment, params.retrieval.diversity
    measured = partial(measure, diversity=diversity)
    system = System.read(data / "embeddings")
    index = PhotoIndex.load(data / "index")

    ours = measured(system, kind, plain=kind, index=index, top=NEAREST)
    figures = metrics_dict(
        ours.evaluation, system=ours.name, dataset=dataset, alignment=kind, diversity=diversity, **drawn
    )
    write_json(metrics / "retrieval.json", figures)
    write_table(data / "rankings.parquet", rankings_table(ours.evaluation))

    work = [(system, other, kind) for other in KINDS if other != kind]
    for folder in sorted(path.parent for path in (data / "baselines").glob("*/system.json")):
        baseline = System.read(folder)
        work += [(baseline, other, "none") for other in baseline.alignments]
    others = [measured(s, k, plain=p) for s, k, p in tqdm(work, desc="evaluate", unit="system", mininterval=1.0)]
    others.append(chance(ours))

    write_csv(metrics / "comparison.csv", comparison_table([ours, *others], dataset=dataset, **drawn))
    write_csv(metrics / "paired.csv", paired_table(ours, others, dataset=dataset, **drawn))
    instance, of_class = figures["instance"]["hit_at_5"], figures["class"]["hit_at_5"]
    print(f"evaluate: {figures['queries']} queries, hit@5 of the instance {instance}, of its class {of_class}")


if __name__ == "__main__":
    run(main)
