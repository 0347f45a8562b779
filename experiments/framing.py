"""How much of a drawing and of a photo the network is shown: `python -m experiments.framing NAME...`, recipes of runs.

A drawing is shown whole, or cut to a square around its ink; a photo whole, padded to a square, or also by its middle,
whichever of the two is more alike. Everything is embedded afresh by the run's networks under its own alignments.
Sketchy is measured on the classes that settings are chosen by, Li 2014 on the source's ten classes and, to choose
settings by, on the four others (`_rest`), with photos cut to the object (`li2014`) and whole (`li2014_img`). Writes
metrics/retrieval_study_framing.csv.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.study import RESAMPLES, SEED, Finished, Line, command, figures, update_table
from experiments.together import ALIGNMENTS
from pipeline_lib.data import li2014
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import FileSource, open_source, root_of
from pipeline_lib.embedding.alignment import Domain, of_kind
from pipeline_lib.embedding.images import catalog_images
from pipeline_lib.embedding.networks import open_networks
from pipeline_lib.embedding.vectors import Vectors
from pipeline_lib.evaluation import li_score
from pipeline_lib.evaluation.evaluation import with_ends
from pipeline_lib.models.device import use_threads
from pipeline_lib.run import Run

Picture = NDArray[np.uint8]
View = Callable[[Picture], Picture]
Images = Callable[[Domain], Iterator[Picture]]
Embed = Callable[[Iterable[Picture], Domain], dict[str, Vectors]]
"""From pictures to aligned unit vectors, float32[N, D], of each kind of alignment."""
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


def embedder(run: Run, row: Finished) -> Embed:
    """A run's networks and alignments, as a function of pictures and their domain."""
    use_threads(run.params.embed.threads)
    networks = open_networks(run)
    alignments = {kind: of_kind(kind, row.photos, row.sketches) for kind in ALIGNMENTS}

    @torch.inference_mode()
    def embed(images: Iterable[Picture], domain: Domain) -> dict[str, Vectors]:
        found, iterator = [], iter(images)
        while chunk := list(islice(iterator, BATCH)):
            prepared = torch.cat([networks.prepare(image) for image in chunk])
            vectors = networks.embed(prepared.contiguous(memory_format=torch.channels_last))
            found.append(vectors.float().cpu().numpy())
        raw = np.concatenate(found)
        return {kind: alignment.apply(raw, domain) for kind, alignment in alignments.items()}

    return embed


def scores_by_view(images: Images, embed: Embed, what: str) -> Iterator[tuple[dict[str, str], Vectors]]:
    """How sketches and photos are shown and aligned, and their similarities, float32[M, N]."""
    views = tqdm((whole, padded, middle), desc=what, unit="photo view")
    shown = {view: embed(map(view, images("photo")), "photo") for view in views}
    for name, view in SKETCHES.items():
        drawn = embed(map(view, images("sketch")), "sketch")
        for place, some in PHOTOS.items():
            for kind, vectors in drawn.items():
                how = {"sketches": name, "photos": place, "alignment": kind}
                yield how, np.max([vectors @ shown[each][kind].T for each in some], axis=0)


def of_sketchy(run: Run, row: Finished, embed: Embed) -> Iterator[Line]:
    """Lines of the classes that settings are chosen by."""
    catalog = read_catalog(run.catalog).set_index("image_id")
    source = open_source(run.params.catalog, run.root)
    ((dataset, part),) = row.parts(final=False).items()
    gallery, queries = row.labels(part)

    def images(domain: Domain) -> Iterator[Picture]:
        rows = catalog.loc[(gallery if domain == "photo" else queries).image_ids.tolist()].reset_index()
        return (pixels() for _, _, _, pixels in catalog_images(rows, source))

    for how, scores in scores_by_view(images, embed, dataset):
        yield {"dataset": dataset, **how, **figures(scores, gallery, queries)}


def of_li(run: Run, side: li2014.Side, embed: Embed) -> Iterator[Line]:
    """Lines of Li 2014, K = 5: of the source's ten classes and of the four others."""
    root = root_of(run.params.catalog, run.root)
    source = FileSource(root, run.params.catalog.max_pixels)
    entries = list(li2014.entries(root, side))
    ids = {domain: [entry.image_id for entry in entries if entry.domain == domain] for domain in ("photo", "sketch")}
    place = {image_id: number for some in ids.values() for number, image_id in enumerate(some)}
    name = "li2014" if side == "cropped" else "li2014_img"

    def images(domain: Domain) -> Iterator[Picture]:
        return (source.load(entry.path, domain, entry.image_id) for entry in entries if entry.domain == domain)

    ratings = li2014.read_ratings(root)
    for how, scores in scores_by_view(images, embed, name):
        values = {}
        for rated in ratings:
            part = np.ix_(*([place[image_id] for image_id in some] for some in (rated.sketches, rated.photos)))
            values[rated.class_name] = li_score.li_scores(scores[part], rated.values, np.array(rated.photos))
        for ending, some in split(values).items():
            yield {"dataset": name + ending, **how, **li_figures(some), "gallery": len(ids["photo"])}


def split(by_class: Mapping[str, li_score.Values]) -> dict[str, dict[str, li_score.Values]]:
    """What each class of Li 2014 has found, of the source's ten classes ("") and of the four others ("_rest")."""
    source = {name: found for name, found in by_class.items() if name in li2014.SOURCE_CLASSES}
    return {"": source, "_rest": {name: found for name, found in by_class.items() if name not in source}}


def li_figures(by_class: Mapping[str, li_score.Values]) -> Line:
    """The Li score at K = 5 with its interval, and of how many drawings."""
    found = li_score.mean_over_classes(by_class, RESAMPLES, SEED)[li_score.KS.index(5)]
    return with_ends("li_score_at_5", found) | {"queries": sum(map(len, by_class.values()))}


def measure(row: Finished) -> Iterator[Line]:
    """All lines of a run."""
    run = Run.open(row.photos.path.parents[1])
    embed = embedder(run, row)
    yield from of_sketchy(run, row, embed)
    for side in li2014.SIDES:
        yield from of_li(run, side, embed)


if __name__ == "__main__":
    command(__doc__, lambda names: update_table("retrieval_study_framing", names, measure))
