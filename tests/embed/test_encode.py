from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.data.files import write_json
from pipeline_lib.errors import PipelineError
from pipeline_lib.models.device import has_bf16
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.retrieval.encode import Item, batched, export, load_encoder, prepare
from pipeline_lib.retrieval.fc6 import fc6_of, parts_of, pool5_of
from pipeline_lib.retrieval.networks import Network, Networks
from tests.conftest import scene

Make = Callable[..., params.Params]


@pytest.fixture
def model_folder(make_params: Make, tmp_path: Path) -> Path:
    settings = make_params({"train.fc6": 12, "train.pretrained": "none"})
    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(0)
    encoder = Encoder(settings.train, settings.patches.size)
    save_file(encoder.state_dict(), folder / "encoder.safetensors")
    write_json(folder / "meta.json", {"params": settings.model_dump(include={"train", "patches"})})
    return folder


def items(count: int) -> Iterator[Item]:
    for number in range(count):
        yield f"i{number}", "dog", f"t{number}", scene(number)


def test_an_encoder_comes_back_as_it_was_written_ready_for_evaluation(model_folder: Path, make_params: Make) -> None:
    loaded = load_encoder(model_folder)
    assert not loaded.encoder.training
    assert loaded.train.fc6 == 12
    torch.manual_seed(0)
    same = Encoder(loaded.train, 96).eval()
    image = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(fc6_of(loaded, make_params().embed)(image), same(image), rtol=1e-4, atol=1e-4)
    assert pool5_of(loaded)(image).shape == (1, 256 * 4 * 4)


def test_a_network_trained_on_cuda_embeds_on_a_machine_without(
    model_folder: Path, make_params: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that tests on CUDA would not show it.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = make_params({"train.fc6": 12, "train.pretrained": "none", "train.device": "cuda"})
    write_json(model_folder / "meta.json", {"params": settings.model_dump(include={"train", "patches"})})
    loaded = load_encoder(model_folder)
    assert loaded.device.type == "cpu"
    assert fc6_of(loaded, settings.embed)(torch.randn(1, 3, 160, 160)).shape == (1, 12)


def test_the_vectors_of_several_sizes_are_joined_each_with_the_same_length(
    model_folder: Path, make_params: Make
) -> None:
    loaded = load_encoder(model_folder)
    settings = make_params({"embed.image_size": [96, 160]}).embed
    assert (settings.sizes, settings.largest) == ([96, 160], 160)
    image = prepare(scene(0), settings.largest, loaded.train)
    with torch.inference_mode():
        joined = fc6_of(loaded, settings)(image)
        large = fc6_of(loaded, make_params({"embed.image_size": 160}).embed)(image)
        small = fc6_of(loaded, make_params({"embed.image_size": 96}).embed)(prepare(scene(0), 96, loaded.train))
    assert joined.shape == (1, 24)
    torch.testing.assert_close(joined[:, 12:], functional.normalize(large))
    # The smaller image is made from the larger one in place of the original: nearly the same.
    assert float(functional.cosine_similarity(joined[:, :12], small)) > 0.98
    torch.testing.assert_close(joined[:, :12].norm(), torch.tensor(1.0))


def test_the_last_map_joins_fc6(model_folder: Path, make_params: Make) -> None:
    loaded = load_encoder(model_folder)
    image = prepare(scene(0), 160, loaded.train)
    with torch.inference_mode():
        joined = fc6_of(loaded, make_params({"embed.image_size": 160, "embed.layers": "fc6+pool5"}).embed)(image)
        fc6 = fc6_of(loaded, make_params({"embed.image_size": 160}).embed)(image)
        torch.testing.assert_close(joined[:, :12], functional.normalize(fc6))
        torch.testing.assert_close(joined[:, 12:], functional.normalize(pool5_of(loaded)(image)))


def test_half_the_bits_of_the_products_hardly_move_a_vector(model_folder: Path, make_params: Make) -> None:
    loaded = load_encoder(model_folder)
    image = prepare(scene(0), 160, loaded.train)
    with torch.inference_mode():
        whole, half = (fc6_of(loaded, make_params({"embed.precision": name}).embed)(image) for name in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert not torch.equal(whole, half)
    assert float(functional.cosine_similarity(whole, half)) > 0.999


def test_left_to_itself_a_vector_has_half_the_bits_where_the_processor_has_such_products(
    model_folder: Path, make_params: Make
) -> None:
    loaded = load_encoder(model_folder)
    image = prepare(scene(0), 160, loaded.train)
    expected = "bf16" if has_bf16(loaded.device) else "fp32"
    with torch.inference_mode():
        own, told = (fc6_of(loaded, make_params({"embed.precision": name}).embed)(image) for name in ("auto", expected))
    assert torch.equal(own, told)


def test_weights_that_are_missing_cut_or_of_another_shape_are_named(model_folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"start\.safetensors.*dvc repro train"):
        load_encoder(model_folder, "start.safetensors")
    whole = (model_folder / "encoder.safetensors").read_bytes()
    (model_folder / "encoder.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PipelineError, match=r"encoder\.safetensors"):
        load_encoder(model_folder)
    save_file({"fc6.weight": torch.zeros(3, 3)}, model_folder / "encoder.safetensors")
    with pytest.raises(PipelineError, match=r"encoder\.safetensors"):
        load_encoder(model_folder)


def test_a_network_of_before_the_contrast_still_loads(make_params: Make, tmp_path: Path) -> None:
    settings = make_params({"train.fc6": 12, "train.pretrained": "none", "train.fc6_grid": 0})
    save_file(Encoder(settings.train, settings.patches.size).state_dict(), tmp_path / "encoder.safetensors")
    record = settings.model_dump(include={"train", "patches"})
    for key in ("fc6_grid", "context_weight", "contrast_weight", "keep_weight"):
        del record["train"][key]
    write_json(tmp_path / "meta.json", {"params": record})
    assert load_encoder(tmp_path).encoder.grid == 2


def test_a_record_of_an_unknown_network_is_named(model_folder: Path) -> None:
    write_json(model_folder / "meta.json", {"params": {"train": {"encoder": "transformer"}, "patches": {"size": 96}}})
    with pytest.raises(PipelineError, match=r"meta\.json: tells of no network"):
        load_encoder(model_folder)


def test_whole_images_are_scaled_as_torchvision_scales_them(make_params: Make) -> None:
    from torchvision.transforms import v2

    image = scene(3)
    reference = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((96, 96), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    torch.testing.assert_close(prepare(image, 96, make_params().train)[0], reference(image), atol=1e-5, rtol=1e-5)


def test_a_drawing_in_grey_is_prepared_like_the_same_drawing_in_colour(make_params: Make) -> None:
    grey = scene(1)[..., 0]
    settings = make_params().train
    torch.testing.assert_close(prepare(grey, 64, settings), prepare(np.stack([grey] * 3, axis=-1), 64, settings))


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
    expected = torch.cat([prepare(image, 48, settings) for _, _, _, image in items(7)])
    np.testing.assert_allclose(mean["vector"].to_pylist(), expected.mean(dim=(2, 3)), atol=1e-6)
    np.testing.assert_allclose(corner["vector"].to_pylist(), expected[:, :2, 0, 0], atol=1e-6)


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


def test_layers_are_parts_of_their_own_where_they_are_aligned_apart(model_folder: Path, make_params: Make) -> None:
    loaded = load_encoder(model_folder)
    image = prepare(scene(0), 160, loaded.train)
    sizes = {"embed.image_size": [96, 160], "embed.layers": "fc6+pool5+conv4"}
    with torch.inference_mode():
        (whole,) = parts_of(loaded, make_params(sizes).embed)(image)
        fc6, pool5, conv4 = parts_of(loaded, make_params({**sizes, "embed.apart": True}).embed)(image)
        # In AlexNet conv4 has as many channels as pool5, and is averaged to as many places: 2 x 2 and 4 x 4.
        assert (fc6.shape[1], pool5.shape[1], conv4.shape[1]) == (2 * 12, 256 * (4 + 16), 256 * (4 + 16))
        # The same numbers, in another order: there the layers of a size stand together.
        torch.testing.assert_close(whole.sort().values, torch.cat([fc6, pool5, conv4], dim=1).sort().values)
        assert float(whole.norm() ** 2) == pytest.approx(6)
        before, last = loaded.encoder.maps(image)
        torch.testing.assert_close(last, loaded.encoder.pool5(image))
        assert before.shape == last.shape


def test_mirror_images_follow_where_facing_counts(model_folder: Path, make_params: Make) -> None:
    loaded = load_encoder(model_folder)
    image = prepare(scene(0), 160, loaded.train)
    layers = {"embed.image_size": 160, "embed.layers": "fc6+pool5", "embed.apart": True}
    plain, facing = (
        Networks((Network(loaded, make_params({**layers, "embed.facing": weight}).embed),)) for weight in (0.0, 2.0)
    )
    with torch.inference_mode():
        own, other = np.hsplit(facing.embed(image).numpy(), 2)
        np.testing.assert_allclose(own, plain.embed(image), rtol=1e-5)
        np.testing.assert_allclose(other, plain.embed(image.flip(-1)), rtol=1e-5)
    assert facing.widths() == plain.widths() == (12, own.shape[1] - 12)
    assert not np.allclose(own, other)
