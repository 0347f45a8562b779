"""Training that is killed and started again ends in the same bits."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.training.loop import train
from pipeline_lib.training.summary import describe

Make = Callable[..., params.Params]
ROOT = Path(__file__).resolve().parents[2]
IDS = [f"image/{number:02d}" for number in range(14)]
TINY = {
    "train.fc6": 32,
    "train.head": [16],
    "train.batch_images": 2,
    "train.epochs": 3,
    "train.pretrained": "none",
    "train.threads": 2,
    "edges.short_side": 180,
    "patches.size": 64,
}
RUN = """
import pickle, sys
from pathlib import Path
from pipeline_lib.training.loop import train
settings, patches, ids, scratch, out = pickle.loads(bytes.fromhex(sys.argv[1]))
trained = train(settings, patches, ids[:12], ids[12:], Path(), scratch, checkpoint_seconds=0.0)
out.write_bytes(pickle.dumps({name: value.numpy().tobytes() for name, value in trained.model.state_dict().items()}))
"""


@pytest.fixture
def patches(patches_folder: Path) -> Path:
    return patches_folder


def start(settings: params.Train, patches: Path, scratch: Path, out: Path) -> subprocess.Popen[bytes]:
    job = pickle.dumps((settings, patches, IDS, scratch, out)).hex()
    return subprocess.Popen([sys.executable, "-c", RUN, job], cwd=ROOT, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_killed_at_any_moment_it_ends_in_the_same_bits(
    make_params: Make, patches: Path, tmp_path: Path, precision: str
) -> None:
    settings = make_params({**TINY, "train.precision": precision}).train
    assert start(settings, patches, tmp_path / "whole", tmp_path / "whole.out").wait() == 0
    kills = 0
    delay = 0.0
    while True:
        process = start(settings, patches, tmp_path / "cut", tmp_path / "cut.out")
        checkpoint = tmp_path / "cut" / "checkpoint.pt"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.002)
        time.sleep(delay)
        if kills == 3 or process.poll() is not None:
            assert process.wait() == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        delay += 0.02
    assert kills >= 2
    whole, cut = (pickle.loads((tmp_path / name).read_bytes()) for name in ("whole.out", "cut.out"))
    assert whole.keys() == cut.keys()
    assert all(whole[name] == cut[name] for name in whole)


def test_a_resume_with_another_thread_count_is_refused(make_params: Make, patches: Path, tmp_path: Path) -> None:
    settings = make_params({**TINY, "train.epochs": 1}).train
    train(settings, patches, IDS[:12], IDS[12:], Path(), tmp_path / "run")
    other = settings.model_copy(update={"threads": 1})
    with pytest.raises(PipelineError, match=r"checkpoint\.pt.*train\.threads: 2"):
        train(other, patches, IDS[:12], IDS[12:], Path(), tmp_path / "run")


def test_a_damaged_checkpoint_says_to_delete_it(make_params: Make, patches: Path, tmp_path: Path) -> None:
    settings = make_params({**TINY, "train.epochs": 1}).train
    path = tmp_path / "run" / "checkpoint.pt"
    path.parent.mkdir()
    path.write_bytes(b"half a file")
    with pytest.raises(PipelineError, match=r"checkpoint\.pt.*delete it"):
        train(settings, patches, IDS[:12], IDS[12:], Path(), path.parent)


def test_a_checkpoint_with_a_flipped_bit_is_not_gone_on_from(make_params: Make, patches: Path, tmp_path: Path) -> None:
    settings = make_params({**TINY, "train.epochs": 1}).train
    whole = train(settings, patches, IDS[:12], IDS[12:], Path(), tmp_path / "run").model.state_dict()
    path = tmp_path / "run" / "checkpoint.pt"
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for place in [*rng.integers(len(data), size=20), *(len(data) - 1 - rng.integers(6000, size=20))]:
        bit = 1 << int(rng.integers(8))
        data[place] ^= bit
        path.write_bytes(data)
        try:
            found = train(settings, patches, IDS[:12], IDS[12:], Path(), path.parent).model.state_dict()
        except PipelineError as failure:
            assert re.search(r"checkpoint\.pt.*delete it", str(failure))  # noqa: PT017  most flips end here
        else:  # padding
            assert all(torch.equal(found[name], value) for name, value in whole.items())
        data[place] ^= bit
    path.write_bytes(data)
    train(settings, patches, IDS[:12], IDS[12:], Path(), path.parent)


def test_the_same_seed_trains_the_same_network_and_another_seed_another(
    make_params: Make, patches: Path, tmp_path: Path
) -> None:
    settings = make_params({**TINY, "train.epochs": 1}).train
    runs = [
        train(settings.model_copy(update={"seed": seed}), patches, IDS[:12], IDS[12:], Path(), tmp_path / str(number))
        for number, seed in enumerate((0, 0, 1))
    ]
    states = [torch.cat([value.flatten().float() for value in run.model.state_dict().values()]) for run in runs]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert runs[0].history == runs[1].history


def test_the_start_is_kept_for_comparison_and_training_moves_away_from_it(
    make_params: Make, patches: Path, tmp_path: Path
) -> None:
    trained = train(make_params({**TINY, "train.epochs": 1}).train, patches, IDS[:12], IDS[12:], Path(), tmp_path / "r")
    assert not torch.equal(trained.start["fc6.weight"], trained.model.encoder.fc6.weight)
    assert len(trained.history) == 1
    assert set(trained.predictions.image_ids) == set(IDS[12:])


def test_more_images_a_step_than_there_are_is_an_error(make_params: Make, patches: Path, tmp_path: Path) -> None:
    settings = make_params({**TINY, "train.batch_images": 13}).train
    with pytest.raises(PipelineError, match=r"train\.batch_images: 13 is more than the 12"):
        train(settings, patches, IDS[:12], IDS[12:], Path(), tmp_path / "r")


def test_photos_too_few_for_any_step_are_asked_for(make_params: Make, patches: Path, tmp_path: Path) -> None:
    settings = make_params(TINY).train
    with pytest.raises(PipelineError, match=r"train\.batch_images: 2 is more than the 1 training images; add photos"):
        train(settings, patches, IDS[:1], IDS[12:], Path(), tmp_path / "r")


def test_weights_that_the_last_step_breaks_stop_training_before_they_are_kept(
    make_params: Make, patches: Path, tmp_path: Path
) -> None:
    only = {"train.epochs": 1, "train.batch_images": 12}
    settings = make_params({**TINY, **only, "train.learning_rate": 1e30, "train.batch_norm": False}).train
    with pytest.raises(PipelineError, match=r"diverged in epoch 1; lower train\.learning_rate"):
        train(settings, patches, IDS[:12], IDS[12:], Path(), tmp_path / "r", checkpoint_seconds=1000.0)
    assert not (tmp_path / "r" / "checkpoint.pt").exists()


def test_the_record_counts_the_images_that_have_patches(make_params: Make, patches: Path, tmp_path: Path) -> None:
    settings = make_params({**TINY, "train.epochs": 1}).train
    trained = train(settings, patches, [*IDS[:12], "image/skipped"], IDS[12:], Path(), tmp_path / "r")
    record = describe(trained, settings, {"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6]}, "digest")
    assert record["training_images"] == 12
    assert record["data_sha256"] == "digest"


def test_a_loss_that_is_not_finite_stops_training(make_params: Make, patches: Path, tmp_path: Path) -> None:
    settings = make_params({**TINY, "train.learning_rate": 1e30, "train.batch_norm": False}).train
    with pytest.raises(PipelineError, match=r"diverged.*train\.learning_rate"):
        train(settings, patches, IDS[:12], IDS[12:], Path(), tmp_path / "r")
