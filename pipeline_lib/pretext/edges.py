"""Edge maps that stand in for drawings, and the aligned pairs of photo and edge map in shards.

Edge detection gives what labels would otherwise have to: a drawing-like image aligned with its photo to the pixel.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.files import digest_of, digest_of_code, publish_folder
from pipeline_lib.data.images import BadImage, encode_jpeg, encode_png, resize_short_side
from pipeline_lib.data.schemas import PAIRS, write_rows
from pipeline_lib.data.source import open_source
from pipeline_lib.data.tasks import Stats, map_shards, reopen_bad, stats_or_raise, stats_path
from pipeline_lib.errors import PipelineError

ROW_GROUP = 64
LONGEST = np.iinfo(np.int16).max  # px: boxes of patches are int16; JPEG holds 65,500


def edge_map(image: NDArray[np.uint8], settings: params.Edges) -> NDArray[np.uint8]:
    """Canny edges (Canny 1986) of a photo, drawn like pen on paper.

    Args:
        image: uint8[H, W, 3], RGB, 0..255.
        settings: blur (sigma, px), thresholds on the L2 gradient of the 8-bit grey image, line width (px), polarity.

    Returns:
        uint8[H, W] of 0 and 255; dark lines on white unless `polarity` says otherwise.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if settings.blur > 0:
        grey = cv2.GaussianBlur(grey, (0, 0), settings.blur)
    lines = cv2.Canny(grey, settings.low, settings.high, L2gradient=True)
    if settings.line_width > 1:
        pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (settings.line_width, settings.line_width))
        lines = cv2.dilate(lines, pen)
    if settings.polarity == "dark_on_white":
        lines = cv2.bitwise_not(lines)
    return np.asarray(lines, dtype=np.uint8)


@dataclass(frozen=True)
class EdgesTask:
    """One shard of pairs: which images, from where, how."""

    path: Path
    items: tuple[tuple[str, str, str], ...]  # image_id, path, domain
    catalog: params.Catalog
    edges: params.Edges
    base: Path

    @property
    def rows(self) -> int:
        """Number of images."""
        return len(self.items)


def process_shard(task: EdgesTask) -> Stats:
    """Reads, scales and draws the edges of a task's images; writes one shard of pairs.

    Images that can't be read, or are too long for their width, are left out and listed in the stats under `bad`.
    """
    cv2.setNumThreads(1)  # the shards already keep every core busy
    source = open_source(task.catalog, task.base)
    rows, bad, seconds = [], [], {"read": 0.0, "compute": 0.0, "write": 0.0}
    for image_id, path, domain in task.items:
        started = time.perf_counter()
        try:
            image = source.load(path, domain, image_id)
        except (BadImage, OSError) as failure:
            bad.append(f"{path}: {failure}")
            continue
        read = time.perf_counter()
        height, width = image.shape[:2]
        # Judged before it is scaled: a line of 1 x 50,000 px would take 10 GB.
        if max(width, height) * task.edges.short_side / min(width, height) > LONGEST:
            bad.append(f"{path}: {width} x {height} px is too long and narrow for edges.short_side")
            continue
        image = resize_short_side(image, task.edges.short_side)
        lines = edge_map(image, task.edges)
        rows.append(
            {
                "image_id": image_id,
                "photo": encode_jpeg(image, task.edges.jpeg_quality),
                "edges": encode_png(lines),
            }
        )
        seconds["read"] += read - started
        seconds["compute"] += time.perf_counter() - read
    started = time.perf_counter()
    write_rows(task.path, rows, PAIRS, row_group=ROW_GROUP)
    seconds["write"] = time.perf_counter() - started
    return {"rows": len(rows), "bad": bad, "seconds": seconds}


def make_pairs(catalog: pd.DataFrame, settings: params.Params, base: Path, out: Path, scratch: Path) -> Stats:
    """Draws the edges of every pretext image of the catalog into shards of pairs.

    Finished shards wait in `scratch` under a key of everything they depend on, so that an interrupted run goes on.

    Args:
        catalog: rows as in `schemas.CATALOG`.
        settings: all params; `catalog` and `edges` are used.
        base: repository root, from which relative data roots resolve.
        out: the folder that gets the shards, whole or not at all.
        scratch: folder for unfinished work.

    Returns:
        Counts: images, bad (list of words), seconds by step.

    Raises:
        PipelineError: no pretext images, too many bad ones, or failed shards.
    """
    pretext = catalog[catalog["role"] == "pretext"].sort_values("image_id")
    if pretext.empty:
        raise PipelineError("the catalog has no pretext images; check catalog.root and catalog.dataset in params.yaml")
    key = digest_of(
        settings.catalog.model_dump(exclude={"workers"}),
        settings.edges.model_dump(exclude={"workers", "max_bad_fraction"}),
        list(pretext["image_id"]),
        list(pretext["content"]),
        digest_of_code("data", "pretext/edges.py"),
    )
    folder = scratch / f"edges-{key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    items = list(zip(pretext["image_id"], pretext["path"], pretext["domain"], strict=True))
    step = settings.edges.rows_per_shard
    tasks = [
        EdgesTask(
            folder / f"part-{number:05d}.parquet",
            tuple(items[start : start + step]),
            settings.catalog,
            settings.edges,
            base,
        )
        for number, start in enumerate(range(0, len(items), step))
    ]
    workers = settings.edges.workers
    outcomes = map_shards(process_shard, tasks, workers=workers, description="edges", unit="image")
    reopen_bad(outcomes)
    stats = stats_or_raise(outcomes)
    bad = [words for shard in stats for words in shard["bad"]]
    if len(bad) > settings.edges.max_bad_fraction * len(items):
        listed = "\n".join(f"  {words}" for words in bad[:10])
        raise PipelineError(
            f"{len(bad)} of {len(items)} images can't be used, above edges.max_bad_fraction "
            f"{settings.edges.max_bad_fraction}; mend them or raise it:\n{listed}"
        )
    publish_folder(folder, out)
    for task in tasks:
        stats_path(out / task.path.name).unlink(missing_ok=True)
    totals = {name: sum(shard["seconds"][name] for shard in stats) for name in ("read", "compute", "write")}
    return {"rows": len(items) - len(bad), "bad": bad, "seconds": totals}
