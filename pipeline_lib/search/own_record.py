"""The index of one's own photos below a run: whose photos they are, and which model embedded them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pipeline_lib.data.folder import FolderSource
from pipeline_lib.embedding.alignment import FILE_NAME
from pipeline_lib.embedding.networks import beside
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of, digest_of_file, read_json, write_json
from pipeline_lib.models.saved import params_key
from pipeline_lib.params import fingerprint
from pipeline_lib.registry import TRANSDUCTIVE
from pipeline_lib.run import Run
from pipeline_lib.search.gallery import Gallery, index_rows

RECORD_NAME: Final = "record.json"
CHANGED: Final = "the model, or section embed of the params, has changed since these photos were indexed"
AFRESH: Final = "to embed all photos again, run `make index PHOTOS=/your/folder AFRESH=1`"


@dataclass(frozen=True)
class Record:
    """Written when an index is begun, and again whenever it is finished."""

    root: str  # the folder of photos, absolute
    model: str  # `model_key` of the run that embedded them
    alignment: str = ""  # `alignment_key` that the index was built with; "" before it was
    state: str = ""  # key of the photos in the index and of its settings; "" before it was built


def own_folder(run: Run) -> Path:
    """Where the index of one's own photos lies, if there is one."""
    return run.folder / "own_index"


def alignment_file(run: Run) -> Path:
    """The alignment that was fitted on the run's pretext photos and their edges."""
    return run.embeddings / FILE_NAME


def model_key(run: Run) -> str:
    """Changes with a run's networks and with how they embed images; not with speed."""
    others = [model_key(Run.open(folder, run.root)) for folder in beside(run.embeddings)]
    embed = fingerprint(run.params.embed, ("batch", "threads", "beside"))
    return digest_of(run.record["weights"], params_key(run.params), embed, *others)


def alignment_key(run: Run) -> str:
    """Changes with the alignment.

    Raises:
        PipelineError: there is none, or it is fitted on an evaluation's gallery and queries.
    """
    kind = run.params.retrieval.alignment
    if kind == "none":
        return "none"
    if kind in TRANSDUCTIVE:
        raise PipelineError(
            f"retrieval.alignment: {kind} is fitted on an evaluation's own gallery and queries, and can't serve your "
            "own photos; set it to pretext_mean"
        )
    return digest_of(kind, digest_of_file(alignment_file(run)))


def read_record(run: Run) -> Record:
    """The record of an index.

    Raises:
        PipelineError: there is none, or it is damaged.
    """
    path = own_folder(run) / RECORD_NAME
    if not path.exists():
        raise PipelineError(
            f"{path.parent}: there is no index of your own photos yet; run `make index PHOTOS=/your/folder`"
        )
    try:
        return Record(**read_json(path))
    except (TypeError, PipelineError) as failure:  # `read_json` would name a stage, but none writes it
        raise PipelineError(f"{path}: is damaged; {AFRESH}") from failure


def write_record(run: Run, record: Record) -> None:
    """Writes the record, whole or not at all."""
    write_json(own_folder(run) / RECORD_NAME, asdict(record))


def begin_record(run: Run, root: Path) -> Record:
    """The record of the index of folder `root` that is there, or a new one.

    Raises:
        PipelineError: it is the index of another folder, or of another model.
    """
    model, own = model_key(run), own_folder(run)
    if not (own / RECORD_NAME).exists():
        write_record(run, Record(str(root), model))
    record = read_record(run)
    if record.root != str(root):
        raise PipelineError(f"{own}: is the index of {record.root}, not of {root}; {AFRESH}")
    if record.model != model:
        raise PipelineError(f"{own}: {CHANGED}; {AFRESH}")
    return record


def check_model(run: Run) -> None:
    """Makes sure that an index is searched with the model that made it.

    Raises:
        PipelineError: it is not finished, or the model or its alignment has changed; says what to run.
    """
    record, own = read_record(run), own_folder(run)
    if record.model != model_key(run):
        raise PipelineError(
            f"{own}: {CHANGED}; {AFRESH}. To search the pipeline's own gallery instead: `make serve GALLERY=pipeline`"
        )
    if not record.state or record.alignment != alignment_key(run):
        raise PipelineError(
            f"{own}: is not finished, or the alignment has changed since; run `make index PHOTOS={record.root}` again"
        )


def own_gallery(record: Record, index_folder: Path, max_pixels: int) -> Gallery:
    """The photos of the index, in its order."""
    paths, root = index_rows(index_folder), Path(record.root)
    return Gallery(root.name or "photos", paths, paths, "photo", FolderSource(root, max_pixels, ""))
