"""Several processes learn what one learns from the same batches."""

from __future__ import annotations

import copy
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline_lib import params
from pipeline_lib.data.share import Share
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.context import ContextNet
from pipeline_lib.models.inputs import drop_colours
from pipeline_lib.pretext.batches import PatchShards
from pipeline_lib.pretext.views import ViewShards
from pipeline_lib.training import ranks
from pipeline_lib.training.norms import SharedBatchNorm, SharedDropout, join_processes
from tests.cluster import ranks_job
from tests.cluster.ranks_job import IDS, Ended, Job, learn
from tests.pipeline.support import HANGS, ROOT

Make = Callable[..., params.Params]
CPU = torch.device("cpu")
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


def launched(folder: Path, jobs: list[Job]) -> subprocess.CompletedProcess[str]:
    """Lets two processes of torchrun do jobs."""
    file = folder / "jobs"
    file.write_bytes(pickle.dumps(jobs))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", ranks_job.__name__, str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=HANGS, encoding="utf-8", check=False)


def ended(job: Job, rank: int = 0) -> Ended:
    found: Ended = pickle.loads((job.out / f"ended-{rank}").read_bytes())
    return found


def differences(found: Ended, wanted: Ended) -> dict[str, float]:
    """By the name of each tensor of weights or statistics how far it is off, relative to its length, or to 1."""
    assert found.states.keys() == wanted.states.keys()
    return {
        name: float(np.linalg.norm(found.states[name] - value)) / max(float(np.linalg.norm(value)), 1.0)
        for name, value in wanted.states.items()
    }


def test_two_processes_compute_what_one_does(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    """In float64, step after step; in float32, where rounding grows from step to step, after one."""
    data = pairs_folder, patches_folder
    double = Job(make_params({**TINY, **EVERYTHING, "train.epochs": 2}), *data, tmp_path / "double", double=True)
    one_step = {**TINY, "train.epochs": 1, "train.batch_images": 12, "train.learning_rate": 2e-3}
    single = Job(make_params(one_step), *data, tmp_path / "single")
    done = launched(tmp_path, [double, single])
    assert done.returncode == 0, done.stderr
    for job, steps, most in ((double, 6, 1e-9), (single, 1, 1e-5)):
        # In float32 a single thread convolves by another algorithm than two, whether of one process or of two.
        threads = job.settings.train.model_copy(update={"threads": 1 if job.double else 2})
        settings = job.settings.model_copy(update={"train": threads})
        alone = learn(replace(job, settings=settings, out=tmp_path / f"{job.out.name} alone"))
        both = ended(job)
        assert (both.processes, alone.processes) == (2, 1)
        assert both.states["encoder.fc6_norm.num_batches_tracked"] == 2 * steps  # of patches and of views
        off = differences(both, alone)
        if not job.double:  # where a mean is small beside the spread, as it is here, float32 leaves few of its digits
            off = {name: value for name, value in off.items() if "running" not in name}
        assert max(off.values()) < most
        if job.double:  # held-out photos that are nearly as near change places by rounding alone
            for first, second in zip(both.history, alone.history, strict=True):
                assert first == pytest.approx(second, abs=2e-6, nan_ok=True)
        assert both.equals(ended(job, 1))
    with pytest.raises(PipelineError, match=r"checkpoint\.pt: was written by 2 processes; .*with 1 .*nproc-per-node"):
        learn(single)


def test_a_process_is_killed_and_all_go_on_to_the_same_bits(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    data = pairs_folder, patches_folder
    settings = make_params({**TINY, "train.epochs": 2})
    whole, cut = Job(settings, *data, tmp_path / "whole"), Job(settings, *data, tmp_path / "cut", dies=5)
    done = launched(tmp_path, [whole, cut])
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL) received by PID" in done.stderr
    assert not list(cut.out.glob("ended-*"))
    again = launched(tmp_path, [replace(cut, dies=0)])
    assert again.returncode == 0, again.stderr
    for rank in range(2):
        assert ended(cut, rank).equals(ended(whole, rank))


def test_a_process_whose_fellow_dies_ends_with_a_sentence(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    """Without torchrun, which ends the processes of its own machine alone."""
    job = Job(make_params(TINY), pairs_folder, patches_folder, tmp_path / "run", dies=2)
    (tmp_path / "jobs").write_bytes(pickle.dumps([job]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environment = {**os.environ, **place, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    command = [sys.executable, "-m", ranks_job.__name__, str(tmp_path / "jobs")]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=environment | own, encoding="utf-8")
        for own in ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))
    ]
    ends = [(process.communicate(timeout=HANGS)[1], process.returncode) for process in processes]
    assert ends[1][1] == -signal.SIGKILL
    assert ends[0][1] == 1
    assert re.search(
        r"PipelineError: process 1 of 2 that train together lost another one, .*same command: they go on from the last",
        ends[0][0],
    )
    assert not (job.out / "ended-0").exists()


def test_a_restart_by_torchrun_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(PipelineError, match=r"--max-restarts 1: .*the same command again"), ranks.joined(CPU):
        pass


def test_a_process_alone_keeps_the_layers_of_torch(make_params: Make) -> None:
    settings = make_params(TINY).train
    model = ContextNet(settings, 64, torch.zeros(1).long(), torch.zeros(1).long())
    before = [id(module) for module in model.modules()]
    join_processes(model)
    assert [id(module) for module in model.modules()] == before


def test_a_norm_that_holds_its_activation_is_not_replaced_by_one_without(
    make_params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_params({**TINY, "train.pretrained": "none", "train.encoder": "timm:tf_efficientnet_lite0"}).train
    model = ContextNet(settings, 64, torch.zeros(1).long(), torch.zeros(1).long())
    monkeypatch.setattr(ranks, "share", lambda: Share(0, 2))
    with pytest.raises(PipelineError, match=r"train\.encoder: its layer BatchNormAct2d .*start one"):
        join_processes(model)


def test_a_checkpoint_of_another_number_of_processes_is_refused(
    make_params: Make, pairs_folder: Path, patches_folder: Path, tmp_path: Path
) -> None:
    job = Job(make_params({**TINY, "train.epochs": 1}), pairs_folder, patches_folder, tmp_path / "run")
    learn(job)
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    assert state["processes"] == 1
    torch.save({**state, "processes": 3}, path)
    with pytest.raises(PipelineError, match=r"checkpoint\.pt: was written by 3 processes; going on with 1 "):
        learn(job)


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
        learn(Job(make_params({**TINY, **changes}), pairs_folder, patches_folder, tmp_path / "run"))


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
