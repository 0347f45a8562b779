"""Cross-modal subspace learning (Xu et al. 2018): seven methods on HOG of edges, and on pool5 of frozen AlexNet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from pipeline_lib.baselines.alexnet import SYSTEMS as ALEXNET
from pipeline_lib.baselines.embedding import BATCH, Inputs, from_pairs, from_rows
from pipeline_lib.baselines.hog import SYSTEMS as HOG
from pipeline_lib.baselines.run import pretext_sample
from pipeline_lib.baselines.subspace.choose import DIMENSIONS, METHODS, Chosen, Examples, choose
from pipeline_lib.baselines.subspace.projection import Projections, Reduction, Side
from pipeline_lib.baselines.system import (
    Benchmark,
    Domain,
    Embedder,
    Image,
    ProjectedSystem,
    Projector,
    Training,
    Vectors,
    VectorSystem,
)
from pipeline_lib.embedding.alignment import normalise
from pipeline_lib.embedding.vectors import Labels, batched
from pipeline_lib.files import digest_of, replacing, write_json
from pipeline_lib.params import Params

PROJECTIONS = "projections.safetensors"
CHOSEN = "chosen.json"

# The methods of one process learn from the same vectors, which take longer to make than to learn from.
_made: dict[str, tuple[Examples, Reduction]] = {}


@dataclass(frozen=True)
class Subspace(ProjectedSystem):
    """Projects the vectors of another row into the space that a method learned."""

    base: VectorSystem = field(kw_only=True)  # the row
    method: str = field(kw_only=True)  # one of `choose.METHODS`

    @property
    def stored(self) -> VectorSystem:
        """The row."""
        return self.base

    def inapplicable(self, benchmark: Benchmark) -> str:
        """It learns from pairs, or what the base asks for."""
        if not len(benchmark.training.photos):
            return "no training part: every drawn picture is searched"
        return self.base.inapplicable(benchmark)

    def fit(self, training: Training, folder: Path) -> None:
        """Embeds training images, reduces them, chooses settings; see `choose`."""
        # The base gets a folder of its own, apart from this system's files.
        inner = folder / "base"
        inner.mkdir(exist_ok=True)
        self.base.fit(training, inner)
        examples, reduction = self._examples(training, inner)
        chosen = choose(METHODS[self.method], examples, reduction, self.name)
        whole = _through(reduction, chosen)
        arrays = {
            f"{name}.{part}": np.ascontiguousarray(values, np.float32)
            for name, side in (("photo", whole.photo), ("sketch", whole.sketch))
            for part, values in (("mean", side.mean), ("weights", side.weights))
        }
        with replacing(folder / PROJECTIONS) as aside:
            save_file(arrays, str(aside))
        record = {
            "method": self.method,
            "dimensions": chosen.dimensions,
            "settings": chosen.settings,
            "reciprocal_rank_held_back": round(chosen.reciprocal_rank, 6),
            "settings_tried": chosen.tried,
            "photos": len(training.photos),
            "sketches": len(training.sketches),
        }
        write_json(folder / CHOSEN, record)

    def embedder(self, folder: Path, settings: Params) -> Embedder:
        """The base's vectors, projected."""
        inner, project = self.base.embedder(folder / "base", settings), self.projector(folder)

        def embed(images: Sequence[Image], domain: Domain) -> Vectors:
            return project(inner(images, domain), domain)

        return embed

    def projector(self, folder: Path) -> Projector:
        """L2-normalises, centres and projects."""
        arrays = load_file(str(folder / PROJECTIONS))
        sides = (Side(arrays[f"{name}.mean"], arrays[f"{name}.weights"]) for name in ("photo", "sketch"))
        projections = Projections(*sides)

        def project(vectors: Vectors, domain: Domain) -> Vectors:
            return projections.apply(normalise(vectors), domain)

        return project

    def _examples(self, training: Training, inner: Path) -> tuple[Examples, Reduction]:
        key = digest_of(
            repr(self.base), training.name, training.photos["image_id"].tolist(), training.sketches["image_id"].tolist()
        )
        if key not in _made:
            # One base at a time: its vectors may fill much of the memory.
            _made.clear()
            embed = self.base.embedder(inner, training.run.params)
            chosen = pretext_sample(training.catalog)
            rows = {"photos": training.photos, "sketches": training.sketches}
            found = {name: _vectors(from_rows(frame, training.source), embed, name) for name, frame in rows.items()}
            unlabelled = [
                _vectors(from_pairs(training.run.pairs, column, chosen), embed, column) for column in ("photo", "edges")
            ]
            examples = Examples(
                found["photos"], _labels(training.photos), found["sketches"], _labels(training.sketches)
            )
            reduction = Reduction.fit(
                np.vstack([unlabelled[0], found["photos"]]),
                np.vstack([unlabelled[1], found["sketches"]]),
                DIMENSIONS[-1],
            )
            _made[key] = examples, reduction
        return _made[key]


def _vectors(inputs: Iterable[Inputs], embed: Embedder, name: str) -> Vectors:
    parts = [
        embed(images, given.domain)
        for given in tqdm(list(inputs), desc=f"learn from {name}", unit="shard", mininterval=1.0)
        for images in batched(given, BATCH)
    ]
    return np.concatenate(parts)


def _labels(frame: pd.DataFrame) -> Labels:
    return Labels.of(frame["image_id"], frame["class_name"], frame["instance_id"])


def _through(reduction: Reduction, chosen: Chosen) -> Projections:
    """PCA and projection as one linear map: ((x - m) P - n) W = (x - m - P n) P W, as P's columns are orthonormal."""
    sides = []
    for first, second in (
        (reduction.photo, chosen.projections.photo),
        (reduction.sketch, chosen.projections.sketch),
    ):
        basis = first.weights[:, : chosen.dimensions]
        sides.append(Side(first.mean + basis @ second.mean, basis @ second.weights))
    return Projections(*sides)


SYSTEMS = tuple(
    Subspace(f"{name}_{features}", method.supervision, paired=True, forms=("none",), base=row, method=name)
    for features, row in (("alexnet", ALEXNET[0]), ("hog", HOG[0]))
    for name, method in METHODS.items()
)
