"""Stage evaluate: how often the photo that was meant is found, by this run and by every system beside it.

Reads data/embeddings, data/index and data/baselines/*. Copies the counts of the catalog and the figures of the training
to metrics/, and writes there headline.json (what the run is judged by), retrieval.json (all of its figures, as
configured), comparison.csv (every system, and chance) and paired.csv (the run minus each); and data/rankings.parquet,
the nearest photos of each query, for the report.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from common import run

from tqdm import tqdm

from pipeline_lib.data.schemas import write_table
from pipeline_lib.evaluation.comparison import System, chance, comparison_table, measure, paired_table
from pipeline_lib.evaluation.evaluation import headline, metrics_dict, rankings_table, write_csv
from pipeline_lib.files import read_json, write_json, write_text
from pipeline_lib.index.photo_index import PhotoIndex
from pipeline_lib.params import Params
from pipeline_lib.registry import ALIGNMENTS

NEAREST = 50


def main(params: Params, data: Path, metrics: Path) -> None:
    """Evaluates all systems on the same queries."""
    dataset = {"voc_sketchy": "sketchy"}.get(params.catalog.dataset, params.catalog.dataset)
    drawn = {"resamples": params.evaluate.bootstrap, "seed": params.evaluate.seed}
    kind, diversity = params.retrieval.alignment, params.retrieval.diversity
    measured = partial(measure, diversity=diversity)
    system = System.read(data / "embeddings", params.name)
    index = PhotoIndex.load(data / "index")

    ours = measured(system, kind, plain=kind, index=index, top=NEAREST)
    figures = metrics_dict(
        ours.evaluation, system=ours.name, dataset=dataset, alignment=kind, diversity=diversity, **drawn
    )
    write_json(metrics / "retrieval.json", figures)
    pretext = data / "model" / "pretext.json"
    for path in (data / "catalog.json", pretext, data / "model" / "training.csv"):
        write_text(metrics / path.name, path.read_text(encoding="utf-8"))
    shown = headline(figures, read_json(pretext)["accuracy"])
    write_json(metrics / "headline.json", shown)
    rankings = rankings_table(ours.evaluation).replace_schema_metadata({"made_by": index.facts.made_by})
    write_table(data / "rankings.parquet", rankings)

    work = [(system, other, kind) for other in ALIGNMENTS if other != kind]
    for folder in sorted(path.parent for path in (data / "baselines").glob("*/system.json")):
        baseline = System.read(folder, params.name)
        work += [(baseline, other, "none") for other in baseline.alignments]
    others = [measured(s, k, plain=p) for s, k, p in tqdm(work, desc="evaluate", unit="system", mininterval=1.0)]
    others.append(chance(ours))

    write_csv(metrics / "comparison.csv", comparison_table([ours, *others], dataset=dataset, **drawn))
    write_csv(metrics / "paired.csv", paired_table(ours, others, dataset=dataset, **drawn))
    hits = ", ".join(f"{name} {value} %" for name, value in shown.items() if "_at_" in name)
    print(f"evaluate: {shown['queries']} queries, {hits}")


if __name__ == "__main__":
    run(main)
