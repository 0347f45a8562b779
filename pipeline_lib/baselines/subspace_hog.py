"""Cross-modal subspace learning (Xu et al. 2018) on HOG of edges: seven methods, each a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.baselines.hog import SYSTEMS as HOG
from pipeline_lib.baselines.hog import HogOnEdges
from pipeline_lib.baselines.subspace.choose import METHODS
from pipeline_lib.baselines.subspace.system import SubspaceSystem
from pipeline_lib.baselines.system import Training


@dataclass(frozen=True)
class PlainHog(HogOnEdges):
    """HOG without the means of its own row: a subspace has its own."""

    def fit(self, training: Training, folder: Path) -> None:
        """Nothing is learned."""


@dataclass(frozen=True)
class SubspaceOfHog(SubspaceSystem):
    """A method on HOG of edge maps and sketches."""

    @property
    def base(self) -> PlainHog:
        """HOG on edges."""
        return PlainHog("hog", "none")

    @property
    def stored(self) -> HogOnEdges:
        """The row of the same vectors."""
        return HOG[0]


SYSTEMS = tuple(
    SubspaceOfHog(f"{name}_hog", method.supervision, paired=True, forms=("none",), method=name)
    for name, method in METHODS.items()
)
