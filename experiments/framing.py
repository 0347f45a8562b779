"""How much of a drawing and of a photo the network is shown: `python -m experiments.framing NAME...`, study rows.

A drawing is shown whole, or cut to a square around its ink; a photo whole, padded to a square, or also by its middle,
whichever of the two is more alike. Everything is embedded afresh by the row's networks under its own alignments.
Sketchy is measured on the classes that settings are chosen by, Li 2014 on the source's ten classes and, by which
settings may be chosen, on the four others (`_rest`), with photos cut to the object (`li2014`) and whole (`li2014_img`).
Writes metrics/retrieval_study_framing.csv; rows of other names stay.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.cell import PLACE
from experiments.grid import ROOT, read_grid
from experiments.judge import RESAMPLES, SEED, figures, parts
from experiments.study import STUDY
from experiments.together import ALIGNMENTS
from pipeline_lib.baselines.embedding import batched
from pipeline_lib.data import li2014_benchmark
from pipeline_lib.data.files import resolve_path
from pipeline_lib.data.schemas import read_catalog
from pipeline_lib.data.source import Entry, FileSource, open_source
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.device import use_threads
from pipeline_lib.params import Params
from pipeline_lib.retrieval import li_score
from pipeline_lib.retrieval.alignment import Alignment, Domain, Kind
from pipeline_lib.retrieval.comparison import write_csv
from pipeline_lib.retrieval.encode import catalog_images, prepare
from pipeline_lib.retrieval.evaluation import rounded
from pipeline_lib.retrieval.fitting import of_kind
from pipeline_lib.retrieval.networks import open_networks
from pipeline_lib.retrieval.vectors import Vectors, open_retrieval

Picture = NDArray[np.uint8]
View = Callable[[Picture], Picture]
TABLE = Path("metrics/retrieval_study_framing.csv")
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
    """A row's networks and alignments."""

    def __init__(self, data: Path, settings: Params) -> None:
        use_threads(settings.embed.threads)
        self.networks = open_networks(data / "model", settings.embed, data / "embeddings")
        # The one that counts hubs less holds what the other needs.
        fitted = of_kind("pretext_csls", *open_retrieval(data / "embeddings"))
        self.alignments: dict[Kind, Alignment] = {kind: fitted.as_kind(kind) for kind in ALIGNMENTS}

    @torch.inference_mode()
    def __call__(self, images: Iterable[Picture], domain: Domain) -> dict[Kind, Vectors]:
        """Aligned unit vectors, float32[N, D], of each kind."""
        parts = []
        for chunk in batched(images, BATCH):
            prepared = torch.cat([prepare(image, self.networks.size, self.networks.own.train) for image in chunk])
            parts.append(
                self.networks.embed(prepared.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
            )
        raw = np.concatenate(parts)
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


def of_sketchy(data: Path, settings: Params, embed: Embedder) -> Iterator[dict[str, Any]]:
    """Rows of the classes that settings are chosen by."""
    catalog = read_catalog(data / "catalog.parquet").set_index("image_id")
    source = open_source(settings.catalog, ROOT)
    photos, sketches = (table.labels for table in open_retrieval(data / "embeddings"))
    ((dataset, (gallery, queries)),) = parts(photos, sketches, final=False).items()
    sides = photos.take(gallery), sketches.take(queries)

    def images(side: int) -> Iterator[Picture]:
        rows = catalog.loc[sides[side].image_ids.tolist()].reset_index()
        return (pixels for _, _, _, pixels in catalog_images(rows, source))

    for how, scores in scores_by_view(lambda: images(0), lambda: images(1), embed, dataset):
        yield {"dataset": dataset, **how, **figures(scores, *sides)}


def of_li(root: Path, side: li2014_benchmark.Side, settings: Params, embed: Embedder) -> Iterator[dict[str, Any]]:
    """Rows of Li 2014, K = 5: of the source's ten classes and of the four others."""
    source = FileSource(root, settings.catalog.max_pixels)
    entries = list(li2014_benchmark.entries(root, side))
    photos, sketches = ([e for e in entries if (e.domain == "photo") is kind] for kind in (True, False))
    place = {entry.image_id: number for some in (photos, sketches) for number, entry in enumerate(some)}
    name = "li2014" if side == "cropped" else "li2014_img"

    def images(some: list[Entry]) -> Iterator[Picture]:
        return (source.load(entry.path, entry.domain, entry.image_id) for entry in some)

    ratings = li2014_benchmark.read_ratings(root)
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
    source = {name: found for name, found in by_class.items() if name in li2014_benchmark.SOURCE_CLASSES}
    return {"": source, "_rest": {name: found for name, found in by_class.items() if name not in source}}


def li_figures(by_class: Mapping[str, li_score.Values]) -> dict[str, Any]:
    """The Li score at K = 5 with its interval, and of how many drawings."""
    found = li_score.mean_over_classes(by_class, RESAMPLES, SEED)[li_score.KS.index(5)]
    ends = {"li_score_at_5": found.estimate, "li_score_at_5_low": found.low, "li_score_at_5_high": found.high}
    return {key: rounded(value) for key, value in ends.items()} | {"queries": sum(map(len, by_class.values()))}


def measure(name: str) -> pd.DataFrame:
    """All rows of one row of the study.

    Raises:
        PipelineError: it does not exist, or has not been made.
    """
    data, settings = ROOT / PLACE / f"study-{name}", read_grid(STUDY).params_of(name)
    if not (data / "embeddings" / "system.json").exists():
        raise PipelineError(f"{data}: holds no embeddings; make the row first: python -m experiments.study {name}")
    embed = Embedder(data, settings)
    rows = list(of_sketchy(data, settings, embed))
    root = resolve_path(settings.catalog.root, ROOT, "catalog.root")
    for side in li2014_benchmark.SIDES:
        rows += of_li(root, side, settings, embed)
    return pd.DataFrame([{"name": name, **row} for row in rows])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="hits by what is shown of drawings and photos")
    parser.add_argument("names", nargs="+", help="finished rows of experiments/study.yaml")
    try:
        for name in parser.parse_args().names:
            found = measure(name)
            kept = pd.read_csv(ROOT / TABLE) if (ROOT / TABLE).exists() else found[:0]
            write_csv(ROOT / TABLE, pd.concat([kept[kept["name"] != name], found], ignore_index=True))
    except (PipelineError, OSError) as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
