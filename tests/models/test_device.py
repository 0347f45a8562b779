from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import torch

from pipeline_lib import params
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.device import autocast, choose_device, choose_precision, has_bf16, use_threads

Make = Callable[..., params.Params]


@pytest.fixture
def _threads_set_back() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.mark.usefixtures("_threads_set_back")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_torch_and_opencv_compute_with_the_same_number_of_threads(count: int) -> None:
    use_threads(count)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (count, count)


@pytest.mark.usefixtures("_threads_set_back")
def test_the_labels_of_strokes_depend_on_the_threads_of_opencv() -> None:
    """Why `use_threads` sets them: strokes of a view are left out by label."""
    strokes = np.where(np.random.default_rng(0).random((256, 256)) < 0.3, 255, 0).astype(np.uint8)
    found = []
    for count in (1, 2, 2):
        use_threads(count)
        found.append(cv2.connectedComponents(strokes, connectivity=8)[1])
    np.testing.assert_array_equal(found[1], found[2])
    assert len(np.unique(found[0])) == len(np.unique(found[1]))


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
