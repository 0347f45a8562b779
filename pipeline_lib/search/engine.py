"""The search engine: opens a finished run, or the index of one's own photos; drawings in, the nearest photos out.

This module imports torch, so a process that holds faiss must not import it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline_lib.data.folder import FolderSource
from pipeline_lib.data.images import BadImage
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.embedding.alignment import Alignment, normalise, of_kind
from pipeline_lib.embedding.networks import Networks, open_networks
from pipeline_lib.embedding.vectors import EmbeddingTable, Vectors, open_retrieval
from pipeline_lib.errors import PipelineError
from pipeline_lib.index.facts import IndexFacts, index_key
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.models.device import use_threads
from pipeline_lib.run import Run
from pipeline_lib.search.gallery import Gallery, catalog_examples, catalog_gallery
from pipeline_lib.search.own_record import check_model, own_folder, own_gallery, read_record

MOST_HITS = 200
"""Photos that one search may ask for."""
SAME = 0.9999
"""Cosine similarity from which a vector made now is the one that was stored: rounding leaves 1e-6."""


@dataclass(frozen=True)
class QueryEncoder:
    """A run's trained network, or several, and the alignment of `retrieval.alignment` that follows."""

    networks: Networks
    alignment: Alignment

    @torch.inference_mode()
    def raw(self, prepared: Sequence[Tensor]) -> Vectors:
        """Vectors as the embed stage writes them, float32[N, D], of images that `networks.prepare` made."""
        images = torch.cat(list(prepared)).contiguous(memory_format=torch.channels_last)
        vectors: Vectors = self.networks.embed(images).float().cpu().numpy()
        return vectors


@dataclass(frozen=True)
class Hit:
    """A photo that was found."""

    rank: int  # from 1
    row: int  # of the gallery
    # cosine similarity of the aligned vectors, -1..1; with product quantisation an estimate of it. Under hubness
    # correction (`pretext_csls`) half of the photo's nearness to drawings is taken off.
    score: float

    @property
    def distance(self) -> float:
        """1 - score; without hubness correction the cosine distance, 0..2."""
        return 1.0 - self.score


@dataclass(frozen=True)
class SearchEngine:
    """The encoder in this process, the index in the worker, and the photos of its rows.

    `prepare` may run in any thread; `search` in one at a time.
    """

    run: Run  # whose model searches
    encoder: QueryEncoder  # of the run
    faiss: RemoteFaiss  # the worker, with the index open
    facts: IndexFacts  # of that index
    gallery: Gallery  # its photos, row by row
    examples: Gallery  # drawings to try the search with; may be empty

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """A drawing, uint8[H, W, 3] RGB or uint8[H, W], dark on white, as the networks' input, float32[1, 3, S, S]."""
        return self.encoder.networks.prepare(image)

    def search(self, prepared: Sequence[Tensor], top: int) -> list[list[Hit]]:
        """The `top` nearest photos of each prepared drawing, best first, diversified (MMR) by `retrieval.diversity`.

        Raises:
            PipelineError: the process that holds the index has died and can't be started again.
        """
        queries = self.encoder.alignment.apply(self.encoder.raw(prepared), "sketch")
        found = self.faiss.search(queries, max(1, min(top, MOST_HITS)), self.run.params.retrieval.diversity)
        return [
            [Hit(rank, int(row), float(score)) for rank, (row, score) in enumerate(zip(*one, strict=True), start=1)]
            for one in found
        ]

    def close(self) -> None:
        """Ends the worker process."""
        self.faiss.close()


def open_encoder(run: Run, threads: int) -> QueryEncoder:
    """The run's networks, on `threads` threads, with the alignment that retrieval.alignment names.

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
    if own:
        check_model(run)
    key = index_key(folder)
    if own:
        gallery = own_gallery(read_record(run), folder, run.params.catalog.max_pixels)
        try:
            examples = catalog_examples(catalog, open_source(run.params.catalog, run.root))
        except PipelineError:  # the data that the model was trained on are not there: search without examples
            examples = Gallery("", (), (), "sketch", FolderSource(run.root, 1, ""))
    else:
        source = open_source(run.params.catalog, run.root)
        gallery, examples = catalog_gallery(catalog, source, folder), catalog_examples(catalog, source)
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
            now = encoder.raw([encoder.networks.prepare(gallery.load(row))])
        except BadImage as failure:
            raise PipelineError(f"{gallery.paths[row]}: {failure}; mend it or run `dvc repro`") from failure
        stored = next(table.batches(1))
        if now.shape == stored.shape and float(np.vdot(normalise(now), normalise(stored))) > SAME:
            return
    raise PipelineError(f"{table.path}: was made by another model, or with other params; run `dvc repro`")
