"""Embeds whole images as fc6 vectors: data/model/ and the images -> data/embeddings/."""

from __future__ import annotations

from pathlib import Path

from common import ROOT, run

from pipeline_lib.data.files import write_json
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.models.device import keep_freed_memory, use_threads
from pipeline_lib.params import Params
from pipeline_lib.retrieval.alignment import FILE_NAME, KINDS
from pipeline_lib.retrieval.encode import export_all, fc6_of, load_encoder
from pipeline_lib.retrieval.fitting import fit_pretext


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Runs the stage."""
    use_threads(params.embed.threads)
    keep_freed_memory()
    catalog = read_catalog(data / "catalog.parquet")
    loaded = load_encoder(data / "model")
    out = data / "embeddings"
    seconds = export_all(
        {out: fc6_of(loaded, params.embed)},
        catalog,
        open_source(params.catalog, ROOT),
        data / "pairs",
        loaded.train,
        size=params.embed.largest,
        batch=params.embed.batch,
    )[out]
    fit_pretext(out).save(out / FILE_NAME)
    system = {"system": "context_fc6", "supervision": supervision(params), "alignments": list(KINDS)}
    write_json(out / "system.json", {**system, "seconds": round(seconds, 2)})


def supervision(params: Params) -> str:
    """What labels the system has seen: those of ImageNet through its start weights or its teacher's, or none."""
    return "imagenet" if params.train.pretrained != "none" or params.train.teacher_weight else "none"


if __name__ == "__main__":
    run(main)
