"""A run: a folder that explains itself. Whatever opens a model opens a run folder, and needs nothing else.

`run.json` holds the run's one name, every param, the digest of its weights and of its data, the commit and versions
that made it, and on which processor. `model/`, `embeddings/` and `index/` lie beside it, and what the pipeline made
them from: `catalog.parquet`, `pairs/`, `baselines/`.
"""

import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from pipeline_lib.errors import PipelineError
from pipeline_lib.files import LIBRARY, digest_of, digest_of_file, read_sealed, write_sealed
from pipeline_lib.params import Params, fingerprint, parse

RECORD: Final = "run.json"
WEIGHTS: Final = "encoder.safetensors"
META: Final = "meta.json"
"""In the folder `model`: what the train stage tells of the network."""
EXPORTED: Final = "encoder.onnx"
"""In the folder `model` of an exported run, in place of its weights: the network, as ONNX Runtime runs it."""
BEHIND: Final = ("embeddings/projection.safetensors", "embeddings/alignment.safetensors")
"""What lies between the network and the vectors that are compared."""
GALLERY: Final = ("embeddings/system.json", "index/photos.parquet")
"""The run's own gallery as the network made it: each of the two holds the digests of the files beside it."""
SECTIONS: Final = ("edges", "patches", "train", "contrast")
"""Sections of the params that make a network."""
SPEED: Final = ("bootstrap", "device")
"""Keys of `train` that do not: another machine may set them otherwise."""
PACKAGES: Final = ("torch", "numpy", "opencv-python", "opencv-python-headless", "pyarrow", "faiss-cpu")


@dataclass(frozen=True)
class Run:
    """A run of the pipeline."""

    folder: Path  # of its artefacts
    params: Params  # all of its params
    root: Path = LIBRARY.parent  # the repository root, from which relative paths in its params lead
    # content of `run.json`; empty while the pipeline is still making the run.
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the run, in every table."""
        return self.params.name

    @property
    def model(self) -> Path:
        """Folder of the trained network."""
        return self.folder / "model"

    @property
    def weights(self) -> Path:
        """The trained encoder."""
        return self.model / WEIGHTS

    @property
    def exported(self) -> Path:
        """The network of an exported run; other runs have none."""
        return self.model / EXPORTED

    @property
    def embeddings(self) -> Path:
        """Folder of vectors and of their alignment."""
        return self.folder / "embeddings"

    @property
    def index(self) -> Path:
        """Folder of the gallery's index."""
        return self.folder / "index"

    @property
    def catalog(self) -> Path:
        """The table of its images."""
        return self.folder / "catalog.parquet"

    @property
    def pairs(self) -> Path:
        """Folder of its pretext photos and their edge maps."""
        return self.folder / "pairs"

    @classmethod
    def open(cls, folder: Path, root: Path = LIBRARY.parent) -> Self:
        """Opens a finished run.

        Args:
            folder: that holds `run.json`.
            root: as in `Run`.

        Raises:
            PipelineError: there is no finished run, its record can't be used, or its weights are not those recorded.
        """
        path = folder / RECORD
        if not path.exists():
            raise PipelineError(
                f"{folder}: there is no finished run ({RECORD} is missing); make it with `make repro`, or with "
                "`make run RECIPE=NAME`"
            )
        record = read_sealed(path)
        if not isinstance(record, dict) or not {"params", "weights"} <= record.keys():
            raise PipelineError(f"{path}: is no record of a run; make the run again")
        run = cls(folder, parse(record["params"], str(path), complete=False), root, record)
        weights, recorded = run.weights, record["weights"]
        if "exported" in record:
            weights, recorded = run.exported, record["exported"]
        run.check({str(weights.relative_to(folder)): recorded} | record.get("files", {}))
        # Copies of a run that only lend their network have no gallery.
        run.check({name: digest for name, digest in record.get("gallery", {}).items() if (folder / name).exists()})
        return run

    def check(self, recorded: Mapping[str, str]) -> None:
        """Compares files of the run with the digests that its record holds; a PipelineError names one that differs."""
        for name, digest in recorded.items():
            found = digest_of_file(self.folder / name)
            if found != digest:
                raise PipelineError(
                    f"{self.folder / name}: its SHA-256 is {found[:12]}..., but {RECORD} says {digest[:12]}...; it has "
                    "changed since the run was made: make the run again, or fetch it again"
                )

    def digests(self, names: Iterable[str] = BEHIND) -> dict[str, str]:
        """SHA-256 of some files, by name; of those that the run has."""
        return {name: digest_of_file(self.folder / name) for name in names if (self.folder / name).exists()}

    def write_record(
        self, *, data: str, threads: dict[str, int] | None = None, likeness: dict[str, Any] | None = None
    ) -> None:
        """Writes `run.json` of a run whose model is finished.

        Args:
            data: digest of the images that it learned from.
            threads: by section how many computed; params that say 0 leave that to the machine.
            likeness: what its scores say, see `embedding.likeness`.
        """
        write_sealed(
            self.folder / RECORD,
            {
                "name": self.name,
                "params": self.params.model_dump(mode="json"),
                "weights": digest_of_file(self.weights),
                "files": self.digests(),
                "gallery": self.digests(GALLERY),
                "data": data,
                "likeness": likeness,
                "commit": commit(self.root),
                "versions": versions(),
                "threads": threads,
                "processor": processor(),
            },
        )


def params_key(params: Params) -> str:
    """Digest of the params that make a network; a key that comes later changes nothing at its default."""
    return digest_of(*(fingerprint(getattr(params, name), SPEED) for name in SECTIONS))


def commit(root: Path) -> str:
    """The commit of a tree, with a plus where its code differs; "unknown" outside of git.

    Params are not looked at: an experiment changes them, and they stand in the record.
    """
    code = ("pipeline_lib", "stages")
    try:
        found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, check=False)
        command = ["git", "diff", "--quiet", "HEAD", "--", *code]
        differs = subprocess.run(command, cwd=root, capture_output=True, check=False).returncode
    except OSError:  # git is not installed
        return "unknown"
    name = found.stdout.decode().strip()
    return f"{name}{'+' if differs else ''}" if name and not found.returncode else "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of what computes; packages that are not installed are left out."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's own name; its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
