"""A trained network as files: `encoder.safetensors`, `start.safetensors` (before the first step), `meta.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file, read_sealed, replacing, write_sealed
from pipeline_lib.models.device import choose_device
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.folding import folded
from pipeline_lib.params import Params, Train
from pipeline_lib.run import META, SECTIONS, WEIGHTS, params_key

START = "start.safetensors"


def save_model(
    folder: Path, trained: Mapping[str, Tensor], start: Mapping[str, Tensor], params: Params, record: dict[str, Any]
) -> None:
    """Writes a network. An older record goes first and the new one comes last, so a folder that has one is whole.

    Args:
        folder: where the files go.
        trained: state of the encoder.
        start: its state before the first step.
        params: that it was trained with.
        record: what else `meta.json` tells.
    """
    (folder / META).unlink(missing_ok=True)
    for name, state in ((START, start), (WEIGHTS, trained)):
        with replacing(folder / name) as aside:
            save_file({key: value.contiguous() for key, value in state.items()}, aside)
    digests = {name: digest_of_file(folder / name) for name in (START, WEIGHTS)}
    write_sealed(folder / META, {**record, "params_sha256": params_key(params), "files": digests})


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder in evaluation mode, the params that it was trained with, and the content of `meta.json`."""

    encoder: Encoder
    params: Params
    meta: dict[str, Any]
    device: torch.device

    @property
    def train(self) -> Train:
        """Section `train` of its params."""
        return self.params.train


def load_encoder(folder: Path, params: Params, weights: str = WEIGHTS, *, fold: bool = True) -> LoadedEncoder:
    """Loads an encoder that the train stage wrote, to embed with it.

    Args:
        folder: the run's model.
        params: of the run.
        weights: `encoder.safetensors` (trained) or `start.safetensors` (before the first step).
        fold: BatchNorm is folded away; False leaves it, for a network that is trained on.

    Raises:
        PipelineError: a file is missing or damaged, or the network was trained with other params.
    """
    meta = read_sealed(folder / META)
    if not isinstance(meta, dict) or meta.get("params_sha256") != params_key(params):
        raise PipelineError(
            f"{folder / META}: this network was trained with other params ({', '.join(SECTIONS)}); run `dvc repro`"
        )
    recorded = meta.get("files", {}).get(weights)  # older records have none
    if recorded and (folder / weights).exists() and digest_of_file(folder / weights) != recorded:
        raise PipelineError(f"{folder / weights}: is damaged, or was changed since; run `dvc repro train` again")
    encoder = Encoder(params.train, params.patches.size)
    try:
        encoder.load_state_dict(load_file(folder / weights))
    except (OSError, RuntimeError, SafetensorError) as failure:
        raise PipelineError(f"{folder / weights}: can't be used ({failure}); run `dvc repro train` again") from failure
    encoder.eval()
    if fold:
        folded(encoder)
    # A network that was trained on CUDA may be used on a machine that has none.
    train = params.train
    device = choose_device(train.model_copy(update={"device": "cpu" if train.device == "cpu" else "auto"}))
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedEncoder(encoder, params, meta, device)
