"""What the command line prints and draws of the photos that were found."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pipeline_lib.data.images import BadImage, square
from pipeline_lib.files import replacing
from pipeline_lib.search.engine import Hit
from pipeline_lib.search.gallery import Gallery, Pixels

TILE, GAP, CAPTION = 160, 10, 22
ACROSS = 10
PAPER, FRAME, INK = "#ffffff", "#c8c8c8", "#222222"


def as_values(hits: Sequence[Hit], gallery: Gallery) -> list[dict[str, Any]]:
    """Hits as JSON holds them: rank, score, distance, image_id, path, label."""
    return [
        {
            "rank": hit.rank,
            "score": round(hit.score, 6),
            "distance": round(hit.distance, 6),
            "image_id": gallery.image_ids[hit.row],
            "path": gallery.paths[hit.row],
            "label": gallery.label(hit.row),
        }
        for hit in hits
    ]


def as_text(hits: Sequence[Hit], gallery: Gallery) -> str:
    """One line a photo: rank, score, path, and the name where the path does not tell it."""
    lines = []
    for hit in hits:
        path, label = gallery.paths[hit.row], gallery.label(hit.row)
        named = "" if label in path else f"  ({label})"
        lines.append(f"{hit.rank:4d}  {hit.score:7.4f}  {path}{named}")
    return "\n".join(lines)


def draw_grid(queries: Sequence[tuple[Pixels, Sequence[Hit]]], gallery: Gallery) -> Image.Image:
    """Each query at the left and what was found beside it, best first, in as many lines as are needed.

    Args:
        queries: pairs of drawing (uint8[H, W, 3] or uint8[H, W]) and hits.
        gallery: of the hits.
    """
    across = min(ACROSS, max((len(hits) for _, hits in queries), default=1) or 1)
    lines = [max(1, math.ceil(len(hits) / across)) for _, hits in queries]
    step = TILE + GAP
    height = GAP + sum(count * (step + CAPTION) for count in lines)
    page = Image.new("RGB", (GAP + (across + 1) * step + GAP, height), PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    top = GAP
    for (drawing, hits), count in zip(queries, lines, strict=True):
        page.paste(square(drawing, TILE), (GAP, top))
        draw.rectangle((GAP, top, GAP + TILE - 1, top + TILE - 1), outline=INK, width=2)
        for place, hit in enumerate(hits):
            x = 2 * GAP + (place % across + 1) * step
            y = top + (place // across) * (step + CAPTION)
            try:
                page.paste(square(gallery.load(hit.row), TILE), (x, y))
            except BadImage:
                draw.text((x + 8, y + 8), "can't be read any more", fill=INK, font=font)
            draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), outline=FRAME)
            draw.text((x, y + TILE + 3), f"{hit.rank}   {hit.score:.3f}", fill=INK, font=font)
        top += count * (step + CAPTION)
    return page


def save_grid(path: Path, page: Image.Image) -> None:
    """Writes a grid as PNG, whole or not at all."""
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    with replacing(path) as aside:
        aside.write_bytes(buffer.getvalue())
