"""Cross-modal subspace learning (Xu et al. 2018) on HOG of edges: seven methods, each a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline_lib.baselines.hog_edges import HogOnEdges
from pipeline_lib.baselines.subspace.choose import METHODS
from pipeline_lib.baselines.subspace.system import SubspaceSystem


@dataclass(frozen=True)
class SubspaceOfHog(SubspaceSystem):
    """A method on HOG of edge maps and sketches."""

    code: ClassVar[tuple[str, ...]] = (*SubspaceSystem.code, "baselines/hog.py", "baselines/hog_edges.py")

    @property
    def base(self) -> HogOnEdges:
        """HOG on edges."""
        return HogOnEdges("hog", "none")


SYSTEMS = tuple(
    SubspaceOfHog(f"{name}_hog", method.supervision, paired=True, forms=("none",), method=name)
    for name, method in METHODS.items()
)
