from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from pipeline_lib import params
from pipeline_lib.embedding.export import Item, export
from pipeline_lib.embedding.vectors import batched
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.inputs import prepare
from tests.conftest import scene

Make = Callable[..., params.Params]


def items(count: int) -> Iterator[Item]:
    for number in range(count):
        yield f"i{number}", "dog", f"t{number}", partial(scene, number)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_tables_hold_every_image_in_order_whatever_the_batch(make_params: Make, tmp_path: Path, batch: int) -> None:
    systems: dict[Path, Callable[[Tensor], Tensor]] = {
        tmp_path / "mean.parquet": lambda images: images.mean(dim=(2, 3)),
        tmp_path / "corner.parquet": lambda images: images[:, :2, 0, 0],
    }
    settings = make_params().train
    export(items(7), 7, systems, settings, size=48, batch=batch, description="test")
    mean, corner = (pq.read_table(path) for path in systems)
    assert mean["image_id"].to_pylist() == [f"i{number}" for number in range(7)]
    assert mean["instance_id"].to_pylist() == [f"t{number}" for number in range(7)]
    expected = torch.cat([prepare(image(), 48, settings) for _, _, _, image in items(7)])
    np.testing.assert_allclose(mean["vector"].to_pylist(), expected.mean(dim=(2, 3)), atol=1e-6)
    np.testing.assert_allclose(corner["vector"].to_pylist(), expected[:, :2, 0, 0], atol=1e-6)


def test_vectors_and_their_order_do_not_depend_on_the_number_of_threads(make_params: Make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 5), torch.nn.ReLU(), torch.nn.Conv2d(32, 8, 44))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            path = tmp_path / f"{threads}.parquet"
            systems = {path: lambda images: network(images).flatten(1)}
            export(items(23), 23, systems, make_params().train, size=48, batch=2, description="test")
            assert torch.get_num_threads() == threads  # what a batch is given holds for its own thread alone
            found.append(pq.read_table(path))
    finally:
        torch.set_num_threads(before)
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_no_images_give_an_empty_table_of_the_right_width(make_params: Make, tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    export(items(0), 0, {path: lambda x: x[:, :, 0, 0]}, make_params().train, size=32, batch=4, description="test")
    assert pq.read_table(path).num_rows == 0
    assert pq.read_schema(path).field("vector").type.list_size == 3


def test_an_export_that_fails_leaves_no_file(make_params: Make, tmp_path: Path) -> None:
    def broken() -> Iterator[Item]:
        yield from items(3)
        raise PipelineError("photo.jpg: gone")

    path = tmp_path / "table.parquet"
    with pytest.raises(PipelineError, match=r"photo\.jpg"):
        export(broken(), 4, {path: lambda x: x[:, :, 0, 0]}, make_params().train, size=32, batch=2, description="t")
    assert list(tmp_path.iterdir()) == []


def test_batches_are_of_the_size_asked_and_keep_all() -> None:
    assert [len(chunk) for chunk in batched(items(7), 3)] == [3, 3, 1]
