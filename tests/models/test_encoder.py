from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.models.context import ContextNet, LateFusion
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.pretext.batches import pair_table
from pipeline_lib.registry import ENCODERS

Make = Callable[..., params.Params]
SOURCE = {"train.fc6": 4096, "train.fc6_grid": 0}  # the widths of the source: fc6 over the places of a patch


def test_the_alexnet_layout_computes_what_torchvision_computes(make_params: Make) -> None:
    from torchvision.models import alexnet

    reference = alexnet(weights=None).eval()
    settings = make_params(
        {**SOURCE, "train.batch_norm": False, "train.pretrained": "fc6", "train.weights": "torchvision"}
    ).train
    encoder = Encoder(settings, 96).eval()
    for number, index in enumerate((0, 3, 6, 8, 10), start=1):
        reference.features[index].load_state_dict(encoder.conv(number).state_dict())
    reference.classifier[1].load_state_dict(encoder.fc6.state_dict())
    images = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(encoder.pool5(images), reference.features(images))
    expected = reference.classifier[1](reference.avgpool(reference.features(images)).flatten(1))
    torch.testing.assert_close(encoder(images), expected)


def test_the_vgg16_layout_computes_what_torchvision_computes(make_params: Make) -> None:
    from torchvision.models import vgg16

    reference = vgg16(weights=None).eval()
    settings = make_params({"train.encoder": "vgg16", "train.batch_norm": False, "train.pretrained": "none"}).train
    encoder = Encoder(settings, 96).eval()
    convs = [module for module in reference.features if isinstance(module, nn.Conv2d)]
    for number, conv in enumerate(convs, start=1):
        conv.load_state_dict(encoder.conv(number).state_dict())
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(encoder.pool5(images), reference.features(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "channels"), [("googlenet", 1024), ("resnet18", 512), ("vgg16", 512), ("efficientnet_lite0", 320)]
)
def test_deeper_trunks_end_in_fc6_over_three_by_three_places(make_params: Make, name: str, channels: int) -> None:
    settings = make_params({**SOURCE, "train.encoder": name, "train.pretrained": "none", "train.fc6": 32}).train
    encoder = Encoder(settings, 96).eval()
    assert encoder.fc6.in_features == channels * 9
    assert encoder(torch.randn(2, 3, 96, 96)).shape == (2, 32)
    assert encoder(torch.randn(1, 3, 160, 160)).shape == (1, 32)
    assert any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())


def test_the_doersch_layout_has_the_sizes_that_the_source_draws(make_params: Make) -> None:
    settings = make_params({**SOURCE, "train.encoder": "doersch", "train.pretrained": "none"}).train
    encoder = Encoder(settings, 96)
    shapes = [tuple(encoder.conv(number).weight.shape) for number in range(1, 6)]
    assert shapes == [(96, 3, 11, 11), (384, 96, 5, 5), (384, 384, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3)]
    assert encoder.conv(1).stride == (4, 4)
    assert encoder.conv(2).stride == (2, 2)
    assert sum(isinstance(module, nn.LocalResponseNorm) for module in encoder.modules()) == 2
    assert encoder(torch.randn(2, 3, 96, 96)).shape == (2, 4096)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_takes_images_down_to_the_side_that_the_registry_says_and_no_smaller_ones(
    make_params: Make, name: str
) -> None:
    settings = make_params({"train.encoder": name, "train.pretrained": "none", "train.fc6": 8}).train
    told = ENCODERS[name].smallest_side
    smallest = max(told, 16)  # params allow no smaller patch
    assert Encoder(settings, smallest).eval()(torch.zeros(1, 3, smallest, smallest)).shape == (1, 8)
    if told > 1:
        with pytest.raises(RuntimeError, match="too small"):
            Encoder(settings, told - 1)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_map_before_the_last_is_averaged_to_its_places(make_params: Make, name: str) -> None:
    settings = make_params({"train.encoder": name, "train.pretrained": "none", "train.fc6": 8}).train
    encoder = Encoder(settings, 96).eval()
    images = torch.randn(2, 3, 96, 128)
    before, last = encoder.maps(images)
    torch.testing.assert_close(last, encoder.pool5(images))
    assert before.shape[2:] == last.shape[2:]
    torch.testing.assert_close(encoder.read(last), encoder(images))


@pytest.mark.parametrize("size", [64, 96, 160, 224])
def test_a_grid_of_its_own_meets_inputs_of_every_size(make_params: Make, size: int) -> None:
    encoder = Encoder(make_params({"train.fc6": 16, "train.fc6_grid": 4}).train, 96).eval()
    assert encoder.fc6.in_features == 256 * 4 * 4
    assert encoder(torch.randn(1, 3, size, size)).shape == (1, 16)


def test_batch_norm_follows_every_convolution_and_fc6_or_none(make_params: Make) -> None:
    with_norm = Encoder(make_params().train, 96)
    kinds = [type(module) for module in with_norm.modules()]
    assert kinds.count(nn.BatchNorm2d) == 5
    assert kinds.count(nn.BatchNorm1d) == 1
    without = Encoder(make_params({"train.batch_norm": False}).train, 96)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in without.modules())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_fc6_reads_a_patch_as_it_is_and_a_larger_map_averaged_to_the_same_places(
    make_params: Make, batch_norm: bool
) -> None:
    encoder = Encoder(make_params({**SOURCE, "train.batch_norm": batch_norm}).train, 96).eval()
    patch, image = torch.randn(3, 3, 96, 96), torch.randn(2, 3, 224, 224)

    def fc6(maps: Tensor) -> Tensor:
        read: Tensor = encoder.fc6_norm(encoder.fc6(maps.flatten(1)))
        return read

    torch.testing.assert_close(encoder(patch), fc6(encoder.pool5(patch)), atol=1e-4, rtol=1e-4)
    maps = encoder.pool5(image)
    assert maps.shape[2:] == (6, 6)
    averaged = functional.avg_pool2d(maps, 3)
    torch.testing.assert_close(encoder(image), fc6(averaged), atol=1e-4, rtol=1e-4)
    assert encoder(image).shape == (2, 4096)


def test_late_fusion_equals_layers_over_the_concatenated_vectors(make_params: Make) -> None:
    settings = make_params({"train.head": [32, 16], "train.fc6": 24}).train
    fusion = LateFusion(24, settings, patches=2).eval()
    table = pair_table("cross")
    first, second = torch.from_numpy(table.first), torch.from_numpy(table.second)
    fc6 = torch.randn(5, 8, 24).relu()
    joint = torch.cat([fc6[:, first], fc6[:, second]], dim=-1)
    weight = torch.cat([half.weight for half in fusion.halves], dim=1)  # type: ignore[misc]
    hidden = functional.linear(joint, weight, fusion.halves[0].bias)  # type: ignore[arg-type]
    for layer in fusion.rest:
        hidden = layer(hidden.relu())
    torch.testing.assert_close(fusion(fc6, [first, second]), hidden, atol=1e-5, rtol=1e-4)


def test_each_patch_is_encoded_once_for_all_its_pairs(make_params: Make) -> None:
    settings = make_params({"train.fc6": 32, "train.head": [16]}).train
    table = pair_table("cross")
    model = ContextNet(settings, 96, torch.from_numpy(table.first), torch.from_numpy(table.second))
    seen: list[int] = []
    model.encoder.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    logits = model(torch.randn(3 * 8, 3, 96, 96), 3)
    assert seen == [24]
    assert logits.pair.shape == logits.one_patch.shape == (3, 24, 8)


def test_the_one_patch_head_sees_the_first_patch_only_and_never_moves_the_encoder(make_params: Make) -> None:
    settings = make_params({"train.fc6": 32, "train.head": [16], "train.dropout": 0.0}).train
    table = pair_table("cross")
    model = ContextNet(settings, 96, torch.from_numpy(table.first), torch.from_numpy(table.second)).eval()
    images = torch.randn(8, 3, 96, 96)
    before = model(images, 1)
    changed = images.clone()
    changed[7] += 1.0
    after = model(changed, 1)
    with_it_first, with_it_second = table.first == 7, table.second == 7
    assert not torch.allclose(before.pair[0, with_it_second], after.pair[0, with_it_second])
    torch.testing.assert_close(before.one_patch[0, ~with_it_first], after.one_patch[0, ~with_it_first])
    model(images, 1).one_patch.sum().backward()
    assert all(value.grad is None for value in model.encoder.parameters())
