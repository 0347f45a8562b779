"""How much of a drawing and of a photo the network is shown: `python -m experiments.framing NAME...`, recipes of runs.

A drawing is shown whole, or cut to a square around its ink; a photo whole, padded to a square, or also by its middle,
whichever of the two is more alike. Everything is embedded afresh by the run's networks under its own alignments.
Sketchy is measured on the classes that settings are chosen by, Li 2014 on the source's ten classes and, to choose
settings by, on the four others (`_rest`), with photos cut to the object (`li2014`) and whole (`li2014_img`). Writes
metrics/retrieval_study_framing.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.measuring import RESAMPLES, SEED, Finished, Line, command, figures
from experiments.run import RUNS
from experiments.together import ALIGNMENTS
from pipeline_lib.data import li2014
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import Entry, FileSource, open_source
from pipeline_lib.embedding.alignment import Domain, of_kind
from pipeline_lib.embedding.export import catalog_images
from pipeline_lib.embedding.networks import open_networks
from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.evaluation import li_score
from pipeline_lib.evaluation.evaluation import with_ends
from pipeline_lib.files import resolve_path
from pipeline_lib.models.device import use_threads
from pipeline_lib.params import Catalog
from pipeline_lib.run import Run

Picture = NDArray[np.uint8]
View = Callable[[Picture], Picture]
INK = 200  # a drawing's pixels below this are ink, 0..255
MARGIN = 0.08  # of the ink's longer side, on each side
MIDDLE = 0.7  # of height and width
BATCH = 32


def around_ink(sketch: Picture) -> Picture:
    """The square around a drawing's ink, with white beyond the picture's border; an empty drawing stays whole.

    Args:
        sketch: uint8[H, W] or uint8[H, W, 3], dark on white.
    """
    rows, columns = np.nonzero((sketch if sketch.ndim == 2 else sketch.min(axis=2)) < INK)
    if not len(rows):
        return sketch
    low, high = np.array([rows.min(), columns.min()]), np.array([rows.max(), columns.max()]) + 1
    side = round(int((high - low).max()) * (1 + 2 * MARGIN))
    start = (low + high - side) // 2
    reach = max(0, -int(start.min()), *(int(over) for over in start + side - np.array(sketch.shape[:2])))
    wide = cv2.copyMakeBorder(sketch, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    y, x = start + reach
    return np.ascontiguousarray(wide[y : y + side, x : x + side], np.uint8)


def padded(photo: Picture) -> Picture:
    """A photo with its border repeated until it is square, so that its shape is kept: uint8[S, S, 3]."""
    height, width = photo.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    ends = (top, side - height - top, left, side - width - left)
    return np.asarray(cv2.copyMakeBorder(photo, *ends, cv2.BORDER_REPLICATE), np.uint8)


def middle(photo: Picture) -> Picture:
    """The middle of a photo, MIDDLE of its height and width."""
    height, width = photo.shape[:2]
    y, x = round(height * (1 - MIDDLE) / 2), round(width * (1 - MIDDLE) / 2)
    return np.ascontiguousarray(photo[y : height - y, x : width - x])


def whole(image: Picture) -> Picture:
    """The image as it is."""
    return image


SKETCHES: Mapping[str, View] = {"whole": whole, "ink": around_ink}
PHOTOS: Mapping[str, tuple[View, ...]] = {"whole": (whole,), "padded": (padded,), "whole or middle": (whole, middle)}


class Embedder:
    """A run's networks and alignments."""

    def __init__(self, run: Run, row: Finished) -> None:
        use_threads(run.params.embed.threads)
        self.networks = open_networks(run)
        self.alignments = {kind: of_kind(kind, row.photos, row.sketches) for kind in ALIGNMENTS}

    @torch.inference_mode()
    def __call__(self, images: Iterable[Picture], domain: Domain) -> dict[str, Vectors]:
        """Aligned unit vectors, float32[N, D], of each kind."""
        found, iterator = [], iter(images)
        while chunk := list(islice(iterator, BATCH)):
            prepared = torch.cat([self.networks.prepare(image) for image in chunk])
            vectors = self.networks.embed(prepared.contiguous(memory_format=torch.channels_last))
            found.append(vectors.float().cpu().numpy())
        raw = np.concatenate(found)
        return {kind: alignment.apply(raw, domain) for kind, alignment in self.alignments.items()}


def scores_by_view(
    photos: Callable[[], Iterator[Picture]], sketches: Callable[[], Iterator[Picture]], embed: Embedder, what: str
) -> Iterator[tuple[dict[str, str], Vectors]]:
    """How sketches and photos are shown and aligned, and their similarities, float32[M, N]."""
    views = sorted({view for some in PHOTOS.values() for view in some}, key=lambda view: view.__name__)
    shown = {
        view: embed((view(image) for image in photos()), "photo") for view in tqdm(views, desc=what, unit="photo view")
    }
    for name, view in SKETCHES.items():
        drawn = embed((view(image) for image in sketches()), "sketch")
        for place, some in PHOTOS.items():
            for kind, vectors in drawn.items():
                how = {"sketches": name, "photos": place, "alignment": kind}
                yield how, np.max([vectors @ shown[each][kind].T for each in some], axis=0)


def of_sketchy(run: Run, row: Finished, embed: Embedder) -> Iterator[Line]:
    """Lines of the classes that settings are chosen by."""
    catalog = read_catalog(run.catalog).set_index("image_id")
    source = open_source(run.params.catalog, run.root)
    ((dataset, part),) = row.parts(final=False).items()
    sides = row.labels(part)

    def images(side: int) -> Iterator[Picture]:
        rows = catalog.loc[sides[side].image_ids.tolist()].reset_index()
        return (pixels for _, _, _, pixels in catalog_images(rows, source))

    for how, scores in scores_by_view(lambda: images(0), lambda: images(1), embed, dataset):
        yield {"dataset": dataset, **how, **figures(scores, *sides)}


def of_li(root: Path, side: li2014.Side, settings: Catalog, embed: Embedder) -> Iterator[Line]:
    """Lines of Li 2014, K = 5: of the source's ten classes and of the four others."""
    source = FileSource(root, settings.max_pixels)
    entries = list(li2014.entries(root, side))
    photos, sketches = ([e for e in entries if (e.domain == "photo") is kind] for kind in (True, False))
    place = {entry.image_id: number for some in (photos, sketches) for number, entry in enumerate(some)}
    name = "li2014" if side == "cropped" else "li2014_img"

    def images(some: list[Entry]) -> Iterator[Picture]:
        return (source.load(entry.path, entry.domain, entry.image_id) for entry in some)

    ratings = li2014.read_ratings(root)
    for how, scores in scores_by_view(lambda: images(photos), lambda: images(sketches), embed, name):
        values = {}
        for rated in ratings:
            rows, columns = ([place[image_id] for image_id in ids] for ids in (rated.sketches, rated.photos))
            found = li_score.li_scores(scores[np.ix_(rows, columns)], rated.values, np.array(rated.photos))
            values[rated.class_name] = found
        for ending, some in split(values).items():
            yield {"dataset": name + ending, **how, **li_figures(some), "gallery": len(photos)}


def split(by_class: Mapping[str, li_score.Values]) -> dict[str, dict[str, li_score.Values]]:
    """What each class of Li 2014 has found, of the source's ten classes ("") and of the four others ("_rest")."""
    source = {name: found for name, found in by_class.items() if name in li2014.SOURCE_CLASSES}
    return {"": source, "_rest": {name: found for name, found in by_class.items() if name not in source}}


def li_figures(by_class: Mapping[str, li_score.Values]) -> Line:
    """The Li score at K = 5 with its interval, and of how many drawings."""
    found = li_score.mean_over_classes(by_class, RESAMPLES, SEED)[li_score.KS.index(5)]
    return with_ends("li_score_at_5", found) | {"queries": sum(map(len, by_class.values()))}


def measure(names: list[str], runs: Path = RUNS) -> Iterator[Line]:
    """All lines of runs.

    Args:
        names: of recipes.
        runs: the folder that holds NAME/, the run of each.

    Raises:
        PipelineError: a run is not finished, or images are missing.
    """
    for name in names:
        row, run = Finished.open(name, runs), Run.open(runs / name)
        embed = Embedder(run, row)
        catalog = run.params.catalog
        root = resolve_path(catalog.root, run.root, "catalog.root")
        of_all = (of_sketchy(run, row, embed), *(of_li(root, side, catalog, embed) for side in li2014.SIDES))
        yield from ({"name": name, **line} for lines in of_all for line in lines)


if __name__ == "__main__":
    command(measure, "retrieval_study_framing", "hits by what is shown of drawings and photos")
