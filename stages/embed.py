"""Embeds whole images as fc6 vectors and fits their alignment: data/model/ and the images -> data/embeddings/."""

from __future__ import annotations

from pathlib import Path

from common import ROOT, SCRATCH, run

from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.embedding.alignment import FILE_NAME, KINDS, fit_pretext
from pipeline_lib.embedding.export import export_all
from pipeline_lib.embedding.kept import Kept
from pipeline_lib.embedding.networks import Networks, load_networks, take_beside, weights_of
from pipeline_lib.embedding.on_cluster import embed_on_cluster
from pipeline_lib.embedding.projected import project
from pipeline_lib.embedding.vectors import SYSTEM, write_system
from pipeline_lib.files import digest_of_file
from pipeline_lib.models.device import keep_freed_memory, use_threads
from pipeline_lib.params import Params
from pipeline_lib.run import Run

TOLD = (
    "{rows} images: {seconds:.1f} s in the network; single threads read for {reading:.1f} s, wrote for {writing:.1f} s"
)


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Runs the stage."""
    threads = use_threads(params.embed.threads)
    keep_freed_memory()
    made = Run(data, params, ROOT)
    (made.embeddings / SYSTEM).unlink(missing_ok=True)  # what is in the folder does not belong together for a while
    take_beside(made)
    out, catalog = made.embeddings, read_catalog(made.catalog)
    own = Networks(load_networks(made))
    with Kept.opened(SCRATCH / "embedded", weights_of(made), params) as kept:
        networks = project(own, made.pairs, catalog, out, kept) if params.embed.dimension else own
        if params.machine.ray:
            embed_on_cluster(made, catalog, kept)
        stats = export_all(
            {out: networks.embed},
            catalog,
            open_source(params.catalog, ROOT),
            None if networks.projection else made.pairs,  # the fit has embedded the pretext pairs already
            networks.own.train,
            params.embed,
            kept,
            size=networks.size,
            batch=params.embed.batch,
        )[out]
    print(TOLD.format(**stats))
    fit_pretext(out, networks.widths(), networks.facing, projected=networks.projection is not None).save(
        out / FILE_NAME
    )
    record = {"system": "{run}", "supervision": networks.labels(), "alignments": list(KINDS)}
    record["weights"] = digest_of_file(made.weights)
    write_system(out, {**record, "seconds": round(stats["seconds"], 2), "threads": threads})


if __name__ == "__main__":
    run(main)
