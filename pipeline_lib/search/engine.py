"""The search engine: opens a finished run, or the index of one's own photos; drawings in, the nearest photos out.

A run that was not exported is opened by torch, so a process that holds faiss must not use this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.folder import FolderSource
from pipeline_lib.data.images import BadImage
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.embedding.alignment import FILE_NAME, Alignment, Domain, normalise
from pipeline_lib.embedding.embedder import Embedder, open_embedder
from pipeline_lib.embedding.framing import frame, guesses
from pipeline_lib.embedding.likeness import Likeness
from pipeline_lib.embedding.vectors import EmbeddingTable, Vectors
from pipeline_lib.errors import PipelineError
from pipeline_lib.index.facts import IndexFacts, index_key
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.registry import TRANSDUCTIVE
from pipeline_lib.run import Run
from pipeline_lib.search.gallery import EVERYWHERE, Among, Gallery, catalog_examples, catalog_gallery
from pipeline_lib.search.own_record import (
    AFRESH,
    CHANGED,
    check_model,
    index_made_by,
    own_folder,
    own_gallery,
    own_state,
    read_record,
)

MOST_HITS = 200
"""Photos that one search may ask for."""
DOMAINS: tuple[Domain, ...] = ("sketch", "photo")
SHOWN_PIXELS = 40_000_000
"""Pixels of one's own photos that are decoded to show them, which bounds the memory to 0.4 GB. Larger JPEGs are decoded
at a part of their size; of others the small picture is shown that was kept when they were indexed."""
SAME = 0.9999
"""Cosine similarity from which a vector made now is the one that was stored: rounding leaves 1e-6."""


class Prepared(NamedTuple):
    """An image as the network is shown it."""

    pixels: NDArray[np.uint8]  # uint8[K, S, S, 3]: as it is, and a small drawing also as it would be on other pages
    domain: Domain  # a photo is aligned as a photo, whether it is searched or searches


@dataclass(frozen=True)
class QueryEncoder:
    """What embeds, and the alignment of `retrieval.alignment` that follows."""

    embedder: Embedder
    alignment: Alignment
    settings: params.Embed  # how an image is framed

    def prepare(self, image: NDArray[np.uint8], domain: Domain) -> Prepared:
        """An image, uint8[H, W, 3] RGB or uint8[H, W], framed and scaled; drawings are dark on white."""
        shown = guesses(image, self.settings) if domain == "sketch" else [frame(image, domain, self.settings)]
        return Prepared(np.stack([self.embedder.scaled(each) for each in shown]), domain)

    def raw(self, prepared: Sequence[Prepared]) -> Vectors:
        """Vectors as the embed stage writes them, float32[N, D], of images as they are."""
        return self.embedder.vectors(np.stack([each.pixels[0] for each in prepared]))

    def aligned(self, prepared: Sequence[Prepared]) -> Vectors:
        """Vectors to search with, float32[M, A], of all that each image is shown as, aligned as its domain is."""
        shown, step = np.concatenate([each.pixels for each in prepared]), self.embedder.batch
        raw = np.concatenate([self.embedder.vectors(shown[i : i + step]) for i in range(0, len(shown), step)])
        found = np.empty((len(raw), self.alignment.aligned_dimension), np.float32)
        domains = np.repeat([each.domain for each in prepared], [len(each.pixels) for each in prepared])
        for domain in DOMAINS:
            if (rows := domains == domain).any():
                found[rows] = self.alignment.queries(raw[rows], domain)
        return found


@dataclass(frozen=True)
class Hit:
    """A photo that was found."""

    rank: int  # from 1
    row: int  # of the gallery
    # cosine similarity of the aligned vectors, -1..1; with codes (RaBitQ) an estimate of it. Under hubness
    # correction (`pretext_csls`) half of the photo's nearness to drawings is taken off.
    score: float
    # 0..1: what the score says, see `embedding.likeness`. Below 0.5 the photo is hardly more alike than a random one.
    likeness: float = 0.5

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
    likeness: Likeness  # what scores say

    def prepare(self, image: NDArray[np.uint8], domain: Domain = "sketch") -> Prepared:
        """A query as the network is shown it; see `QueryEncoder.prepare`."""
        return self.encoder.prepare(image, domain)

    def search(self, prepared: Sequence[Prepared], top: int, among: Among = EVERYWHERE) -> list[list[Hit]]:
        """The `top` nearest photos of each prepared query, best first, diversified (MMR) by `retrieval.diversity`.

        Raises:
            PipelineError: the process that holds the index has died and can't be started again, or no photo can be
                among those that are asked for.
        """
        wanted = max(1, min(top, MOST_HITS))
        chosen, diversity = self.gallery.chosen(among), self.run.params.retrieval.diversity
        found = iter(self.faiss.search(self.encoder.aligned(prepared), wanted, diversity, chosen))
        lists = [best([next(found) for _ in query.pixels], wanted) for query in prepared]
        return [
            [
                Hit(rank, row, score, self.likeness.of(score, query.domain))
                for rank, (row, score) in enumerate(one, start=1)
            ]
            for query, one in zip(prepared, lists, strict=True)
        ]

    def close(self) -> None:
        """Ends the worker process."""
        self.faiss.close()


def best(lists: Sequence[tuple[NDArray[np.int64], Vectors]], top: int) -> list[tuple[int, float]]:
    """The rows of one list or several, each with its highest score, best first; ties as in the first list.

    Args:
        lists: rows int64[K] and scores float32[K] of each, in the order to keep.
        top: how many at most.
    """
    scores: dict[int, float] = {}
    for rows, values in lists:
        for row, score in zip(rows.tolist(), values.tolist(), strict=True):
            scores[row] = max(score, scores.get(row, score))
    # One list keeps its order, which is not by score alone where it is diversified.
    ordered = scores.items() if len(lists) == 1 else sorted(scores.items(), key=lambda item: -item[1])
    return list(ordered)[:top]


def open_encoder(run: Run, threads: int) -> QueryEncoder:
    """The run's networks, on `threads` threads, with the alignment that retrieval.alignment names.

    Raises:
        PipelineError: the run has not been made, or its parts do not fit.
    """
    embedder, kind = open_embedder(run, threads), run.params.retrieval.alignment
    if kind in TRANSDUCTIVE:
        raise PipelineError(
            f"retrieval.alignment: {kind} is fitted on an evaluation's own gallery and queries, and can't serve a "
            "search; set it to pretext_csls"
        )
    alignment = Alignment(embedder.dimension) if kind == "none" else Alignment.load(run.embeddings / FILE_NAME)
    return QueryEncoder(embedder, alignment.as_kind(kind), run.params.embed)


def open_engine(
    run: Run, which: str = "auto", threads: int = 1, index: Path | None = None, encoder: QueryEncoder | None = None
) -> SearchEngine:
    """Everything that a search needs, checked to fit together.

    Args:
        run: a finished run.
        which: "own" searches the index of one's own photos, "pipeline" the gallery of the run, "auto" the first of
            these that exists.
        threads: of the network, and of FAISS.
        index: the folder of the index of one's own photos, where not its usual place.
        encoder: of the run, where it is open already.

    Raises:
        PipelineError: something is missing or was made by another model; says what to run.
    """
    own = which == "own" or (which == "auto" and own_state(run, index) != "none")
    if own:
        check_model(run, index)
    elif run.exported.exists():
        raise PipelineError(
            f"{run.folder}: is an exported run, which holds no pictures of its own; run `drawfind index --run "
            f"{run.folder}` with the folder of your photos first"
        )
    folder = own_folder(run, index) / "index" if own else run.index
    encoder = encoder or open_encoder(run, threads)
    key = index_key(folder)
    if own:
        gallery = own_gallery(read_record(run, index), folder, SHOWN_PIXELS)
        examples = _examples(run)
    else:
        catalog, source = read_catalog(run.catalog), open_source(run.params.catalog, run.root)
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
    if own and facts.made_by not in {"", index_made_by(run)}:
        faiss.close()
        raise PipelineError(f"{folder}: {CHANGED}; {AFRESH}")
    likeness = Likeness.of_record(run.record.get("likeness"))
    return SearchEngine(run, encoder, faiss, facts, gallery, examples, likeness)


def _examples(run: Run) -> Gallery:
    """The queries that the run was evaluated with; none where it, or their data, are not there."""
    try:
        return catalog_examples(read_catalog(run.catalog), open_source(run.params.catalog, run.root))
    except PipelineError:
        return Gallery("", (), (), "sketch", FolderSource(run.root, 1, ""))


def _check_embeddings(encoder: QueryEncoder, gallery: Gallery, table: EmbeddingTable) -> None:
    """Embeds one photo again: otherwise a model or params that changed since would find nonsense in silence."""
    if not len(table) or not len(gallery):
        return
    image_id = str(table.labels.image_ids[0])
    if image_id in gallery.image_ids:
        row = gallery.image_ids.index(image_id)
        try:
            now = encoder.raw([encoder.prepare(gallery.load(row), "photo")])
        except BadImage as failure:
            raise PipelineError(f"{gallery.paths[row]}: {failure}; mend it or run `dvc repro`") from failure
        stored = next(table.batches(1))
        if now.shape == stored.shape and float(np.vdot(normalise(now), normalise(stored))) > SAME:
            return
    raise PipelineError(f"{table.path}: was made by another model, or with other params; run `dvc repro`")
