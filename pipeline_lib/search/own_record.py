"""What is known of the index of one's own photos: whose it is, by which model, and what was left out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from pipeline_lib import params
from pipeline_lib.data.files import digest_of, digest_of_file, read_json, write_json
from pipeline_lib.data.folder import FolderSource
from pipeline_lib.data.schemas import read_table
from pipeline_lib.errors import PipelineError
from pipeline_lib.retrieval.copies import FILES, SETTINGS, copies
from pipeline_lib.retrieval.index_names import ROWS_NAME
from pipeline_lib.search.gallery import Gallery

OWN_FOLDER: Final = "own_index"
"""Below paths.data."""
RECORD_NAME: Final = "record.json"
AFRESH: Final = "to embed all photos again, run `make index PHOTOS=/your/folder AFRESH=1`"


@dataclass(frozen=True)
class Record:
    """Written when an index is begun, and again whenever it is finished.

    Attributes:
        root: the folder of photos, absolute.
        model: key of the model that embedded them (see `model_key`).
        alignment: key of the domain means that the index was built with; "" before it was.
        state: key of the photos in the index and of its settings; "" before it was built.
    """

    root: str
    model: str
    alignment: str = ""
    state: str = ""


def model_key(folder: Path, embed: params.Embed, embeddings: Path) -> str:
    """Changes with the weights in a model folder and with how images are embedded; not with speed.

    Args:
        folder: of the run's own model.
        embed: section `embed`.
        embeddings: holds the networks of other runs that take part.

    Raises:
        PipelineError: the model is missing.
    """
    meta = read_json(folder / "meta.json")
    weights = digest_of_file(folder / "encoder.safetensors")
    others = [
        [read_json(copy / SETTINGS), *(digest_of_file(copy / file) for file in FILES)] for copy in copies(embeddings)
    ]
    return digest_of(weights, meta["params"], embed.model_dump(exclude={"batch", "threads", "beside"}), *others)


def alignment_key(file: Path, kind: str) -> str:
    """Changes with the domain means.

    Raises:
        PipelineError: there are none, or they are fitted on a gallery and queries that one's own photos are not.
    """
    if kind == "none":
        return "none"
    if kind == "transductive_mean":
        raise PipelineError(
            "retrieval.alignment: transductive_mean is fitted on an evaluation's own gallery and queries, and can't "
            "serve your own photos; set it to pretext_mean"
        )
    return digest_of(kind, digest_of_file(file))


def read_record(own: Path) -> Record:
    """The record of an index.

    Raises:
        PipelineError: there is none, or it is damaged.
    """
    if not (own / RECORD_NAME).exists():
        raise PipelineError(f"{own}: there is no index of your own photos yet; run `make index PHOTOS=/your/folder`")
    try:
        return Record(**read_json(own / RECORD_NAME))
    except (TypeError, PipelineError) as failure:  # no stage writes it, whatever `read_json` says
        raise PipelineError(f"{own / RECORD_NAME}: is damaged; {AFRESH}") from failure


def write_record(own: Path, record: Record) -> None:
    """Writes the record, whole or not at all."""
    write_json(own / RECORD_NAME, asdict(record))


def check_model(own: Path, model: str, alignment_file: Path, kind: str) -> None:
    """Makes sure that an index is searched with the model that made it.

    Raises:
        PipelineError: it is not finished, or the model or its alignment has changed; says what to run.
    """
    record = read_record(own)
    if record.model != model:
        raise PipelineError(
            f"{own}: the model, or section embed of the params, has changed since these photos were indexed; {AFRESH}. "
            "To search the pipeline's own gallery instead: `make serve GALLERY=pipeline`"
        )
    if not record.state or record.alignment != alignment_key(alignment_file, kind):
        raise PipelineError(
            f"{own}: is not finished, or the alignment has changed since; run `make index PHOTOS={record.root}` again"
        )


def own_gallery(record: Record, index_folder: Path, max_pixels: int) -> Gallery:
    """The photos of the index, in its order."""
    rows = read_table(index_folder / ROWS_NAME, pa.schema([("image_id", pa.string())]))
    paths = tuple(rows.column("image_id").to_pylist())
    root = Path(record.root)
    return Gallery(root.name or "photos", paths, paths, "photo", FolderSource(root, max_pixels, ""))
