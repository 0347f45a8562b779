"""From pixels to the encoder's input."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline_lib import params
from pipeline_lib.data.share import ALL, Share

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as OpenCV's RGB2GRAY


def normalise(pixels: Tensor, settings: params.Train) -> Tensor:
    """Turns pixels into the encoder's input.

    Args:
        pixels: uint8[N, H, W, 3] (RGB) or uint8[N, H, W] (edge maps and drawings).
        settings: `color` (grey, for photos) and `patch_norm`.

    Returns:
        float32[N, 3, H, W] in channels-last memory; by ImageNet's mean and deviation, or each image to mean 0 and
        deviation 1 under `patch_norm`.
    """
    values = pixels.to(torch.float32)
    if values.ndim == 4 and settings.color == "grey":
        values = values @ values.new_tensor(GREY)
    if settings.patch_norm:
        if values.ndim == 3:
            values = values.unsqueeze(-1).expand(-1, -1, -1, 3)
        spread, mean = torch.std_mean(values, dim=(1, 2, 3), keepdim=True)
        values = (values - mean) / (spread + 255e-3)
    else:
        # (x / 255 - mean) / deviation as one product and one sum over memory that is written once, a row of pixels at a
        # time: torch is five times slower where the last axis that it repeats factors over is as short as 3.
        deviation, width = values.new_tensor(IMAGENET_STD), values.shape[2]
        scale, shift = 1 / (255.0 * deviation), -values.new_tensor(IMAGENET_MEAN) / deviation
        if values.ndim == 3:
            values = values.unsqueeze(-1).expand(-1, -1, -1, 3).contiguous()
        values.flatten(2).mul_(scale.repeat(width)).add_(shift.repeat(width))
    return values.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def drop_colours(images: Tensor, generator: torch.Generator, share: Share = ALL) -> Tensor:
    """Keeps one channel and fills the other two with faint noise (Doersch et al. 2015, against chromatic aberration).

    Args:
        images: float[N, 3, H, W].
        generator: source of the draw, on the CPU.
        share: which part of a batch the images are; what is drawn for them does not depend on it.

    Returns:
        float[N, 3, H, W].
    """
    everything = share.of * len(images)
    own = share.own(everything)
    kept = torch.randint(3, (everything,), generator=generator)[own]
    mask = functional.one_hot(kept, 3).to(images).view(-1, 3, 1, 1)
    spread = images.std(dim=(2, 3), keepdim=True).mean(dim=1, keepdim=True)
    noise = torch.randn((everything, *images.shape[1:]), generator=generator)[own].to(images) * (0.01 * spread)
    return (images * mask + noise * (1 - mask)).contiguous(memory_format=torch.channels_last)


def scaled(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """An image, uint8[H, W, 3] RGB or uint8[H, W], as a square, uint8[size, size, 3].

    Bilinear with antialiasing, whatever its aspect ratio.
    """
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.shape[:2] == (size, size):  # which scaling would leave as it is, in the time of decoding it
        return np.ascontiguousarray(image)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    square = functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    found: NDArray[np.uint8] = square[0].permute(1, 2, 0).contiguous().numpy()
    return found


def prepare(image: NDArray[np.uint8], size: int, settings: params.Train) -> Tensor:
    """A whole image as the encoder's input.

    Args:
        image: as in `scaled`.
        size: px; the image is scaled to this square.
        settings: section `train` (colour, normalisation).

    Returns:
        float32[1, 3, size, size].
    """
    return normalise(torch.from_numpy(scaled(image, size)[None]), settings)
