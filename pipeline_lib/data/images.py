"""Image bytes in, upright 8-bit RGB out; and the few things every stage does with an image.

The content decides what a file is, never its extension.
"""

import io
import warnings
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline_lib.errors import PipelineError

# What Pillow may try. Left out are formats that run other programs (EPS), scientific containers, and formats without a
# signature (TGA), since any bytes could pass for one.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "SGI")
ORIENTATION: Final = 0x0112  # EXIF tag


class BadImage(Exception):  # noqa: N818  names the image, not the error
    """An image that can't be used; the message says why. Readers skip it, count it and list it."""


def decode(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decodes an image file of any common format to uint8[H, W, 3], RGB.

    Grey, CMYK, palette and 16-bit images become 8-bit RGB; transparency is laid on white; an animation gives its first
    frame; EXIF orientation is applied.

    Args:
        data: the file's bytes.
        max_pixels: images with more are refused before they are decoded. Pillow itself refuses more than 178,956,970.

    Raises:
        BadImage: the bytes are empty, truncated, of an unknown format or hold too many pixels.
    """
    if not data:
        raise BadImage("the file is empty")
    with warnings.catch_warnings():
        # Pillow warns about large images, which are checked below, and about odd metadata, which does no harm.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size, max_pixels)
                fast = _plain_jpeg(image, data)
                return _pillow_rgb(image) if fast is None else fast
        except (BadImage, MemoryError):
            raise
        except UnidentifiedImageError as failure:
            raise BadImage("not an image of a known format") from failure
        except Image.DecompressionBombError as failure:
            raise BadImage(str(failure)) from failure
        except Exception as failure:  # bad bytes make decoders raise almost anything
            raise BadImage(str(failure) or type(failure).__name__) from failure


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadImage(f"{width} x {height} px")
    if width * height > max_pixels:
        raise BadImage(f"{width} x {height} px are more than catalog.max_pixels {max_pixels}")


def _plain_jpeg(image: Image.Image, data: bytes) -> NDArray[np.uint8] | None:
    """The same pixels as Pillow's from OpenCV's faster decoder; None where the two may differ."""
    # A truncated JPEG lacks the end marker, and OpenCV would fill the missing part with grey.
    whole = data.rstrip(b"\0").endswith(b"\xff\xd9")
    if (
        image.format != "JPEG"
        or image.mode not in {"RGB", "L"}
        or not whole
        or image.getexif().get(ORIENTATION, 1) != 1
    ):
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if pixels is None else np.asarray(pixels, np.uint8)


def _pillow_rgb(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        grey = _to_8_bit(np.asarray(image), image.mode)
        return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        image = Image.alpha_composite(white, seen)
    return np.array(image.convert("RGB"), np.uint8)


def _to_8_bit(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Grey values of 16 or 32 bits, or floating point, as uint8[H, W]."""
    grey = np.nan_to_num(values.astype(np.float64))
    if mode.startswith("I;16"):
        scale = 65535.0
    else:
        # These modes don't define white: take the smallest common range that holds all values.
        largest = grey.max(initial=0.0)
        ranges = ([1.0] if mode == "F" else []) + [255.0, 65535.0]
        scale = next((white for white in ranges if largest <= white), largest)
    return np.asarray(np.clip(grey * (255 / scale), 0, 255).round(), np.uint8)


def resize_short_side(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Scales uint8[H, W] or uint8[H, W, 3] so that its shorter side is `side` px, keeping its aspect ratio.

    Pixels are averaged over areas when it shrinks, and interpolated cubically when it grows.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    if short == side:
        return image
    size = (max(side, round(width * side / short)), max(side, round(height * side / short)))
    method = cv2.INTER_AREA if side < short else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """JPEG bytes of uint8[H, W, 3] RGB or uint8[H, W] grey; `quality` 1 to 100.

    Raises:
        PipelineError: the image can't be encoded (JPEG holds at most 65,500 px a side).
    """
    return _encode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes (lossless); image and errors as in `encode_jpeg`."""
    return _encode(".png", image, [])


def _encode(extension: str, image: NDArray[np.uint8], options: list[int]) -> bytes:
    try:
        ordered = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(extension, ordered, options)
    except cv2.error as failure:
        raise PipelineError(f"an image {image.shape} can't be encoded as {extension}: {failure}") from failure
    if not done:
        raise PipelineError(f"an image {image.shape} can't be encoded as {extension}")
    return data.tobytes()


def decode_encoded(data: bytes, *, grey: bool = False) -> NDArray[np.uint8]:
    """What `encode_jpeg` or `encode_png` wrote, as uint8[H, W, 3] RGB, or uint8[H, W] if `grey`; else use `decode`.

    Raises:
        BadImage: the bytes are truncated or not an image.
    """
    mode = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data else None
    except cv2.error as failure:
        raise BadImage(f"a stored image can't be decoded: {failure}") from failure
    if image is None:
        raise BadImage("a stored image can't be decoded")
    return np.asarray(image, np.uint8)


def square(image: NDArray[np.uint8], side: int) -> Image.Image:
    """An image, uint8[H, W, 3] RGB or uint8[H, W], fitted into a square of `side` px, centred on light grey."""
    picture = Image.fromarray(image).convert("RGB")
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    tile = Image.new("RGB", (side, side), "#f0f0f0")
    tile.paste(picture.resize(size, Image.Resampling.LANCZOS), ((side - size[0]) // 2, (side - size[1]) // 2))
    return tile
