"""Lists and checks the images, and splits them -> data/catalog.parquet, excluded.parquet, catalog.json."""

from __future__ import annotations

from pathlib import Path

from common import ROOT, SCRATCH, run

import pyarrow as pa

from pipeline_lib.data.catalog import build_catalog
from pipeline_lib.data.schemas import write_table
from pipeline_lib.data.source import open_source
from pipeline_lib.files import digest_of, digest_of_code, write_json
from pipeline_lib.params import Params, fingerprint

# Keys that decide what becomes of an image, but not what it looks like.
AFTERWARDS = {"val_fraction", "gallery_fraction", "fingerprint_bits", "limit", "max_bad_fraction"}


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Opens every image once and writes the catalog, what was excluded, and the counts."""
    # Arrow's own allocator keeps freed memory; the system's returns it, so that the peak is the table alone.
    pa.set_memory_pool(pa.system_memory_pool())
    reading = fingerprint(params.catalog, AFTERWARDS)
    scratch = SCRATCH / f"catalog-{digest_of(reading, digest_of_code('data', 'errors.py'))[:16]}"
    source, machine = open_source(params.catalog, ROOT), params.machine
    built = build_catalog(source, params.catalog, scratch, machine.workers, machine.ray)
    write_table(data / "catalog.parquet", built.table)
    write_table(data / "excluded.parquet", built.excluded)
    write_json(data / "catalog.json", built.summary)


if __name__ == "__main__":
    run(main)
