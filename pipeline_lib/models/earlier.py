"""What networks were trained with before params.yaml had the keys that say so; their records lack these keys."""

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
CONTRAST: dict[str, Any] = {"spotlight": 0.0}
"""Of section `contrast`: edges of the whole view."""
SECTIONS: dict[str, dict[str, Any]] = {"train": TRAIN, "contrast": CONTRAST}
"""Per section of params.yaml."""
