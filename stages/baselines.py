"""Embeds the same images by what ours is read beside: start weights at pool5, untrained fc6, HOG -> data/baselines/."""

from __future__ import annotations

from pathlib import Path

from common import ROOT, run

from pipeline_lib.baselines.hog import export_hog
from pipeline_lib.data.files import publish_folder, write_json
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.models.device import use_threads
from pipeline_lib.params import Params
from pipeline_lib.retrieval.alignment import FILE_NAME, KINDS
from pipeline_lib.retrieval.encode import export_all, load_encoder
from pipeline_lib.retrieval.fc6 import fc6_of, pool5_of
from pipeline_lib.retrieval.fitting import fit_pretext


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Runs the stage."""
    use_threads(params.embed.threads)
    catalog = read_catalog(data / "catalog.parquet")
    source = open_source(params.catalog, ROOT)
    start = load_encoder(data / "model", "start.safetensors")
    supervision = "none" if params.train.pretrained == "none" else "imagenet"
    folder, pairs = data / "baselines.unfinished", data / "pairs"
    pool5, untrained, hog = (folder / name for name in ("start_pool5", "untrained_fc6", "hog"))
    # One pass serves both where both see images of one size; fc6 is then a small addition to pool5.
    jobs = [(params.baselines.image_size, {pool5: pool5_of(start)})]
    jobs.append((params.embed.largest, {untrained: fc6_of(start, params.embed)}))
    if params.embed.largest == params.baselines.image_size:
        jobs = [(params.baselines.image_size, {**jobs[0][1], **jobs[1][1]})]
    seconds: dict[Path, float] = {}
    for size, systems in jobs:
        seconds |= export_all(systems, catalog, source, pairs, start.train, size=size, batch=params.embed.batch)
    seconds[hog] = export_hog(hog, catalog, source, pairs, params)
    for path in (pool5, untrained, hog):
        fit_pretext(path).save(path / FILE_NAME)
        record = {"system": path.name, "supervision": "none" if path == hog else supervision}
        write_json(path / "system.json", {**record, "alignments": list(KINDS), "seconds": round(seconds[path], 2)})
    publish_folder(folder, data / "baselines")


if __name__ == "__main__":
    run(main)
