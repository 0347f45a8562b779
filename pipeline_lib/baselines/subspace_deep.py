"""Cross-modal subspace learning (Xu et al. 2018) on deep features, pool5 of the frozen AlexNet: seven methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline_lib.baselines.alexnet import FrozenAlexNet
from pipeline_lib.baselines.subspace.choose import METHODS
from pipeline_lib.baselines.subspace.system import SubspaceSystem


@dataclass(frozen=True)
class SubspaceOfAlexNet(SubspaceSystem):
    """A method on pool5 of the AlexNet that was trained on ImageNet's labels and is not trained here."""

    code: ClassVar[tuple[str, ...]] = (*SubspaceSystem.code, *FrozenAlexNet.code, "baselines/alexnet.py")

    @property
    def base(self) -> FrozenAlexNet:
        """The frozen network."""
        return FrozenAlexNet("alexnet_pool5", "imagenet", "pool5", processes=1)

    @property
    def stored(self) -> FrozenAlexNet:
        """The row of the same network."""
        return self.base


SYSTEMS = tuple(
    SubspaceOfAlexNet(f"{name}_alexnet", method.supervision, paired=True, forms=("none",), processes=1, method=name)
    for name, method in METHODS.items()
)
