"""Stage catalog: which images there are, what part each plays, and which must stay out of training."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from common import ROOT, SCRATCH, run

from pipeline_lib.data.catalog import build_catalog
from pipeline_lib.data.files import digest_of, digest_of_code, write_json
from pipeline_lib.data.schemas import write_table
from pipeline_lib.data.source import open_source
from pipeline_lib.params import Params

# What an image looks like depends on these; the rest only decides what becomes of it.
READING = {"dataset", "root", "rendering", "sketches", "openmoji", "seed", "max_pixels"}


def main(params: Params, data: Path, metrics: Path) -> None:
    """Opens every image once and writes the catalog, what was excluded, and the counts."""
    # Arrow's own allocator keeps what it frees; the system's gives it back, so the peak stays with the table.
    pa.set_memory_pool(pa.system_memory_pool())
    source = open_source(params.catalog, ROOT)
    reading = params.catalog.model_dump(include=READING)
    scratch = SCRATCH / f"catalog-{digest_of(reading, digest_of_code('data', 'errors.py'))[:16]}"
    built = build_catalog(source, params.catalog, scratch)
    write_table(data / "catalog.parquet", built.table)
    write_table(data / "excluded.parquet", built.excluded)
    write_json(metrics / "catalog.json", built.summary)


if __name__ == "__main__":
    run(main)
