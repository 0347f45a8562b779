"""From prepared images to vectors: sizes, layers and networks that are joined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.embedding.networks import Networks, fc6_of, parts_of, pool5_of
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.device import has_bf16
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.inputs import prepare
from pipeline_lib.models.saved import LoadedEncoder
from tests.conftest import scene

Make = Callable[..., params.Params]
SMALL = {"train.fc6": 12, "train.pretrained": "none", "train.device": "cpu"}


def network(settings: params.Params, seed: int = 0) -> LoadedEncoder:
    """An untrained network."""
    torch.manual_seed(seed)
    encoder = Encoder(settings.train, settings.patches.size).eval()
    return LoadedEncoder(encoder, settings, {}, torch.device("cpu"))


@pytest.fixture
def loaded(make_params: Make) -> LoadedEncoder:
    return network(make_params(SMALL))


def test_one_layer_at_one_size_is_what_the_encoder_says(loaded: LoadedEncoder, make_params: Make) -> None:
    image = torch.randn(1, 3, 160, 160)
    found = fc6_of(loaded, make_params({"embed.image_size": 160}).embed)(image)
    torch.testing.assert_close(found, loaded.encoder(image), rtol=1e-4, atol=1e-4)
    assert pool5_of(loaded)(image).shape == (1, 256 * 4 * 4)


def test_the_vectors_of_several_sizes_are_joined_each_with_the_same_length(
    loaded: LoadedEncoder, make_params: Make
) -> None:
    settings = make_params({"embed.image_size": [96, 160]}).embed
    assert (settings.sizes, settings.largest) == ([96, 160], 160)
    image = prepare(scene(0), settings.largest, loaded.train)
    with torch.inference_mode():
        joined = fc6_of(loaded, settings)(image)
        large = fc6_of(loaded, make_params({"embed.image_size": 160}).embed)(image)
        small = fc6_of(loaded, make_params({"embed.image_size": 96}).embed)(prepare(scene(0), 96, loaded.train))
    assert joined.shape == (1, 24)
    torch.testing.assert_close(joined[:, 12:], functional.normalize(large))
    # The smaller image is made from the larger one in place of the original: nearly the same.
    assert float(functional.cosine_similarity(joined[:, :12], small)) > 0.98
    torch.testing.assert_close(joined[:, :12].norm(), torch.tensor(1.0))


def test_the_last_map_joins_fc6(loaded: LoadedEncoder, make_params: Make) -> None:
    image = prepare(scene(0), 160, loaded.train)
    with torch.inference_mode():
        joined = fc6_of(loaded, make_params({"embed.image_size": 160, "embed.layers": "fc6+pool5"}).embed)(image)
        fc6 = fc6_of(loaded, make_params({"embed.image_size": 160}).embed)(image)
        torch.testing.assert_close(joined[:, :12], functional.normalize(fc6))
        torch.testing.assert_close(joined[:, 12:], functional.normalize(pool5_of(loaded)(image)))


def test_half_the_bits_of_the_products_hardly_move_a_vector(loaded: LoadedEncoder, make_params: Make) -> None:
    image = prepare(scene(0), 160, loaded.train)
    with torch.inference_mode():
        whole, half = (fc6_of(loaded, make_params({"embed.precision": name}).embed)(image) for name in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert not torch.equal(whole, half)
    assert float(functional.cosine_similarity(whole, half)) > 0.999


def test_left_to_itself_a_vector_has_half_the_bits_where_the_processor_has_such_products(
    loaded: LoadedEncoder, make_params: Make
) -> None:
    image = prepare(scene(0), 160, loaded.train)
    expected = "bf16" if has_bf16(loaded.device) else "fp32"
    with torch.inference_mode():
        own, told = (fc6_of(loaded, make_params({"embed.precision": name}).embed)(image) for name in ("auto", expected))
    assert torch.equal(own, told)


def test_layers_are_parts_of_their_own_where_they_are_aligned_apart(loaded: LoadedEncoder, make_params: Make) -> None:
    image = prepare(scene(0), 160, loaded.train)
    sizes = {"embed.image_size": [96, 160], "embed.layers": "fc6+pool5+conv4"}
    with torch.inference_mode():
        (whole,) = parts_of(loaded, make_params(sizes).embed)(image)
        fc6, pool5, conv4 = parts_of(loaded, make_params({**sizes, "embed.apart": True}).embed)(image)
        # In AlexNet conv4 has as many channels as pool5, and is averaged to as many places: 2 x 2 and 4 x 4.
        assert (fc6.shape[1], pool5.shape[1], conv4.shape[1]) == (2 * 12, 256 * (4 + 16), 256 * (4 + 16))
        # The same numbers, in another order: there the layers of a size stand together.
        torch.testing.assert_close(whole.sort().values, torch.cat([fc6, pool5, conv4], dim=1).sort().values)
        assert float(whole.norm() ** 2) == pytest.approx(6)
        before, last = loaded.encoder.maps(image)
        torch.testing.assert_close(last, loaded.encoder.pool5(image))
        assert before.shape == last.shape


def test_mirror_images_follow_where_facing_counts(loaded: LoadedEncoder, make_params: Make) -> None:
    image = prepare(scene(0), 160, loaded.train)
    layers = {"embed.image_size": 160, "embed.layers": "fc6+pool5", "embed.apart": True}
    plain, facing = (
        Networks((replace(loaded, params=make_params({**SMALL, **layers, "embed.facing": weight})),))
        for weight in (0.0, 2.0)
    )
    with torch.inference_mode():
        own, other = np.hsplit(facing.embed(image).numpy(), 2)
        np.testing.assert_allclose(own, plain.embed(image), rtol=1e-5)
        np.testing.assert_allclose(other, plain.embed(image.flip(-1)), rtol=1e-5)
    assert facing.widths() == plain.widths() == (12, own.shape[1] - 12)
    assert not np.allclose(own, other)


def test_networks_join_their_vectors_each_as_its_own_params_say(make_params: Make) -> None:
    first = network(make_params({**SMALL, "embed.image_size": 96}))
    second = network(make_params({**SMALL, "train.fc6": 16, "embed.image_size": 160, "embed.layers": "fc6+pool5"}), 1)
    both = Networks((first, second))
    assert (both.own, both.size, both.batch) == (first, 160, first.params.embed.batch)
    image = both.prepare(scene(0))
    with torch.inference_mode():
        parts = [fc6_of(member, member.params.embed)(image) for member in both.members]
        assert both.widths() == (12, 16 + 256 * 4 * 4)
        torch.testing.assert_close(both.embed(image), torch.cat([functional.normalize(part) for part in parts], dim=1))
        # Of one network nothing is joined, and the vector keeps its length.
        alone = Networks((first,))
        assert alone.widths() == ()
        small = alone.prepare(scene(0))
        torch.testing.assert_close(alone.embed(small), fc6_of(first, first.params.embed)(small))


@pytest.mark.parametrize(("key", "value"), [("train.patch_norm", True), ("train.color", "grey")])
def test_networks_that_need_images_prepared_in_different_ways_are_refused(
    make_params: Make, key: str, value: object
) -> None:
    members = (network(make_params(SMALL)), network(make_params({**SMALL, key: value})))
    with pytest.raises(PipelineError, match=r"embed\.beside: .*train\.color or train\.patch_norm"):
        Networks(members)
    # Whole images keep their colours under `drop`, which is for training alone.
    Networks((network(make_params(SMALL)), network(make_params({**SMALL, "train.color": "drop"}))))


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({}, "none"),
        ({"train.objectives.teacher": 1.0}, "imagenet"),
        ({"train.pretrained": "conv1"}, "imagenet"),
        ({"train.objectives.teacher": 1.0, "train.teacher": "timm:resnet10t"}, "as timm tells"),
    ],
)
def test_labels_come_in_by_start_weights_or_a_teacher_of_any_member(
    loaded: LoadedEncoder, make_params: Make, changes: dict[str, object], seen: str
) -> None:
    assert Networks((loaded,)).labels() == "none"
    assert Networks((loaded, network(make_params({**SMALL, **changes})))).labels() == seen
