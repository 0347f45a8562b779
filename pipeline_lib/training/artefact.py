"""A trained network as files: `encoder.safetensors`, `start.safetensors` and the record `meta.json`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pipeline_lib import params
from pipeline_lib.data.files import replacing, write_json
from pipeline_lib.training.loop import Trained


def save_model(folder: Path, trained: Trained, settings: params.Params, summary: dict[str, Any], shards: str) -> None:
    """Writes the model's files; an older record goes first and the new one comes last, so a folder with one is whole.

    Args:
        folder: where the files go.
        trained: the encoder after training, and its start.
        settings: all params; those that made the network are recorded.
        summary: figures on held-out images, as `summarise` gives them.
        shards: digest of the patches that it was trained on.
    """
    (folder / "meta.json").unlink(missing_ok=True)
    for name, state in (("start", trained.start), ("encoder", trained.model.encoder.state_dict())):
        with replacing(folder / f"{name}.safetensors") as aside:
            save_file({key: value.contiguous() for key, value in state.items()}, aside)
    record = {
        "architecture": f"{settings.train.encoder}, fc6 {settings.train.fc6}",
        "start_weights": trained.origin,
        "training_images": trained.images,
        "data_sha256": shards,
        "accuracy": summary["accuracy"],
        "accuracy_ci95": summary["accuracy_ci95"],
        "precision": trained.precision,
        "device": trained.device,
        "python": sys.version.split()[0],
        "params": settings.model_dump(include={"edges", "patches", "train", "contrast"}),
    }
    write_json(folder / "meta.json", record)
