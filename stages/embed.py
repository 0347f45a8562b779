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
from pipeline_lib.retrieval.copies import take
from pipeline_lib.retrieval.encode import export_all
from pipeline_lib.retrieval.fitting import fit_pretext
from pipeline_lib.retrieval.networks import open_networks


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Runs the stage."""
    use_threads(params.embed.threads)
    keep_freed_memory()
    catalog = read_catalog(data / "catalog.parquet")
    out = data / "embeddings"
    take(params.embed.runs, ROOT, out)
    networks = open_networks(data / "model", params.embed, out)
    seconds = export_all(
        {out: networks.embed},
        catalog,
        open_source(params.catalog, ROOT),
        data / "pairs",
        networks.own.train,
        size=networks.size,
        batch=params.embed.batch,
    )[out]
    fit_pretext(out, networks.widths(), params.embed.facing).save(out / FILE_NAME)
    # What labels the system has seen.
    supervision = "imagenet" if networks.labelled() else "none"
    record = {"system": "context_fc6", "supervision": supervision, "alignments": list(KINDS)}
    write_json(out / "system.json", {**record, "seconds": round(seconds, 2), "embed": params.embed.model_dump()})


if __name__ == "__main__":
    run(main)
