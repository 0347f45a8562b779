"""What networks were trained and used with before params.yaml had the keys that say so; records of then lack them."""

from __future__ import annotations

from typing import Any

TRAIN: dict[str, Any] = {
    "fc6_grid": 0,
    "context_weight": 1.0,
    "contrast_weight": 0.0,
    "keep_weight": 0.0,
    "teacher": "vgg16",
    "teacher_weight": 0.0,
    "frozen": "none",
}
"""Of section `train`: context prediction alone, fc6 over the places of a patch, every layer learns freely."""
CONTRAST: dict[str, Any] = {"spotlight": 0.0, "mirror_negatives": False}
"""Of section `contrast`: edges of the whole view, each image once a batch."""
SECTIONS: dict[str, dict[str, Any]] = {"train": TRAIN, "contrast": CONTRAST}
"""What makes a network, per section of params.yaml."""


def embed(record: dict[str, Any]) -> dict[str, Any]:
    """Section `embed` of a record, by today's keys: layers had a key for the last map alone."""
    known = dict(record)
    layers = "fc6+pool5" if known.pop("pool5", False) else "fc6"
    return {"layers": layers, "apart": False, "facing": 0.0, **known}
