from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pipeline_lib import params
from pipeline_lib.models.inputs import drop_colours, normalise, prepare, scaled
from tests.conftest import scene

Make = Callable[..., params.Params]


def test_photos_and_drawings_are_normalised_alike(make_params: Make) -> None:
    settings = make_params().train
    drawing = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    photo = np.repeat(drawing[..., None], 3, axis=3)
    one, other = (normalise(torch.from_numpy(pixels), settings) for pixels in (drawing, photo))
    torch.testing.assert_close(one, other)
    white = normalise(torch.full((1, 4, 4, 3), 255, dtype=torch.uint8), settings)
    expected = [
        (1 - mean) / deviation for mean, deviation in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    torch.testing.assert_close(white[0, :, 0, 0], torch.tensor(expected))


def test_patch_normalisation_removes_brightness_and_contrast(make_params: Make) -> None:
    settings = make_params({"train.patch_norm": True}).train
    pixels = torch.randint(40, 120, (3, 16, 16, 3), dtype=torch.uint8)
    plain, brighter = normalise(pixels, settings), normalise(pixels * 2, settings)
    torch.testing.assert_close(plain, brighter, atol=0.02, rtol=0.02)
    torch.testing.assert_close(plain.mean(dim=(1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)


def test_grey_makes_colours_of_one_luma_equal(make_params: Make) -> None:
    settings = make_params({"train.color": "grey"}).train
    red = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    red[..., 0] = 100
    grey = torch.full((1, 2, 2), 30, dtype=torch.uint8)
    torch.testing.assert_close(normalise(red, settings), normalise(grey, settings), atol=0.01, rtol=0.01)


def test_colour_dropping_keeps_one_channel_and_leaves_faint_noise_in_the_others() -> None:
    images = torch.randn(40, 3, 16, 16)
    dropped = drop_colours(images, torch.Generator().manual_seed(0))
    kept = (dropped == images).flatten(2).all(-1)
    assert (kept.sum(1) == 1).all()
    assert kept.any(0).all()
    assert dropped[~kept].std() < 0.05
    again = drop_colours(images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(dropped, again)


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


def test_a_square_of_the_size_that_is_asked_for_is_what_scaling_would_make_of_it() -> None:
    square = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    pixels = torch.from_numpy(square).permute(2, 0, 1)[None]
    reference = torch.nn.functional.interpolate(pixels, (48, 48), mode="bilinear", antialias=True)
    np.testing.assert_array_equal(scaled(square, 48), reference[0].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(scaled(square[..., 0], 48), np.repeat(square[..., :1], 3, axis=2))


def test_a_drawing_in_grey_is_prepared_like_the_same_drawing_in_colour(make_params: Make) -> None:
    grey = scene(1)[..., 0]
    settings = make_params().train
    torch.testing.assert_close(prepare(grey, 64, settings), prepare(np.stack([grey] * 3, axis=-1), 64, settings))
