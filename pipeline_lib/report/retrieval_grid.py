"""A grid of drawings, each with the photos that were found for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline_lib.data.images import BadImage
from pipeline_lib.data.source import Source
from pipeline_lib.errors import PipelineError
from pipeline_lib.report.canvas import FAINT, GAP, GREEN, MARGIN, WIDTH, Canvas, Pixels, note

HEAD = 62
CAPTION = 24
NO_QUERIES = (
    "No queries, so nothing to show: the catalog holds no drawing whose photo is in the gallery.\n"
    "Add drawings (catalog.sketches in params.yaml) and run `dvc repro` again."
)


@dataclass(frozen=True)
class GridRow:
    """One query."""

    sketch: Pixels  # uint8[H, W, 3] or uint8[H, W]
    photos: Sequence[Pixels]  # the photos found, best first
    meant: int | None  # which of them is the photo that was drawn (from 0); None where it is not among them
    place: int | None  # of that photo among all, from 1; None where the gallery lacks it


def choose_queries(rankings: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """At most `count` rows at random, the same for the same queries and seed, whatever their order."""
    ordered = rankings.sort_values("image_id", ignore_index=True)
    chosen = np.random.default_rng(seed).permutation(len(ordered))[:count]
    return ordered.iloc[chosen]


def grid_rows(rankings: pd.DataFrame, catalog: pd.DataFrame, source: Source, neighbours: int) -> list[GridRow]:
    """Loads the images of some queries and of at most `neighbours` photos that were found for each.

    Args:
        rankings: columns image_id, neighbours (image_ids, best first) and place (from 1, missing for none).
        catalog: rows as in `schemas.CATALOG`.
        source: where the images are read.
        neighbours: photos a row at most.

    Raises:
        PipelineError: an image is not in the catalog or can't be read any more.
    """
    entries = catalog.set_index("image_id")

    def load(image_id: str) -> Pixels:
        try:
            entry = entries.loc[image_id]
            return source.load(str(entry["path"]), str(entry["domain"]), image_id)
        except KeyError as failure:
            raise PipelineError(
                f"{image_id} is in rankings.parquet but not in catalog.parquet; run `dvc repro` again"
            ) from failure
        except BadImage as failure:
            raise PipelineError(f"{entry['path']}: {failure}; run `dvc repro` again") from failure

    rows = []
    for query, found, place in zip(rankings["image_id"], rankings["neighbours"], rankings["place"], strict=True):
        shown = [str(name) for name in found[:neighbours]]
        # A query whose photo is unknown has no entry to look up, and none can be framed.
        meant = str(entries["instance_id"].get(query, ""))
        sketch, photos = load(str(query)), [load(name) for name in shown]
        at = shown.index(meant) if meant in shown else None
        rows.append(GridRow(sketch, photos, at, None if pd.isna(place) else int(place)))
    return rows


def retrieval_grid(rows: Sequence[GridRow], *, gallery: int) -> Pixels:
    """Draws the grid: one row for each query, the drawing first, the photo that was drawn framed in green.

    Args:
        rows: the queries.
        gallery: how many photos were searched.

    Returns:
        uint8[H, WIDTH, 3], RGB; without any query, a note that says so.
    """
    if not rows:
        return note(NO_QUERIES)
    columns = max(len(row.photos) for row in rows)
    # The drawing stands apart by two more gaps.
    side = min(200, (WIDTH - 2 * MARGIN - (columns + 2) * GAP) // (columns + 1))
    step = side + CAPTION + GAP
    canvas = Canvas(WIDTH, HEAD + len(rows) * step + MARGIN)
    first = MARGIN + side + 3 * GAP
    noun = "photo" if gallery == 1 else "photos"
    canvas.text("drawing", MARGIN, 12, size=17)
    canvas.text(f"nearest of {gallery:,} {noun}, best first", first, 12, size=17)
    canvas.text("green frame: the photo that was drawn", WIDTH - MARGIN, 14, colour=GREEN, anchor="ra")
    for column in range(columns):
        x = first + column * (side + GAP) + side / 2
        canvas.text(str(column + 1), x, HEAD - 22, colour=FAINT, anchor="ma")
    for number, row in enumerate(rows):
        y = HEAD + number * step
        canvas.tile(row.sketch, MARGIN, y, side)
        caption = "no photo of it" if row.place is None else f"found at {row.place:,}"
        canvas.text(caption, MARGIN + side / 2, y + side + 4, size=14, colour=FAINT, anchor="ma")
        for column, photo in enumerate(row.photos):
            x = first + column * (side + GAP)
            canvas.tile(photo, x, y, side)
        if row.meant is not None:
            # Last, so that no neighbour covers its frame.
            canvas.tile(row.photos[row.meant], first + row.meant * (side + GAP), y, side, GREEN)
    return canvas.pixels()
