"""Cross-modal subspace learning (Xu et al. 2018) on deep features, pool5 of the frozen AlexNet: seven methods."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_lib.baselines.alexnet import SYSTEMS as ALEXNET
from pipeline_lib.baselines.alexnet import FrozenAlexNet
from pipeline_lib.baselines.subspace.choose import METHODS
from pipeline_lib.baselines.subspace.system import SubspaceSystem


@dataclass(frozen=True)
class SubspaceOfAlexNet(SubspaceSystem):
    """A method on pool5 of the AlexNet that was trained on ImageNet's labels and is not trained here."""

    @property
    def base(self) -> FrozenAlexNet:
        """The frozen network's own row, at pool5."""
        return ALEXNET[0]

    stored = base


SYSTEMS = tuple(
    SubspaceOfAlexNet(f"{name}_alexnet", method.supervision, paired=True, forms=("none",), processes=1, method=name)
    for name, method in METHODS.items()
)
