from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import read_sealed, write_json
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.saved import load_encoder, save_model
from pipeline_lib.run import params_key

Make = Callable[..., params.Params]
SMALL = {"train.fc6": 12, "train.pretrained": "none", "train.device": "cpu"}


def saved(folder: Path, settings: params.Params) -> tuple[Encoder, Encoder]:
    """A network and its start in a folder."""
    torch.manual_seed(0)
    trained, start = (Encoder(settings.train, settings.patches.size).eval() for _ in range(2))
    save_model(folder, trained.state_dict(), start.state_dict(), settings, {"training_images": 7})
    return trained, start


def test_an_encoder_comes_back_as_it_was_written_ready_for_evaluation(make_params: Make, tmp_path: Path) -> None:
    settings = make_params(SMALL)
    trained, start = saved(tmp_path, settings)
    loaded = load_encoder(tmp_path, settings)
    assert not loaded.encoder.training
    assert loaded.train.fc6 == 12
    assert loaded.params == settings
    assert loaded.meta["training_images"] == 7
    image = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(loaded.encoder(image), trained(image), rtol=1e-4, atol=1e-4)
    before = load_encoder(tmp_path, settings, "start.safetensors").encoder
    torch.testing.assert_close(before(image), start(image), rtol=1e-4, atol=1e-4)


def test_a_network_trained_on_cuda_is_used_on_a_machine_without(
    make_params: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_params({**SMALL, "train.device": "cuda"})
    saved(tmp_path, settings)
    # A machine that tests on CUDA would not show it.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    loaded = load_encoder(tmp_path, settings)
    assert loaded.device.type == "cpu"
    assert loaded.encoder(torch.randn(1, 3, 160, 160)).shape == (1, 12)


def test_weights_that_are_missing_cut_or_of_another_shape_are_named(make_params: Make, tmp_path: Path) -> None:
    settings = make_params(SMALL)
    saved(tmp_path, settings)
    (tmp_path / "start.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"start\.safetensors.*dvc repro train"):
        load_encoder(tmp_path, settings, "start.safetensors")
    whole = (tmp_path / "encoder.safetensors").read_bytes()
    (tmp_path / "encoder.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PipelineError, match=r"encoder\.safetensors"):
        load_encoder(tmp_path, settings)
    save_file({"fc6.weight": torch.zeros(3, 3)}, tmp_path / "encoder.safetensors")
    with pytest.raises(PipelineError, match=r"encoder\.safetensors"):
        load_encoder(tmp_path, settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.fc6", 16),
        ("train.epochs", 4),
        ("train.seed", 1),
        ("train.threads", 7),
        ("edges.blur", 1.0),
        ("patches.gap", 4),
        ("contrast.temperature", 0.1),
        ("contrast.mirror_negatives", True),
    ],
)
def test_a_network_of_other_params_is_refused(make_params: Make, tmp_path: Path, key: str, value: object) -> None:
    saved(tmp_path, make_params(SMALL))
    with pytest.raises(PipelineError, match=r"meta\.json: this network was trained with other params.*dvc repro"):
        load_encoder(tmp_path, make_params({**SMALL, key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "another"),
        ("train.bootstrap", 100),
        ("train.device", "auto"),
        ("machine.workers", 3),
        ("embed.image_size", 96),
        ("retrieval.alignment", "none"),
        ("index.kind", "exact"),
    ],
)
def test_params_that_make_no_other_network_are_free(make_params: Make, tmp_path: Path, key: str, value: object) -> None:
    saved(tmp_path, make_params(SMALL))
    assert load_encoder(tmp_path, make_params({**SMALL, key: value})).train.fc6 == 12


def test_a_network_of_before_a_key_was_known_is_that_of_its_default(defaults: dict[str, object]) -> None:
    older: dict[str, object] = {
        name: dict(value) if isinstance(value, dict) else value for name, value in defaults.items()
    }
    train, contrast = older["train"], older["contrast"]
    assert isinstance(train, dict)
    assert isinstance(contrast, dict)
    train |= {"objectives": {"context": 1.0}, "fc6_grid": 0}
    newer = params.parse(older)
    for key in ("frozen", "fc6_grid", "objectives", "teacher"):
        del train[key]
    for key in ("spotlight", "mirror_negatives"):
        del contrast[key]
    assert params_key(params.parse(older, complete=False)) == params_key(newer)


@pytest.mark.parametrize("record", [{}, {"params_sha256": "0" * 64}, ["no", "mapping"]])
def test_a_record_that_tells_of_no_such_network_is_named(make_params: Make, tmp_path: Path, record: object) -> None:
    settings = make_params(SMALL)
    saved(tmp_path, settings)
    write_json(tmp_path / "meta.json", record)
    with pytest.raises(PipelineError, match=r"meta\.json: this network was trained with other params"):
        load_encoder(tmp_path, settings)


def test_an_older_record_goes_before_the_weights_do(make_params: Make, tmp_path: Path) -> None:
    settings = make_params(SMALL)
    saved(tmp_path, settings)
    assert read_sealed(tmp_path / "meta.json")["training_images"] == 7
    # A folder in the weights' place can't be replaced: the second try ends half-way.
    (tmp_path / "encoder.safetensors").unlink()
    (tmp_path / "encoder.safetensors" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"encoder\.safetensors"):
        saved(tmp_path, settings)
    assert not (tmp_path / "meta.json").exists()


@pytest.mark.parametrize("name", ["encoder.safetensors", "start.safetensors"])
def test_weights_that_changed_on_the_disk_are_refused(make_params: Make, tmp_path: Path, name: str) -> None:
    settings = make_params(SMALL)
    saved(tmp_path, settings)
    load_encoder(tmp_path, settings, name)
    data = bytearray((tmp_path / name).read_bytes())
    data[-5] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PipelineError, match=f"{name}: is damaged"):
        load_encoder(tmp_path, settings, name)
