"""Stage index: the gallery's embeddings, aligned and L2-normalised, in a FAISS index of `index.kind`.

Reads data/embeddings/photos.parquet and alignment.safetensors; transductive_mean reads sketches.parquet as well.
Writes data/index/photos.faiss, data/index/photos.parquet (row -> image_id) and, since the run can now be searched, its
record data/run.json.
"""

from __future__ import annotations

from pathlib import Path

from common import ROOT, run

from pipeline_lib.embedding.alignment import of_kind
from pipeline_lib.embedding.likeness import Likeness
from pipeline_lib.embedding.vectors import SYSTEM, open_pretext, open_retrieval, read_system
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file, read_sealed
from pipeline_lib.index.photo_index import PhotoIndex
from pipeline_lib.params import Params
from pipeline_lib.run import META, Run


def main(params: Params, data: Path, _metrics: Path) -> None:
    """Builds the index and records the run."""
    made = Run(data, params, ROOT)
    system = read_system(made.embeddings)
    if "weights" in system and system["weights"] != digest_of_file(made.weights):
        raise PipelineError(f"{made.embeddings}: was made by another network than {made.weights}; run `dvc repro`")
    kind = params.retrieval.alignment
    photos, sketches = open_retrieval(made.embeddings)
    aligned = of_kind(kind, photos, sketches)
    how = params.index.kind, params.index.dimension
    index = PhotoIndex.build(photos, aligned, kind, *how, digest_of_file(made.embeddings / SYSTEM))
    index.save(made.index)
    likeness = Likeness.fit(*open_pretext(made.embeddings), aligned)
    meta = read_sealed(made.model / META)
    threads = {"train": meta["threads"], "embed": system["threads"]}
    made.write_record(data=meta["data_sha256"], threads=threads, likeness=likeness.record())
    print(f"index: {len(index)} photos of {index.facts.dimension} numbers ({index.facts.settings}), alignment {kind}")


if __name__ == "__main__":
    run(main)
