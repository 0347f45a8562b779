from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline_lib import params
from pipeline_lib.data.images import decode_encoded
from pipeline_lib.errors import PipelineError
from pipeline_lib.pretext.batches import PatchShards, pair_table
from pipeline_lib.pretext.layout import direction
from pipeline_lib.pretext.patches import make_patches


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [row for path in sorted(folder.iterdir()) for row in pq.read_table(path).to_pylist()]


def test_patches_are_the_pixels_of_photo_and_edge_map_at_their_boxes(
    pairs_folder: Path, patches_folder: Path, tiny_patches: params.Patches
) -> None:
    size = tiny_patches.size
    pairs = {row["image_id"]: row for row in rows_of(pairs_folder)}
    rows = rows_of(patches_folder)
    assert sorted((row["image_id"], row["draw"]) for row in rows) == sorted(
        (name, draw) for name in pairs for draw in range(3)
    )
    for row in rows[::5]:
        photo = decode_encoded(pairs[row["image_id"]]["photo"])  # type: ignore[arg-type]
        lines = decode_encoded(pairs[row["image_id"]]["edges"], grey=True)  # type: ignore[arg-type]
        photos = np.frombuffer(row["photo_patches"], np.uint8).reshape(4, size, size, 3)  # type: ignore[call-overload]
        edges = np.frombuffer(row["edge_patches"], np.uint8).reshape(4, size, size)  # type: ignore[call-overload]
        for region, (x0, y0, x1, y1) in enumerate(np.reshape(row["boxes"], (4, 4))):  # type: ignore[call-overload]
            np.testing.assert_array_equal(photos[region], photo[y0:y1, x0:x1])
            np.testing.assert_array_equal(edges[region], lines[y0:y1, x0:x1])


def test_the_shards_state_the_shapes_of_their_tensors(patches_folder: Path) -> None:
    metadata = pq.read_schema(next(patches_folder.iterdir())).metadata
    assert metadata[b"photo_patches"] == b"uint8[4,64,64,3]"
    assert metadata[b"edge_patches"] == b"uint8[4,64,64]"


def test_making_patches_twice_gives_the_same_bytes(
    pairs_folder: Path, patches_folder: Path, tiny_patches: params.Patches, tmp_path: Path
) -> None:
    make_patches(pairs_folder, tiny_patches, tmp_path / "again", tmp_path / "scratch", 1)
    for path in patches_folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_shard_of_pairs_cut_in_half_is_named(
    pairs_folder: Path, tiny_patches: params.Patches, tmp_path: Path
) -> None:
    shard = pairs_folder / "part-00001.parquet"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(PipelineError, match=r"part-00001\.parquet.*dvc repro"):
        make_patches(pairs_folder, tiny_patches, tmp_path / "out", tmp_path / "scratch", 1)


def test_patches_that_cannot_be_published_are_not_cut_again(
    pairs_folder: Path, tiny_patches: params.Patches, tmp_path: Path
) -> None:
    place = tmp_path / "data"
    place.touch()  # a file where the folder should be
    with pytest.raises(PipelineError, match=r"data/patches: .* can't be moved there"):
        make_patches(pairs_folder, tiny_patches, place / "patches", tmp_path / "scratch", 1)
    before = {path.name: path.stat().st_ino for path in tmp_path.glob("scratch/*/*.parquet")}
    place.unlink()
    make_patches(pairs_folder, tiny_patches, place / "patches", tmp_path / "scratch", 1)
    assert {path.name: path.stat().st_ino for path in (place / "patches").iterdir()} == before


def test_two_runs_side_by_side_share_their_scratch_folder(
    pairs_folder: Path, patches_folder: Path, tiny_patches: params.Patches, tmp_path: Path
) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda out: make_patches(pairs_folder, tiny_patches, out, tmp_path / "scratch", 1), outs))
    for path in patches_folder.iterdir():
        assert all((out / path.name).read_bytes() == path.read_bytes() for out in outs)


def test_an_epoch_holds_every_wanted_image_once(patches_folder: Path) -> None:
    wanted = [f"image/{number:02d}" for number in range(0, 14, 2)]
    shards = PatchShards(patches_folder, wanted, "cross")
    for draw in range(3):
        batches = list(shards.epoch(draw, 3, shuffle=(0, draw)))
        assert [len(batch.image_ids) for batch in batches] == [3, 3, 1]
        assert sorted(name for batch in batches for name in batch.image_ids) == wanted
        assert all(batch.photos is not None and batch.photos.shape[1:] == (4, 64, 64, 3) for batch in batches)
    dropped = list(shards.epoch(0, 3, shuffle=(0,), drop_last=True))
    assert [len(batch.image_ids) for batch in dropped] == [3, 3]


def test_batches_hold_the_patches_of_the_images_they_name(patches_folder: Path) -> None:
    stored = {(row["image_id"], row["draw"]): row for row in rows_of(patches_folder)}
    shards = PatchShards(patches_folder, [f"image/{number:02d}" for number in range(14)], "cross")
    for batch in shards.epoch(1, 4, shuffle=("any", 1)):
        assert batch.photos is not None
        assert batch.edges is not None
        for name, photos, edges in zip(batch.image_ids, batch.photos, batch.edges, strict=True):
            assert photos.tobytes() == stored[name, 1]["photo_patches"]
            assert edges.tobytes() == stored[name, 1]["edge_patches"]


@pytest.mark.parametrize("start", range(5))
def test_a_resumed_epoch_goes_on_with_the_same_batches(patches_folder: Path, start: int) -> None:
    shards = PatchShards(patches_folder, [f"image/{number:02d}" for number in range(14)], "cross")
    whole = [batch.image_ids for batch in shards.epoch(0, 3, shuffle=(5, 1))]
    rest = [batch.image_ids for batch in shards.epoch(0, 3, shuffle=(5, 1), start=start)]
    assert rest == whole[start:]


def test_epochs_differ_in_order_and_seeds_repeat_it(patches_folder: Path) -> None:
    shards = PatchShards(patches_folder, [f"image/{number:02d}" for number in range(14)], "edges")
    orders = [[b.image_ids for b in shards.epoch(0, 14, shuffle=(0, epoch))] for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert next(iter(shards.epoch(0, 2, shuffle=None))).photos is None


def test_leaving_an_epoch_early_stops_the_reader(patches_folder: Path) -> None:
    import threading

    shards = PatchShards(patches_folder, [f"image/{number:02d}" for number in range(14)], "cross")
    for _ in zip(range(1), shards.epoch(0, 1, shuffle=None), strict=False):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "patch-reader"]


def test_a_damaged_shard_of_patches_is_named(patches_folder: Path) -> None:
    shard = patches_folder / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(PipelineError, match=r"part-00000\.parquet"):
        PatchShards(patches_folder, ["image/00"], "cross")


def test_cross_domain_pairs_join_a_photo_with_an_edge_map_in_both_orders() -> None:
    table = pair_table("cross")
    assert len(table.first) == 24
    for first, second, way, order in zip(table.first, table.second, table.directions, table.order, strict=True):
        assert (first < 4) != (second < 4)
        assert order == ("photo_edges" if first < 4 else "edges_photo")
        assert way == direction(first % 4, second % 4)
    for domain in ("photo", "edges"):
        assert len(pair_table(domain).first) == 12
