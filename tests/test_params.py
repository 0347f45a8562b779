from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline_lib import params
from pipeline_lib.errors import PipelineError

Make = Callable[..., params.Params]


def test_the_default_params_are_valid_and_immutable(make_params: Make) -> None:
    found = make_params()
    assert found.catalog.dataset == "openmoji"
    with pytest.raises(ValueError, match="frozen"):
        found.train.epochs = 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("catalog.dataset", "imagenet"),
        ("catalog.val_fraction", 0.0),
        ("catalog.max_bad_fraction", 1.5),
        ("edges.line_width", 0),
        ("edges.jpeg_quality", 101),
        ("patches.draws", 0),
        ("train.learning_rate", -0.1),
        ("train.dropout", 1.0),
        ("train.head", []),
        ("train.head", [0]),
        ("train.head", [1024, -5]),
        ("train.epochs", "26"),
        ("train.epochs", 1.5),
        ("train.batch_norm", "yes"),
        ("train.pretrained", "conv6"),
        ("embed.image_size", 0),
        ("embed.image_size", []),
        ("embed.image_size", [160, 16]),
        ("embed.image_size", "160"),
        ("evaluate.bootstrap", 1),
        ("retrieval.alignment", "mean"),
        ("search.kind", "flat"),
        ("search.queue", 0),
        ("catalog.openmoji.query_scale", [1.2, 0.8]),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_its_key(make_params: Make, key: str, value: Any) -> None:
    with pytest.raises(PipelineError) as failure:
        make_params({key: value})
    section, leaf = key.rsplit(".", 1)
    assert section in str(failure.value)
    assert leaf in str(failure.value)


@pytest.mark.parametrize("section", [None, "train", "catalog", "retrieval"])
def test_an_unknown_key_is_an_error_that_names_it(defaults: dict[str, Any], section: str | None) -> None:
    values: dict[str, Any] = {name: dict(value) for name, value in defaults.items()}
    (values if section is None else values[section])["learning_rte"] = 1
    key = "learning_rte" if section is None else f"{section}.learning_rte"
    with pytest.raises(PipelineError, match=rf"{key}: unknown key"):
        params.parse(values)


def test_a_missing_key_is_an_error_that_names_it(defaults: dict[str, Any]) -> None:
    values = {name: dict(value) for name, value in defaults.items()}
    del values["train"]["epochs"]
    with pytest.raises(PipelineError, match=r"train\.epochs: Field required"):
        params.parse(values)


def test_all_problems_are_told_at_once(make_params: Make) -> None:
    with pytest.raises(PipelineError, match=r"edges\.blur[\s\S]*train\.fc6"):
        make_params({"edges.blur": -1.0, "train.fc6": 0})


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_a_file_that_is_no_mapping_is_an_error(content: object) -> None:
    with pytest.raises(PipelineError, match=r"params\.yaml can't be used"):
        params.parse(content)


@pytest.mark.parametrize(("pretrained", "frozen"), [("none", "conv1"), ("conv3", "conv4")])
def test_layers_that_are_not_pretrained_can_not_be_frozen(make_params: Make, pretrained: str, frozen: str) -> None:
    with pytest.raises(PipelineError, match=rf"frozen: {frozen} would keep layers .* set it to {pretrained} at most"):
        make_params({"train.pretrained": pretrained, "train.frozen": frozen})


def test_thresholds_the_wrong_way_round_are_an_error(make_params: Make) -> None:
    with pytest.raises(PipelineError, match="low must not exceed high"):
        make_params({"edges.low": 200.0, "edges.high": 100.0})


def test_patches_that_do_not_fit_their_regions_are_an_error_that_says_what_would(make_params: Make) -> None:
    with pytest.raises(PipelineError, match=r"raise edges\.short_side or lower patches\.size"):
        make_params({"edges.short_side": 200})


def test_an_image_too_small_for_the_encoder_is_an_error_that_names_every_such_key(make_params: Make) -> None:
    small = {"patches.size": 62, "contrast.image_size": 48, "embed.image_size": [160, 40]}
    told = r"patches\.size is 62 px, embed\.image_size is 40 px, contrast\.image_size is 48 px.*alexnet needs 63 px"
    with pytest.raises(PipelineError, match=told):
        make_params(small)
    make_params({**small, "train.encoder": "vgg16"})
    # Without the contrast no view is ever made.
    make_params({"contrast.image_size": 48, "train.contrast_weight": 0.0})


def test_start_weights_from_a_file_need_its_hash(make_params: Make) -> None:
    with pytest.raises(PipelineError, match="weights_sha256"):
        make_params({"train.weights": "file", "train.weights_file": "alexnet.pth"})


@pytest.mark.parametrize("changes", [{"train.encoder": "efficientnet_lite0"}, {"train.weights": "efficientnet_lite0"}])
def test_weights_of_a_package_go_with_its_own_network(make_params: Make, changes: dict[str, str]) -> None:
    with pytest.raises(PipelineError, match="train: weights: efficientnet_lite0 goes with encoder: efficientnet_lite0"):
        make_params(changes)
