"""What the server may use; none of it changes what is found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Limits of the server.

    Attributes:
        threads: of the network, and of FAISS.
        batch: queries that are embedded together at most.
        queue: queries that may wait beside them; further ones are answered with 503.
        upload_bytes: size of an uploaded picture at most.
        upload_pixels: its pixels at most.
        thumbnail: longer side of a small picture, px.
        cache_bytes: memory for small pictures and edge maps.
    """

    threads: int = 1
    batch: int = 16
    queue: int = 64
    upload_bytes: int = 10_000_000
    upload_pixels: int = 30_000_000
    thumbnail: int = 192
    cache_bytes: int = 100_000_000
