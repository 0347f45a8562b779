"""Opens a finished run, and the index of one's own photos where there is one, for searching."""

from __future__ import annotations

import numpy as np

from pipeline_lib.data.folder import FolderSource
from pipeline_lib.data.images import BadImage
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import Source, open_source
from pipeline_lib.embedding.alignment import normalise, of_kind
from pipeline_lib.embedding.networks import open_networks
from pipeline_lib.embedding.vectors import EmbeddingTable, open_retrieval
from pipeline_lib.errors import PipelineError
from pipeline_lib.index.facts import index_key
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.models.device import use_threads
from pipeline_lib.run import Run
from pipeline_lib.search.encoder import QueryEncoder
from pipeline_lib.search.engine import SearchEngine
from pipeline_lib.search.gallery import Gallery, catalog_examples, catalog_gallery
from pipeline_lib.search.own_record import check_model, own_folder, own_gallery, read_record

SAME = 0.9999
"""Cosine similarity from which a vector made now is the one that was stored: rounding leaves 1e-6."""


def open_encoder(run: Run, threads: int) -> QueryEncoder:
    """The run's trained network, or several, on `threads` threads, with the alignment that retrieval.alignment names.

    Raises:
        PipelineError: the run has not been made, or its parts do not fit.
    """
    use_threads(threads)
    alignment = of_kind(run.params.retrieval.alignment, *open_retrieval(run.embeddings))
    return QueryEncoder(open_networks(run), alignment)


def open_engine(run: Run, which: str = "auto", threads: int = 1) -> SearchEngine:
    """Everything that a search needs, checked to fit together.

    Args:
        run: a finished run.
        which: "own" searches the index of one's own photos, "pipeline" the gallery of the run, "auto" the first of
            these that exists.
        threads: of the network, and of FAISS.

    Raises:
        PipelineError: something is missing or was made by another model; says what to run.
    """
    own_index = own_folder(run) / "index"
    own = which == "own" or (which == "auto" and own_index.exists())
    folder = own_index if own else run.index
    encoder = open_encoder(run, threads)
    catalog = read_catalog(run.catalog)
    source: Source | None
    try:
        source = open_source(run.params.catalog, run.root)
        examples = catalog_examples(catalog, source)
    except PipelineError:
        if not own:
            raise
        # Without the data that the model was trained on, one's own photos can still be searched, if without examples.
        source, examples = None, Gallery("", (), (), "sketch", FolderSource(run.root, 1, ""))
    if own or source is None:
        check_model(run)
        key = index_key(folder)
        gallery = own_gallery(read_record(run), folder, run.params.catalog.max_pixels)
    else:
        key = index_key(folder)
        gallery = catalog_gallery(catalog, source, folder)
        _check_embeddings(encoder, gallery, EmbeddingTable.open(run.embeddings / "photos.parquet"))
    faiss = RemoteFaiss()
    facts = faiss.open(folder, threads)
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
    return SearchEngine(run, encoder, faiss, facts, gallery, examples)


def _check_embeddings(encoder: QueryEncoder, gallery: Gallery, table: EmbeddingTable) -> None:
    """Embeds one photo again: otherwise a model or params that changed since would find nonsense in silence."""
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
    raise PipelineError(f"{table.path}: was made by another model, or with other params; run `dvc repro`")
