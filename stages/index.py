"""Stage index: the gallery's embeddings, aligned and L2-normalised, in an exact FAISS index.

Reads data/embeddings/photos.parquet and alignment.safetensors; transductive_mean reads sketches.parquet as well.
Writes data/index/photos.faiss and data/index/photos.parquet (row -> image_id).
"""

from __future__ import annotations

from pathlib import Path

from common import run

from pipeline_lib.params import Params
from pipeline_lib.retrieval.fitting import of_kind
from pipeline_lib.retrieval.index import PhotoIndex
from pipeline_lib.retrieval.vectors import open_retrieval


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Builds the index."""
    kind = params.retrieval.alignment
    photos, sketches = open_retrieval(data / "embeddings")
    index = PhotoIndex.build(photos, of_kind(kind, photos, sketches), kind)
    index.save(data / "index")
    print(f"index: {len(index)} photos of {index.dimension} numbers, alignment {kind}")


if __name__ == "__main__":
    run(main)
