"""Where on the page a drawing stands, and how large: `python -m experiments.placement NAME...`, recipes of made runs.

Every drawing of Sketchy is moved to another page, and embedded afresh as that page is and as a search takes it
(`pipeline_lib.embedding.framing`: a small drawing is guessed at in several ways, and the best counts), under the run's
own alignment; the gallery is that of the run. Parts of Sketchy are those of `experiments.study`; settings are chosen by
`sketchy_even`. Writes metrics/retrieval_study_placement.csv.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.study import Finished, Line, command, figures, update_table
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import open_source
from pipeline_lib.embedding.images import catalog_images
from pipeline_lib.embedding.vectors import Vectors, batched
from pipeline_lib.run import Run
from pipeline_lib.search.engine import QueryEncoder, open_encoder

Picture = NDArray[np.uint8]
Page = Callable[[Picture, np.random.Generator], Picture]
SEED: Final = 0


def on_page(drawing: Picture, height: float, width: float, x: float = 0.5, y: float = 0.5) -> Picture:
    """A drawing on a larger page.

    Args:
        drawing: uint8[H, W, 3], dark on white.
        height: of the page, in heights of the drawing.
        width: in its widths.
        x: part of the room that is left over which is at the left, 0..1.
        y: part which is at the top.

    Returns:
        uint8[H', W', 3].
    """
    high, wide = round(drawing.shape[0] * height), round(drawing.shape[1] * width)
    page = np.full((high, wide, 3), 255, np.uint8)
    top, left = round((high - drawing.shape[0]) * y), round((wide - drawing.shape[1]) * x)
    page[top : top + drawing.shape[0], left : left + drawing.shape[1]] = drawing
    return page


def middle(height: float, width: float) -> Page:
    """In the middle of a page; arguments as of `on_page`."""
    return lambda drawing, _: on_page(drawing, height, width)


def anywhere(size: float) -> Page:
    """Somewhere on a page that is larger by a factor."""
    return lambda drawing, rng: on_page(drawing, size, size, *rng.random(2))


def corner(drawing: Picture, rng: np.random.Generator) -> Picture:
    """Half as large as the page, in one of its four corners."""
    return on_page(drawing, 2, 2, *rng.integers(0, 2, 2).tolist())


PAGES: Final[Mapping[str, Page]] = {
    "full size": middle(1, 1),
    "three quarters, anywhere": anywhere(4 / 3),
    "half size, in a corner": corner,
    "half size, anywhere": anywhere(2),
    "a quarter, in the middle": middle(4, 4),
    "landscape 4:3": middle(1, 4 / 3),
    "landscape 16:9": middle(1, 16 / 9),
    "portrait 3:4": middle(4 / 3, 1),
}


def measure(row: Finished) -> Iterator[Line]:
    """A line per page, framing and part of Sketchy."""
    run = Run.open(row.photos.path.parents[1])
    encoder = open_encoder(run, run.params.embed.threads)
    photos = encoder.alignment.apply(row.photos.read(), "photo")
    as_it_is = replace(encoder, settings=run.params.embed.model_copy(update={"fit": "squash", "cut_ink": 0.0}))
    for name, page in tqdm(PAGES.items(), desc=row.name, unit="page"):
        for framed, shown in ((False, as_it_is), (True, encoder)):
            scores = scores_of(moved(run, row, page), shown, photos)
            for dataset, part in row.parts().items():
                gallery, queries = part
                found = figures(scores[np.ix_(queries, gallery)], *row.labels(part))
                yield {"dataset": dataset, "page": name, "framed": framed, **found}


def moved(run: Run, row: Finished, page: Page) -> Iterator[Picture]:
    """The run's drawings on other pages, in the order of its table; at the same places whenever it is called."""
    catalog = read_catalog(run.catalog).set_index("image_id")
    rows = catalog.loc[row.sketches.labels.image_ids.tolist()].reset_index()
    rng = np.random.default_rng(SEED)
    return (page(pixels(), rng) for *_, pixels in catalog_images(rows, open_source(run.params.catalog, run.root)))


def scores_of(drawings: Iterable[Picture], encoder: QueryEncoder, photos: Vectors) -> Vectors:
    """Similarities of M drawings to photos, float32[N, A], aligned: float32[M, N], each of the drawing's best guess."""
    found = []
    for some in batched((encoder.prepare(drawing, "sketch") for drawing in drawings), encoder.embedder.batch):
        starts = np.cumsum([0, *(len(each.pixels) for each in some)])[:-1]
        found.append(np.maximum.reduceat(encoder.aligned(some) @ photos.T, starts, axis=0))
    return np.concatenate(found)


if __name__ == "__main__":
    command(__doc__, lambda names: update_table("retrieval_study_placement", names, measure))
