"""Pictures of the ablation, from any number of rows.

Charts without photos go to metrics/ablation/pictures/, which git keeps; retrieval grids of photos go to private/.
Maps, filters and grids need the run of the row that is kept, so they are drawn where that row was made.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors.numpy import load_file

from experiments.recipes import ROOT
from experiments.table import CLASSES, KIND, PER_CLASS, REFERENCE, ROWS, START, UNTRAINED, Record, flat, history
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.embedding.alignment import of_kind
from pipeline_lib.embedding.vectors import EmbeddingTable, open_pretext, open_retrieval
from pipeline_lib.evaluation.comparison import System, measure
from pipeline_lib.evaluation.evaluation import rankings_table
from pipeline_lib.files import replacing
from pipeline_lib.report.canvas import save_png
from pipeline_lib.report.charts import carry_over, class_bars, filters, validation_curves
from pipeline_lib.report.embedding_map import MapPoints, embedding_maps
from pipeline_lib.report.retrieval_grid import choose_queries, grid_rows, retrieval_grid
from pipeline_lib.run import Run

OUT = ROWS / "pictures"
SEED = 0
PRETEXT_POINTS = 300
QUERIES, NEIGHBOURS = 12, 8


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with replacing(path) as aside:
        figure.savefig(aside, format="png")
    print(f"pictures: {path.relative_to(ROOT)}")


def curves(records: list[Record]) -> Figure:
    """Validation curves, a panel per kind of row."""
    panels: dict[str, dict[str, pd.DataFrame]] = {}
    titles = {"cross": "cross-domain", "photo": "photos alone", "edges": "edges alone"}
    # Other seeds repeat rows that carry a claim.
    shown = [record for record in records if record["seed"] == 0]
    histories = {record["name"]: history(record["name"]) for record in shown}
    reference = {REFERENCE: histories[REFERENCE]} if REFERENCE in histories else {}
    for record in shown:
        if record["group"] in ("claim", "grid"):
            name = f"{record['pretrained']}, {'BN' if record['batch_norm'] else 'plain'}"
            panel = panels.setdefault(titles[record["domain"]], {})
        else:
            name, panel = record["name"], panels.setdefault(topic(record), dict(reference))
        panel[name] = histories[record["name"]]
    return validation_curves(panels)


def topic(record: Record) -> str:
    """What a row that differs from the reference in one thing is about."""
    if record["group"] == "encoder":
        return "other networks"
    sections = {key.partition(".")[0] for key in record["set"]}
    if record["group"] == "length" or "patches" in sections:
        return "cross-domain: layouts and epochs"
    return "cross-domain: edges" if "edges" in sections else "cross-domain: network and colours"


def bars(record: Record) -> dict[str, Figure]:
    """hit@5 of the source's ten classes under each protocol, before, after and beside frozen AlexNet and HOG."""
    shown = {"fc6, trained": REFERENCE, "fc6, untrained": UNTRAINED, "pool5, frozen": START, "HOG": "hog"}
    found = record["per_class"][KIND]
    return {
        column: class_bars(
            {
                title: {name: found[key][name][column] for name in CLASSES if name in found[key]}
                for title, key in shown.items()
            },
            f"{column.removesuffix('_hit_at_5').replace('_', ' ')} protocol, domain means removed",
        )
        for column in PER_CLASS
    }


def points(tables: tuple[EmbeddingTable, EmbeddingTable], rows: list[NDArray[np.int64]]) -> MapPoints:
    """Some rows of photos and of the drawings or edge maps of photos, aligned."""
    alignment = of_kind(KIND, *tables)
    photos, drawn = (table.labels.take(some) for table, some in zip(tables, rows, strict=True))
    a = alignment.apply(tables[0].read()[rows[0]], "photo")
    b = alignment.apply(tables[1].read()[rows[1]], "sketch")
    place = {name: row for row, name in enumerate(photos.image_ids.tolist())}
    meant = enumerate(drawn.instance_ids.tolist(), start=len(a))
    pairs = np.array([(place[name], row) for row, name in meant if name in place])
    classes = np.concatenate([photos.class_names, drawn.class_names])
    return MapPoints(np.concatenate([a, b]), np.arange(len(classes)) < len(a), classes, pairs)


def sketchy_points(system: System) -> MapPoints:
    """Photos and sketches of the source's ten classes."""
    tables = open_retrieval(system.folder)
    return points(tables, [np.flatnonzero(np.isin(table.labels.class_names, CLASSES)) for table in tables])


def pretext_points(system: System) -> MapPoints:
    """Some pretext photos and their own edge maps."""
    tables = open_pretext(system.folder)
    rows = np.sort(np.random.default_rng(SEED).permutation(len(tables[0]))[:PRETEXT_POINTS])
    return points(tables, [rows, rows])


def draw_kept(run: Run, found: dict[str, System]) -> None:
    """What needs the embeddings and weights of the row that keeps them, given its systems by name."""
    systems = {"before training": found[UNTRAINED], "after training": found[REFERENCE]}
    for name, points_of in (("sketchy", sketchy_points), ("pretext", pretext_points)):
        maps = {title: points_of(system) for title, system in systems.items()}
        save(embedding_maps(maps, SEED), OUT / f"map_{name}.png")
    kernels = {
        title: load_file(run.model / f"{name}.safetensors")["stages.0.0.weight"]
        for title, name in (("conv1 before training", "start"), ("conv1 after training", "encoder"))
    }
    save(filters(kernels), OUT / "conv1.png")
    catalog = read_catalog(run.catalog)
    row = measure(systems["after training"], KIND, plain=KIND, top=50)
    rankings: pd.DataFrame = rankings_table(row.evaluation).to_pandas()
    source = open_source(run.params.catalog, ROOT)
    rows = grid_rows(choose_queries(rankings, QUERIES, SEED), catalog, source, NEIGHBOURS)
    path = ROOT / "private" / "ablation" / "retrieval_grid.png"
    save_png(path, retrieval_grid(rows, gallery=int((catalog["role"] == "gallery").sum())))
    print(f"pictures: {path.relative_to(ROOT)}")


def draw(records: list[Record]) -> None:
    """Draws what can be drawn from the rows that are made."""
    if not records:
        print("pictures: no row is made yet")
        return
    save(curves(records), OUT / "curves.png")
    save(carry_over(pd.DataFrame([flat(record) for record in records])), OUT / "carry_over.png")
    for record in records:
        if record["name"] == REFERENCE:
            for name, figure in bars(record).items():
                save(figure, OUT / f"classes_{name.removesuffix('_hit_at_5')}.png")
