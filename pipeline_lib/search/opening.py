"""Opens a finished run of the pipeline, and the index of one's own photos where there is one, for searching."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from pipeline_lib.data.folder import FolderSource
from pipeline_lib.data.images import BadImage
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import Source, open_source
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.device import use_threads
from pipeline_lib.params import Params, parse
from pipeline_lib.retrieval.alignment import FILE_NAME, normalise
from pipeline_lib.retrieval.fitting import of_kind
from pipeline_lib.retrieval.networks import open_networks
from pipeline_lib.retrieval.vectors import EmbeddingTable, open_retrieval
from pipeline_lib.search.encoder import QueryEncoder
from pipeline_lib.search.engine import SearchEngine
from pipeline_lib.search.gallery import Gallery, catalog_examples, catalog_gallery
from pipeline_lib.search.messages import index_key
from pipeline_lib.search.own_record import OWN_FOLDER, check_model, model_key, own_gallery, read_record
from pipeline_lib.search.remote import RemoteFaiss

SAME = 0.9999
"""Cosine similarity from which a vector made now is the one that was stored: rounding leaves 1e-6."""


@dataclass(frozen=True)
class Run:
    """A finished run of the pipeline.

    Attributes:
        params: as in its params file.
        root: the folder of that file, from which relative paths lead.
    """

    params: Params
    root: Path

    @classmethod
    def read(cls, file: Path) -> Run:
        """Reads a params file.

        Raises:
            PipelineError: it is missing or can't be used.
        """
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as failure:
            raise PipelineError(f"{file}: can't be read ({failure})") from failure
        return cls(parse(values, source=str(file)), file.resolve().parent)

    @property
    def data(self) -> Path:
        """Where the artefacts are."""
        return self.root / self.params.paths.data

    @property
    def own(self) -> Path:
        """Where the index of one's own photos is, if there is one."""
        return self.data / OWN_FOLDER

    @property
    def alignment_file(self) -> Path:
        """The domain means that were fitted on pretext photos and their edges."""
        return self.data / "embeddings" / FILE_NAME

    def model_key(self) -> str:
        """Changes with the weights and with how images are embedded."""
        return model_key(self.data / "model", self.params.embed, self.data / "embeddings")


def open_encoder(run: Run, threads: int) -> QueryEncoder:
    """The run's trained network, or several, on `threads` threads, with the alignment that retrieval.alignment names.

    Raises:
        PipelineError: the run has not been made, or its parts do not fit.
    """
    if not (run.data / "model" / "meta.json").exists():
        raise PipelineError(f"{run.data / 'model'}: there is no trained model yet; run `make repro` first")
    use_threads(threads)
    folder = run.data / "embeddings"
    alignment = of_kind(run.params.retrieval.alignment, *open_retrieval(folder))
    return QueryEncoder(open_networks(run.data / "model", run.params.embed, folder), alignment)


def open_engine(run: Run, which: str = "auto") -> SearchEngine:
    """Everything that a search needs, checked to fit together.

    Args:
        run: a finished run.
        which: "own" searches the index of one's own photos, "pipeline" the gallery of the run, "auto" the first of
            these that exists.

    Raises:
        PipelineError: something is missing or was made by another model; says what to run.
    """
    own = which == "own" or (which == "auto" and (run.own / "index").exists())
    encoder = open_encoder(run, run.params.search.threads)
    catalog = read_catalog(run.data / "catalog.parquet")
    folder = (run.own if own else run.data) / "index"
    source: Source | None
    try:
        source = open_source(run.params.catalog, run.root)
        examples = catalog_examples(catalog, source)
    except PipelineError:
        if not own:
            raise
        # One's own photos can be searched without the data that the model was trained on, if without its drawings.
        source, examples = None, Gallery("", (), (), "sketch", FolderSource(run.root, 1, ""))
    if own or source is None:
        check_model(run.own, run.model_key(), run.alignment_file, run.params.retrieval.alignment)
        key = index_key(folder)
        gallery = own_gallery(read_record(run.own), folder, run.params.catalog.max_pixels)
    else:
        key = index_key(folder)
        gallery = catalog_gallery(catalog, source, folder)
        _check_embeddings(encoder, gallery, run.data / "embeddings" / "photos.parquet")
    faiss = RemoteFaiss()
    facts = faiss.open(folder, run.params.search.threads)
    if facts.key != key:
        faiss.close()
        raise PipelineError(f"{folder}: has changed while it was opened; start again")
    if facts.dimension != encoder.alignment.aligned_dimension or facts.alignment != run.params.retrieval.alignment:
        faiss.close()
        again = "`make index` with your folder of photos" if own else "`dvc repro`"
        raise PipelineError(
            f"{folder}: was built for {facts.dimension} numbers and alignment {facts.alignment}, but the queries have "
            f"{encoder.alignment.aligned_dimension} and {run.params.retrieval.alignment}; run {again} again"
        )
    return SearchEngine(encoder, faiss, facts, gallery, examples, run.params.retrieval.diversity)


def _check_embeddings(encoder: QueryEncoder, gallery: Gallery, path: Path) -> None:
    """Embeds one photo again: a model or params that changed since would search without a word of complaint."""
    table = EmbeddingTable.open(path)
    if not len(table) or not len(gallery):
        return
    image_id = str(table.labels.image_ids[0])
    if image_id in gallery.image_ids:
        row = gallery.image_ids.index(image_id)
        try:
            now = encoder.raw([encoder.prepare(gallery.load(row))])
        except BadImage as failure:
            raise PipelineError(f"{gallery.paths[row]}: {failure}; mend it or run `dvc repro`") from failure
        stored = next(table.batches(1))
        if now.shape == stored.shape and float(np.vdot(normalise(now), normalise(stored))) > SAME:
            return
    raise PipelineError(f"{path}: was made by another model, or with other params; run `dvc repro`")
