from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import torch

from pipeline_lib import params
from pipeline_lib.data.cores import usable_cores
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.device import autocast, choose_device, choose_precision, has_bf16, use_threads
from pipeline_lib.pretext.drawing import edges_of_density

Make = Callable[..., params.Params]


@pytest.fixture
def _threads_set_back() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.mark.usefixtures("_threads_set_back")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_torch_computes_with_the_threads_that_were_asked_for_and_opencv_with_one(count: int) -> None:
    assert use_threads(count) == count
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (count, 1)


@pytest.mark.usefixtures("_threads_set_back")
def test_no_number_of_threads_takes_all_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # as a container's limit
    assert (usable_cores(), use_threads(0)) == (1, 1)
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT")
    assert 1 <= use_threads(0) == torch.get_num_threads() <= usable_cores()


@pytest.mark.usefixtures("_threads_set_back")
def test_drawn_strokes_are_the_same_whatever_the_machines_own_number_of_threads() -> None:
    """OpenCV's Canny finds a few other edges with one thread than with several, and its default is one per core."""
    rng = np.random.default_rng(0)
    coarse, grain = rng.integers(0, 256, (24, 24), np.uint8), rng.integers(0, 40, (256, 256), np.uint8)
    picture = np.asarray(cv2.add(cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC), grain), np.uint8)
    found = []
    for cores, count in itertools.product((1, 2, 4), (1, 2)):
        cv2.setNumThreads(cores)
        use_threads(count)
        found.append(edges_of_density(picture, 2.0, 0.1))
    assert all(np.array_equal(found[0], other) for other in found)


def test_cuda_is_taken_where_it_is_and_asked_for_in_vain_where_not(
    make_params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kinds = ("auto", "cpu", "cuda")
    assert [choose_device(make_params({"train.device": kind}).train).type for kind in kinds] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(make_params({"train.device": "auto"}).train).type == "cpu"
    with pytest.raises(PipelineError, match=r"train\.device: cuda, but no CUDA device is at hand"):
        choose_device(make_params({"train.device": "cuda"}).train)


def test_left_to_itself_the_precision_is_the_processors(make_params: Make) -> None:
    device = torch.device("cpu")
    expected = "bf16" if has_bf16(device) else "fp32"
    for settings in (make_params({"train.precision": "auto"}).train, make_params({"embed.precision": "auto"}).embed):
        assert choose_precision(settings, device) == expected
    assert choose_precision(make_params({"train.precision": "fp32"}).train, device) == "fp32"
    a = torch.randn(4, 4)
    with autocast(device, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(device, "fp32"):
        assert (a @ a).dtype == torch.float32
