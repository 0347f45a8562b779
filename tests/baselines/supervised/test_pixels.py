from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.baselines.supervised import batches as pixels
from pipeline_lib.baselines.system import Domain
from pipeline_lib.errors import PipelineError


@pytest.mark.parametrize(("domain", "shape"), [("photo", (32, 32, 3)), ("sketch", (32, 32))])
def test_what_is_read_is_what_was_scaled(tmp_path: Path, domain: Domain, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    # More than one block, so that the file has several row groups.
    images = [(f"i{n}", rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for n in range(pixels.ROWS + 3)]
    pixels.write(tmp_path / "p.parquet", images, 32, domain)
    found = pixels.Pixels.open(tmp_path / "p.parquet")
    assert found.image_ids == [name for name, _ in images]
    assert found.images.shape == (len(images), *shape)
    for number in (0, pixels.ROWS, len(images) - 1):
        assert np.array_equal(found.images[number], pixels.square(images[number][1], 32, domain))


def test_a_sketch_in_colour_and_an_edge_map_become_the_same_square() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (40, 50), dtype=np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(pixels.square(grey, 32, "sketch"), pixels.square(colour, 32, "sketch"))
    assert pixels.square(grey, 32, "photo").shape == (32, 32, 3)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pixels.write(path, [("a", np.zeros((4, 4, 3), np.uint8))], 8, "photo")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(PipelineError, match=r"p\.parquet"):
        pixels.Pixels.open(path)
