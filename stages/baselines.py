"""Embeds the same images by what the run is read beside: its start weights at pool5, its untrained fc6, and HOG.

Reads data/catalog.parquet, data/pairs and data/model. Writes data/baselines/start, untrained and hog.
"""

from __future__ import annotations

from pathlib import Path

from common import ROOT, SCRATCH, run

from pipeline_lib.baselines.hog import export_hog
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.embedding.alignment import FILE_NAME, fit_pretext
from pipeline_lib.embedding.export import export_all
from pipeline_lib.embedding.kept import Kept
from pipeline_lib.embedding.networks import fc6_of, pool5_of
from pipeline_lib.embedding.vectors import write_system
from pipeline_lib.files import publish_folder
from pipeline_lib.models.device import use_threads
from pipeline_lib.models.saved import START, load_encoder
from pipeline_lib.params import Params
from pipeline_lib.registry import ALIGNMENTS


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Runs the stage."""
    use_threads(params.embed.threads)
    catalog = read_catalog(data / "catalog.parquet")
    source = open_source(params.catalog, ROOT)
    network = load_encoder(data / "model", params, START)
    supervision = params.train.start_labels
    folder, pairs = data / "baselines.unfinished", data / "pairs"
    start, untrained, hog = (folder / name for name in ("start", "untrained", "hog"))
    # Where both see images of one size, one pass serves both: fc6 is then a small addition to pool5.
    largest = max(params.embed.largest, params.baselines.image_size)  # the baseline is shown no less than the run
    jobs = [(largest, {start: pool5_of(network)}), (params.embed.largest, {untrained: fc6_of(network, params.embed)})]
    if params.embed.largest == largest:
        jobs = [(largest, {**jobs[0][1], **jobs[1][1]})]
    with Kept.opened(SCRATCH / "embedded-baselines", [data / "model" / START], params) as kept:
        seconds: dict[Path, float] = {}
        for size, systems in jobs:
            found = export_all(
                systems, catalog, source, pairs, params.train, params.embed, kept, size=size, batch=params.embed.batch
            )
            seconds |= {path: stats["seconds"] for path, stats in found.items()}
        seconds[hog] = export_hog(hog, catalog, source, pairs, params)
        for path in (start, untrained, hog):
            fit_pretext(path).save(path / FILE_NAME)
            name = "hog" if path == hog else f"{{run}}-{path.name}"
            record = {"system": name, "supervision": "none" if path == hog else supervision}
            write_system(path, {**record, "alignments": list(ALIGNMENTS), "seconds": round(seconds[path], 2)})
        publish_folder(folder, data / "baselines")
        kept.drop()  # these vectors are long, and the next run mostly has other ones


if __name__ == "__main__":
    run(main)
