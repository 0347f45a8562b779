"""The two files of an index folder; apart from what reads them, since that needs FAISS."""

from __future__ import annotations

from typing import Final

INDEX_NAME: Final = "photos.faiss"
ROWS_NAME: Final = "photos.parquet"
