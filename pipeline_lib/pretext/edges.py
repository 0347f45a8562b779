"""Edge maps that stand in for drawings, and shards of aligned pairs of photo and edge map.

Edge detection replaces labels: it gives every photo a drawing-like image, aligned with it to the pixel.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.images import BadImage, encode_jpeg, encode_png, resize_short_side
from pipeline_lib.data.schemas import PAIRS, write_rows
from pipeline_lib.data.source import open_source
from pipeline_lib.data.tasks import Stats, map_shards, publish_shards, reopen_bad, stats_or_raise
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of, digest_of_code, exclusive

if TYPE_CHECKING:  # own photos are searched without pandas
    import pandas as pd

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
    """One shard of pairs: which images, and how to read and draw them."""

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

    Images that can't be read or are too long and narrow are left out, and named in the stats under `bad`.
    """
    cv2.setNumThreads(1)  # the shards already keep every core busy
    source, side = open_source(task.catalog, task.base), task.edges.short_side
    rows, bad = [], []
    for image_id, path, domain in task.items:
        try:
            image = source.load(path, domain, image_id)
        except (BadImage, OSError) as failure:
            bad.append(f"{path}: {failure}")
            continue
        height, width = image.shape[:2]
        # Checked before scaling: 1 x 50,000 px would become 10 GB.
        if max(width, height) * side / min(width, height) > LONGEST:
            bad.append(f"{path}: {width} x {height} px is too long and narrow for edges.short_side")
            continue
        image = resize_short_side(image, side)
        photo, edges = encode_jpeg(image, task.edges.jpeg_quality), encode_png(edge_map(image, task.edges))
        rows.append({"image_id": image_id, "photo": photo, "edges": edges})
    write_rows(task.path, rows, PAIRS, row_group=ROW_GROUP)
    return {"rows": len(rows), "bad": bad}


def make_pairs(catalog: "pd.DataFrame", settings: params.Params, base: Path, out: Path, scratch: Path) -> Stats:
    """Draws the edges of every pretext image of the catalog into shards of pairs.

    Finished shards are kept in `scratch` under a key of all that they depend on, so that an interrupted run goes on.

    Args:
        catalog: rows as in `schemas.CATALOG`.
        settings: `catalog`, `edges` and `machine` are used.
        base: repository root, from which a relative `catalog.root` leads.
        out: the folder that gets the shards, whole or not at all.
        scratch: folder for unfinished work.

    Returns:
        Counts: rows (pairs), bad (a list of messages).

    Raises:
        PipelineError: no pretext images, too many bad ones, or failed shards.
    """
    pretext = catalog[catalog["role"] == "pretext"].sort_values("image_id")
    if pretext.empty:
        raise PipelineError("the catalog has no pretext images; check catalog.root and catalog.dataset in params.yaml")
    key = digest_of(
        params.fingerprint(settings.catalog),
        params.fingerprint(settings.edges, {"max_bad_fraction"}),
        list(pretext["image_id"]),
        list(pretext["content"]),
        digest_of_code("data", "pretext/edges.py"),
    )
    folder = scratch / f"edges-{key[:16]}"
    items = tuple(zip(pretext["image_id"], pretext["path"], pretext["domain"], strict=True))
    step = settings.edges.rows_per_shard
    tasks = []
    for number, start in enumerate(range(0, len(items), step)):
        path, some = folder / f"part-{number:05d}.parquet", items[start : start + step]
        tasks.append(EdgesTask(path, some, settings.catalog, settings.edges, base))
    with exclusive(folder):
        workers, ray = settings.machine.workers, settings.machine.ray
        outcomes = map_shards(process_shard, tasks, workers=workers, description="edges", unit="image", ray=ray)
        reopen_bad(outcomes)
        bad = [words for shard in stats_or_raise(outcomes) for words in shard["bad"]]
        if len(bad) > settings.edges.max_bad_fraction * len(items):
            listed = "\n".join(f"  {words}" for words in bad[:10])
            raise PipelineError(
                f"{len(bad)} of {len(items)} images can't be used, above edges.max_bad_fraction "
                f"{settings.edges.max_bad_fraction}; repair or remove them, or raise that key:\n{listed}"
            )
        publish_shards(tasks, out)
    return {"rows": len(items) - len(bad), "bad": bad}
