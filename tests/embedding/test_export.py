from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from pipeline_lib import params
from pipeline_lib.data import parts
from pipeline_lib.embedding.export import export
from pipeline_lib.embedding.images import Images, Item, Part
from pipeline_lib.embedding.kept import Kept
from pipeline_lib.embedding.vectors import batched
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.inputs import prepare
from tests.conftest import scene

Make = Callable[..., params.Params]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "kept", "key")


def corner(batch: Tensor) -> Tensor:
    return batch[:, :, 0, 0]


def images(count: int, contents: Callable[[int], str] = str) -> Images:
    names = [f"i{number}" for number in range(count)]
    contents_of = [contents(number) for number in range(count)]
    rows = {"image_id": names, "class_name": "dog", "instance_id": names, "content": contents_of}
    return Images.of(items(count), pd.DataFrame(rows))


def items(count: int) -> Iterator[Item]:
    for number in range(count):
        yield f"i{number}", "dog", f"t{number}", partial(scene, number)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_tables_hold_every_image_in_order_whatever_the_batch(
    make_params: Make, kept: Kept, tmp_path: Path, batch: int
) -> None:
    systems: dict[Path, Callable[[Tensor], Tensor]] = {
        tmp_path / "mean.parquet": lambda images: images.mean(dim=(2, 3)),
        tmp_path / "corner.parquet": lambda images: images[:, :2, 0, 0],
    }
    settings = make_params().train
    export(images(7), systems, settings, kept, size=48, batch=batch, description="test")
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
            export(
                images(23),
                systems,
                make_params().train,
                Kept(tmp_path / str(threads), ""),
                size=48,
                batch=2,
                description="test",
            )
            assert torch.get_num_threads() == threads  # what a batch is given holds for its own thread alone
            found.append(pq.read_table(path))
    finally:
        torch.set_num_threads(before)
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_no_images_give_an_empty_table_of_the_right_width(make_params: Make, kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    export(images(0), {path: corner}, make_params().train, kept, size=32, batch=4, description="test")
    assert pq.read_table(path).num_rows == 0
    assert pq.read_schema(path).field("vector").type.list_size == 3


def broken(until: int, of: int) -> Iterator[Item]:
    """Images, the last of which can't be read."""

    def gone() -> NoReturn:
        raise PipelineError("photo.jpg: gone")

    yield from items(until)
    for image_id, class_name, instance_id, _ in islice(items(of), until, None):
        yield image_id, class_name, instance_id, gone


def test_an_export_that_fails_leaves_no_table(make_params: Make, kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    few = replace(images(4), items=broken(3, 4))
    with pytest.raises(PipelineError, match=r"photo\.jpg"):
        export(few, {path: corner}, make_params().train, kept, size=32, batch=2, description="t")
    assert [left for left in tmp_path.rglob("*") if left.is_file()] == []


class Counted:
    """A system that counts the images that it has embedded."""

    def __init__(self) -> None:
        self._batches: list[int] = []  # which several threads add to

    @property
    def images(self) -> int:
        return sum(self._batches)

    def __call__(self, batch: Tensor) -> Tensor:
        self._batches.append(int(batch.flatten(1).any(dim=1).sum()))  # one of zeros only tells how wide vectors are
        return torch.cat([batch.mean(dim=(2, 3)), batch[:, :2, 3, 5]], dim=1)


@pytest.fixture
def run(make_params: Make, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Exports images in parts of about four; returns the table's bytes, and how many were embedded."""
    monkeypatch.setattr(parts, "ROWS", 4)

    def exported(some: Images, *, size: int = 32, kept: Kept = kept) -> tuple[bytes, int]:
        system, path = Counted(), tmp_path / "table.parquet"
        export(some, {path: system}, make_params().train, kept, size=size, batch=3, description="test")
        assert pq.read_table(path).num_rows == sum(part.rows for part in some.parts)
        return path.read_bytes(), system.images

    return exported


def test_an_export_that_was_cut_off_goes_on_with_the_parts_that_are_left(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    whole, embedded = run(images(40), kept=Kept(tmp_path / "afresh", ""))
    assert embedded == 40
    with pytest.raises(PipelineError, match=r"photo\.jpg"):
        run(replace(images(40), items=broken(30, 40)))
    table, embedded = run(images(40))
    assert table == whole
    assert 10 <= embedded < 30
    assert run(images(40)) == (whole, 0)


def test_an_image_more_costs_its_own_part_alone(run: Callable[..., Any], tmp_path: Path) -> None:
    counts = []
    for number in range(30, 50):
        _, embedded = run(images(number))
        counts.append(embedded)
    table, embedded = run(images(49))
    assert embedded == 0
    assert table == run(images(49), kept=Kept(tmp_path / "afresh", ""))[0]
    assert np.mean(counts[1:]) < 12


def test_parts_that_do_not_fit_any_more_are_made_again(run: Callable[..., Any], kept: Kept) -> None:
    before, _ = run(images(20))
    other = images(20, lambda number: f"other {number}" if number == 7 else str(number))
    assert 0 < run(other)[1] < 20
    assert run(images(20), size=16)[1] == 20
    assert run(images(20), kept=Kept(kept.folder, "other weights"))[1] == 20
    shard = max((path for path in kept.folder.glob("*.parquet")), key=lambda path: path.stat().st_size)
    os.truncate(shard, shard.stat().st_size // 2)
    assert run(images(20))[0] == before


def test_what_a_stage_did_not_ask_for_goes_when_it_is_done(make_params: Make, tmp_path: Path) -> None:
    settings, folder, made = make_params(), tmp_path / "kept", []
    (tmp_path / "weights").write_bytes(b"1")

    def make(place: Path) -> None:
        made.append(place)
        (place / "file").write_text("fitted", encoding="utf-8")

    def fitted() -> int:
        with Kept.opened(folder, [tmp_path / "weights"], settings) as kept:
            kept.made_once("fit", [Part("digest", 1)], make, tmp_path / "out")
        return len(made)

    assert [fitted(), fitted()] == [1, 1]
    assert (tmp_path / "out" / "file").read_text(encoding="utf-8") == "fitted"
    before = set(folder.iterdir())
    (tmp_path / "weights").write_bytes(b"2")
    assert fitted() == 2
    assert len(list(folder.iterdir())) == len(before) == 1
    assert set(folder.iterdir()) != before
    with Kept.opened(folder, [tmp_path / "weights"], settings) as kept:
        kept.made_once("fit", [Part("digest", 1)], make, tmp_path / "out")
        kept.drop()
    assert list(folder.iterdir()) == []


def test_batches_are_of_the_size_asked_and_keep_all() -> None:
    assert [len(chunk) for chunk in batched(items(7), 3)] == [3, 3, 1]
