"""Several processes learn what one learns from the same batches."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline_lib import params
from pipeline_lib.data.share import Share
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.inputs import drop_colours
from pipeline_lib.pretext.batches import PatchShards
from pipeline_lib.pretext.views import ViewShards
from pipeline_lib.training import ranks
from pipeline_lib.training.loop import Trained, train
from pipeline_lib.training.norms import SharedBatchNorm, SharedDropout
from pipeline_lib.training.streams import ViewSource

Make = Callable[..., params.Params]
ROOT = Path(__file__).resolve().parents[2]
IDS = [f"image/{number:02d}" for number in range(14)]
TINY: dict[str, object] = {
    "train.fc6": 32,
    "train.head": [16],
    "train.batch_images": 4,
    "train.epochs": 7,  # of 3 steps
    "train.pretrained": "none",
    "train.precision": "fp32",
    "train.device": "cpu",
    "train.threads": 1,
    "contrast.batch_images": 8,
    "contrast.image_size": 64,
    "edges.short_side": 180,
    "patches.size": 64,
}
EVERYTHING = {
    "train.color": "drop",
    "train.pretrained": "conv2",
    "train.frozen": "conv1",
    "train.objectives.keeping": 0.5,
    "train.objectives.teacher": 0.5,
    "train.teacher": "alexnet",
    "contrast.mirror_negatives": True,
}
RUN = """
import os, pickle, sys
from pathlib import Path
import torch
from pipeline_lib.training import ranks
from pipeline_lib.training.loop import train
from pipeline_lib.training.streams import ViewSource
settings, pairs, patches, ids, out = pickle.loads(bytes.fromhex(sys.argv[1]))
with ranks.joined(torch.device("cpu")):
    (out / f"pid-{ranks.share().number}").write_text(str(os.getpid()))
    source = ViewSource(pairs, settings.contrast, {ids[0]: "one", ids[5]: "one"})
    trained = train(settings.train, patches, ids[:12], ids[12:], Path(), out, source, checkpoint_seconds=0.0)
    states = {name: value.numpy() for name, value in trained.model.state_dict().items()}
    number = ranks.share().number
(out / f"states-{number}").write_bytes(pickle.dumps((states, trained.history, trained.processes)))
"""


def start(settings: params.Params, pairs: Path, patches: Path, out: Path, processes: int) -> subprocess.Popen[bytes]:
    out.mkdir(exist_ok=True)
    script = out.parent / "learn.py"
    script.write_text(RUN, encoding="utf-8")
    job = pickle.dumps((settings, pairs, patches, IDS, out)).hex()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*torchrun, str(script), job], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def learned(out: Path, rank: int = 0) -> tuple[dict[str, Any], list[dict[str, float]], int]:
    found: tuple[dict[str, Any], list[dict[str, float]], int] = pickle.loads((out / f"states-{rank}").read_bytes())
    return found


def alone(settings: params.Params, pairs: Path, patches: Path, out: Path) -> Trained:
    source = ViewSource(pairs, settings.contrast, {IDS[0]: "one", IDS[5]: "one"})
    return train(settings.train, patches, IDS[:12], IDS[12:], Path(), out, source, checkpoint_seconds=1000.0)


@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_two_processes_learn_the_weights_of_one(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    # At the usual rate rounding grows from step to step, and as fast between one thread and two as between processes.
    settings = make_params({**TINY, **changes, "train.learning_rate": 1e-4})
    assert start(settings, pairs_folder, patches_folder, tmp_path / "two", 2).wait() == 0
    # Two threads, since a single one convolves by another algorithm, 1e-3 apart after three steps.
    both = make_params({**TINY, **changes, "train.learning_rate": 1e-4, "train.threads": 2})
    one = alone(both, pairs_folder, patches_folder, tmp_path / "one")
    two, history, processes = learned(tmp_path / "two")
    assert (processes, one.processes) == (2, 1)
    assert one.history[-1]["epoch"] == 7
    for name, value in one.model.state_dict().items():
        wanted = value.double().numpy()
        assert np.linalg.norm(two[name] - wanted) <= 1e-5 * max(float(np.linalg.norm(wanted)), 1.0), name
    for first, second in zip(one.history, history, strict=True):
        assert first == pytest.approx(second, rel=1e-4, abs=1e-5, nan_ok=True)
    other, _, _ = learned(tmp_path / "two", 1)
    assert all(np.array_equal(two[name], other[name]) for name in two)


def test_a_killed_process_ends_all_and_they_go_on_to_the_same_bits(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    settings = make_params(TINY)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(settings, pairs_folder, patches_folder, whole, 2).wait() == 0
    running = start(settings, pairs_folder, patches_folder, cut, 2)
    while not (cut / "checkpoint.pt").exists():
        assert running.poll() is None
        time.sleep(0.002)
    os.kill(int((cut / "pid-1").read_text()), signal.SIGKILL)
    assert running.wait() != 0
    assert not (cut / "states-0").exists()
    with pytest.raises(PipelineError, match=r"checkpoint\.pt: was written by 2 processes; .*with 1 .*nproc-per-node"):
        alone(settings, pairs_folder, patches_folder, cut)
    assert start(settings, pairs_folder, patches_folder, cut, 2).wait() == 0
    first, second = learned(whole), learned(cut)
    assert all(np.array_equal(first[0][name], second[0][name]) for name in first[0])
    assert first[1:] == second[1:]


def test_a_checkpoint_of_another_number_of_processes_is_refused(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    settings = make_params({**TINY, "train.epochs": 1})
    alone(settings, pairs_folder, patches_folder, tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    assert state["processes"] == 1
    torch.save({**state, "processes": 3}, path)
    with pytest.raises(PipelineError, match=r"checkpoint\.pt: was written by 3 processes; going on with 1 "):
        alone(settings, pairs_folder, patches_folder, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"train\.batch_images: 4 images a step .* among 3 processes; set it to a multiple of 3"),
        ({"train.batch_images": 3}, r"contrast\.batch_images: 8 images a step .* among 3 processes"),
    ],
)
def test_a_batch_that_can_not_be_shared_equally_is_refused(
    make_params: Make,
    pairs_folder: Path,
    patches_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    message: str,
) -> None:
    monkeypatch.setattr(ranks, "share", lambda: Share(0, 3))
    monkeypatch.setattr(ranks, "copy_first", lambda _: None)
    with pytest.raises(PipelineError, match=message):
        alone(make_params({**TINY, **changes}), pairs_folder, patches_folder, tmp_path / "run")


def test_the_parts_of_a_batch_make_up_the_batch(make_params: Make, pairs_folder: Path, patches_folder: Path) -> None:
    shards = PatchShards(patches_folder, IDS[:12], "cross")
    whole, *parts = (
        list(shards.epoch(1, 6, shuffle=(0,), share=share)) for share in (Share(), Share(0, 2), Share(1, 2))
    )
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch.image_ids == first.image_ids + second.image_ids
        assert batch.photos is not None
        assert first.photos is not None
        assert second.photos is not None
        assert np.array_equal(batch.photos, np.concatenate([first.photos, second.photos]))
    views = ViewShards(pairs_folder, IDS[:12], make_params({**TINY, **EVERYTHING}).contrast)
    batches = [list(islice(views.batches(0, 1, share), 3)) for share in (Share(), Share(0, 2), Share(1, 2))]
    for all_views, *some in zip(*batches, strict=True):
        made = {
            (name, bool(way)): (photo.tobytes(), edge.tobytes())
            for part in some
            for name, way, photo, edge in zip(part.image_ids, part.mirrored, part.photos, part.edges, strict=True)
        }
        assert len(made) == len(all_views.image_ids)
        for number, name in enumerate(all_views.image_ids):
            assert all_views.mirrored is not None
            found = made[name, bool(all_views.mirrored[number])]
            assert found == (all_views.photos[number].tobytes(), all_views.edges[number].tobytes())


def test_what_is_drawn_by_chance_for_an_image_is_the_same_in_one_process_and_in_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.rand(8, 3, 6, 6)
    whole = drop_colours(images, torch.Generator().manual_seed(0))
    parts = [drop_colours(images[k * 4 :][:4], torch.Generator().manual_seed(0), Share(k, 2)) for k in range(2)]
    assert torch.equal(whole, torch.cat(parts))
    fc6 = torch.rand(8, 5)
    torch.manual_seed(3)
    whole = nn.Dropout(0.5)(fc6)
    found = []
    for number in range(2):
        monkeypatch.setattr(ranks, "share", lambda number=number: Share(number, 2))
        torch.manual_seed(3)
        found.append(SharedDropout(0.5)(fc6[number * 4 :][:4]))
    assert torch.equal(whole, torch.cat(found))
    assert 0 < int((whole == 0).sum()) < whole.numel()


@pytest.mark.parametrize("shape", [(8, 3, 5, 4), (8, 3)])
def test_statistics_over_two_processes_are_those_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    """Both parts are seen by turns: first what each has to say is written down, then each is told what all said."""
    batch = torch.randn(shape) * 3 + 7
    norm = nn.BatchNorm2d(3) if len(shape) == 4 else nn.BatchNorm1d(3)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    parts = [(SharedBatchNorm.of(copy.deepcopy(norm)), part) for part in batch.chunk(2)]
    wanted = norm(batch)
    said: list[torch.Tensor] = []

    def say(rows: torch.Tensor) -> torch.Tensor:
        said.append(rows)
        return rows

    monkeypatch.setattr(ranks, "all_rows", say)
    for shared, part in parts:
        copy.deepcopy(shared)(part)
    monkeypatch.setattr(ranks, "all_rows", lambda _: torch.cat(said))
    torch.testing.assert_close(torch.cat([shared(part) for shared, part in parts]), wanted)
    for shared, _ in parts:
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(shared.state_dict()[name], value)
        torch.testing.assert_close(shared.eval()(batch), copy.deepcopy(norm).eval()(batch))
