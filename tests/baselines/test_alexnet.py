from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline_lib import params
from pipeline_lib.baselines.alexnet import FrozenAlexNet
from pipeline_lib.baselines.run import run_system
from pipeline_lib.baselines.system import Benchmark, Image
from pipeline_lib.files import read_json


@pytest.fixture
def published(tmp_path: Path) -> Any:
    """torchvision's network, its random weights in a file below `tmp_path`."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    network = alexnet(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "alexnet.pth")
    return network


def of_file(benchmark: Benchmark, make_params: Callable[..., params.Params], home: Path, name: str) -> Benchmark:
    digest = hashlib.sha256((home / name).read_bytes()).hexdigest()
    changes = {"train.weights": "file", "train.weights_file": name, "train.weights_sha256": digest}
    settings = make_params(changes | {"baselines.image_size": 224})
    run = replace(benchmark.training.run, params=settings, root=home)
    return replace(benchmark, training=replace(benchmark.training, run=run))


def test_both_layers_are_torchvisions_whatever_the_run_trains(
    benchmark_of: Callable[..., Benchmark],
    make_params: Callable[..., params.Params],
    published: Any,
    tmp_path: Path,
) -> None:
    # The default trains a narrower fc6 over another grid of places, with BatchNorm.
    training = of_file(benchmark_of(), make_params, tmp_path, "alexnet.pth").training
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    whole = ((torch.from_numpy(pixels) / 255 - mean) / spread).permute(2, 0, 1)[None]
    with torch.inference_mode():
        pool5 = published.features(whole)
        fc6 = published.classifier[:3](published.avgpool(pool5).flatten(1))
    systems = FrozenAlexNet("pool5", "imagenet", "pool5"), FrozenAlexNet("fc6", "imagenet", "fc6")
    for system, expected in zip(systems, (pool5.flatten(1), fc6), strict=True):
        folder = tmp_path / system.name
        folder.mkdir()
        system.fit(training, folder)
        found = system.embedder(folder, training.run.params)([Image("photo", "", "", pixels)], "photo")
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_other_weights_are_embedded_anew(
    benchmark_of: Callable[..., Benchmark],
    make_params: Callable[..., params.Params],
    published: Any,
    tmp_path: Path,
) -> None:
    torch.save({name: value * 2 for name, value in published.state_dict().items()}, tmp_path / "other.pth")
    system = FrozenAlexNet("alexnet_pool5", "imagenet", forms=("none",), processes=1)
    keys = [
        read_json(
            run_system(system, of_file(benchmark_of(), make_params, tmp_path, name), tmp_path / "store") / "system.json"
        )["key"]
        for name in ("alexnet.pth", "other.pth", "alexnet.pth")
    ]
    assert keys[0] == keys[2] != keys[1]
