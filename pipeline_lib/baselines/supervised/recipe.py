"""Every knob of a supervised network; its values are part of the system's row."""

from typing import Literal

from pydantic import Field

from pipeline_lib.params import Section

Loss = Literal["contrastive", "triplet"]
Start = Literal["imagenet", "context", "none"]


class Recipe(Section):
    """How one network is built and trained."""

    loss: Loss  # on pairs (`training.py`)
    # `imagenet`: the pipeline's network before its first step (pretrained convolutions, untrained fc6); `context`:
    # the same network after context prediction; `none`: random weights.
    start: Start
    # one branch for both domains; else each has weights of its own (the paper's heterogeneous network).
    shared: bool = True
    # of an encoder that starts from random weights; else that of the pipeline's network.
    layout: Literal["alexnet", "vgg16", "googlenet", "resnet18"] = "alexnet"
    image_size: int = Field(default=128, ge=64, le=512)  # px of the square that images are scaled to
    embedding: int = Field(default=256, ge=2, le=4096)  # numbers per vector
    margin: float = Field(gt=0.0, le=2.0)  # of the loss, in distances between unit vectors, 0..2
    class_weight: float = Field(default=1.0, ge=0.0)  # of the classification loss beside the pair loss
    epochs: int = Field(default=12, ge=1)  # each shows every photo once
    photos: int = Field(default=20, ge=2)  # per batch
    sketches_each: int = Field(default=3, ge=1)  # of every photo in a batch
    # photos of one class that a batch holds together, where there are as many, as hard negatives.
    same_class: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=0.02, gt=0.0)  # peak of a linear warm-up followed by a cosine to 0
    # factor on the rate of layers that do not start from random weights.
    pretrained_rate: float = Field(default=0.25, ge=0.0, le=1.0)
    warmup: float = Field(default=0.1, ge=0.0, lt=1.0)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0005, ge=0.0)
    # largest shift of an image, px; a photo and its sketches are flipped together.
    shift: int = Field(default=6, ge=0, le=64)
    seed: int = Field(default=0, ge=0)  # of weights, order and augmentation
    checkpoint_seconds: float = Field(default=30.0, ge=0.0)
