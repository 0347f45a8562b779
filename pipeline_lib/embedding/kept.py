"""Where finished parts of embedding tables are kept, so that an interrupted stage goes on where it stopped."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch

from pipeline_lib import params
from pipeline_lib.data.tasks import stats_path
from pipeline_lib.embedding.images import Part
from pipeline_lib.files import digest_of, digest_of_code, digest_of_file, exclusive, remove, replacing_folder
from pipeline_lib.models.device import choose_device, choose_precision
from pipeline_lib.run import params_key

CODE = ("data", "pretext", "models", "embedding", "registry.py")


class Kept:
    """A folder of parts of tables, each named by all that it depends on."""

    def __init__(self, folder: Path, key: str) -> None:
        """Parts in a folder; `key` is the digest of all that a vector depends on, but for its image."""
        self.folder = folder
        self.key = key
        self._named: set[Path] = set()

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, weights: Sequence[Path], settings: params.Params) -> Iterator[Self]:
        """Those in a folder that no other process uses meanwhile; parts that the block did not ask for go at its end.

        Args:
            folder: of parts.
            weights: files of the networks that embed.
            settings: all params; `machine` and the number of threads change no vector.
        """
        with exclusive(folder):
            device = choose_device(settings.train)
            key = digest_of(
                [digest_of_file(path) for path in weights],
                params_key(settings),
                params.fingerprint(settings.embed, {"threads"}),
                params.fingerprint(settings.catalog),
                [str(device), choose_precision(settings.embed, device), torch.__version__],
                digest_of_code(*CODE),
            )
            kept = cls(folder, key)
            yield kept
            for path in folder.iterdir():
                if path not in kept._named:
                    remove(path)

    def drop(self) -> None:
        """Nothing of it is needed any more."""
        self._named.clear()

    def shard(self, table: Path, part: Part, size: int) -> Path:
        """The file of a part of a table `system/name.parquet` of images seen at `size` px, if it is there or not."""
        path = self._place(f"{table.parent.name}-{table.stem}", [part, size])
        path = path.with_name(f"{path.name}.parquet")
        self._named |= {path, stats_path(path)}
        return path

    def made_once(self, name: str, images: Sequence[Part], make: Callable[[Path], None], out: Path) -> None:
        """Copies the files of a folder to `out`; makes the folder where it is not there yet.

        Args:
            name: of what is made.
            images: that it is made from.
            make: fills a folder.
            out: a folder, which is made if need be and keeps its other files.
        """
        place = self._place(name, images)
        self._named.add(place)
        if not place.exists():
            with replacing_folder(place) as aside:
                aside.mkdir()
                make(aside)
        shutil.copytree(place, out, dirs_exist_ok=True)

    def _place(self, name: str, images: object) -> Path:
        return self.folder / f"{name}-{digest_of(self.key, images)[:24]}"
