"""Image bytes in, upright 8-bit sRGB out; and the few things every stage does with an image.

The content decides what a file is, never its extension.
"""

import importlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

from pipeline_lib.data.formats import HEIF, RAW, Format, format_of, obstacle
from pipeline_lib.errors import PipelineError

# What Pillow may try. Left out are formats that run other programs (EPS), scientific containers, and formats without a
# signature (TGA), since any bytes could pass for one.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "SGI")
ORIENTATION: Final = 0x0112  # EXIF tag
EXIF_PART: Final = 0x8769  # EXIF tag of the directory that holds the next
TAKEN: Final = 0x9003
JPEG_START: Final = b"\xff\xd8\xff"
PNG_START: Final = b"\x89PNG\r\n\x1a\n"
ANIMATIONS: Final = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
MOST_FRAMES: Final = 50
"""Frames of an animation, or pages of a TIFF, that are looked at."""
BLANK: Final = 16
"""Levels of 255: a frame whose colours differ by no more shows nothing; compression alone makes a few of them."""
LARGE: Final = 250_000_000
"""Bytes of decoding from which images are decoded one after another, so that several threads do not fill the memory."""
LONGEST: Final = 50
"""Times the shorter side: of longer images nothing is seen in a square, and scaling them to a given shorter side takes
memory without end. Panoramas have 10, pages that were photographed whole from a screen 20."""
BUDGET: Final = 10
"""Bytes that decoding may take for each of `max_pixels`; a plain JPEG takes 7 a pixel and is bounded by these alone."""
SMALLEST_PREVIEW: Final = 400
"""px, longer side: smaller previews of raw files are thumbnails of 160 or 256 px, in which little can be seen."""
SAME_COLOURS: Final = 4
"""Levels of 255: a profile that changes no colour by more is sRGB in other words, and is left alone."""
REDUCTIONS: Final = (8, 4, 2)
"""Factors by which a JPEG can be made smaller while it is decoded."""
SPARE: Final = 2
"""A reduced image keeps at least this many pixels for each that was asked for. Of 100 photos of 12 megapixels shown to
a network at 256 px, vectors keep a cosine of 0.9993 (0.993 at worst) after a reduction to 756 px, as after one to 1512,
but 0.9975 (0.95 at worst) after one to 378."""

Pixels = NDArray[np.uint8]
Value = TypeVar("Value")
_large = threading.Lock()


class BadImage(Exception):  # noqa: N818  names the image, not the error
    """An image that can't be used; the message says why. Readers skip it, count it and list it."""


class TooLarge(BadImage):
    """An image that is refused before it is decoded, since that would take too much memory."""


def decode(data: bytes, *, max_pixels: int, short_side: int = 0) -> Pixels:
    """Decodes an image file of any common format to uint8[H, W, 3], RGB.

    Grey, CMYK, palette and 16-bit images become 8-bit RGB; colours are converted to sRGB by the file's ICC profile;
    transparency is laid on white; an animation gives its first frame that is not blank, a TIFF that begins with a
    thumbnail its largest page, a raw file its preview; EXIF orientation is applied.

    Args:
        data: the file's bytes.
        max_pixels: images are refused before they are decoded if more than this would have to be. Pillow refuses more
            than 178,956,970 of any format but JPEG.
        short_side: px; a JPEG may be decoded at a half, a fourth or an eighth of its size if its shorter side keeps at
            least `SPARE` times this. 0 decodes it whole.

    Raises:
        BadImage: the bytes are empty, truncated or of an unknown format, or a package that the format needs is not
            installed; `TooLarge`: decoding or scaling would take too much memory.
    """
    if not data:
        raise BadImage("the file is empty")
    return _guarded(lambda: _read(data, max_pixels, short_side))


def taken_at(data: bytes) -> int:
    """When a photo was taken, in seconds since 1970 by the camera's own clock; 0 where its EXIF does not tell."""

    def read() -> int:
        kind = format_of(data)
        if kind is RAW:
            return 0
        with _opened(data, kind) as image:
            text = str(image.getexif().get_ifd(EXIF_PART).get(TAKEN, ""))
        return int(datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp())

    try:
        return max(0, _guarded(read))
    except BadImage:
        return 0


def _guarded(work: Callable[[], Value]) -> Value:
    """Does a decoder's work; whatever it raises becomes a `BadImage`."""
    with warnings.catch_warnings():
        # Pillow warns about large images, whose size is checked, and about odd metadata, which does no harm.
        warnings.simplefilter("ignore")
        try:
            return work()
        except BadImage:
            raise
        except MemoryError as failure:
            raise TooLarge("it takes more memory than there is; save it smaller, or close other programs") from failure
        except UnidentifiedImageError as failure:
            raise BadImage("not an image of a known format") from failure
        except Image.DecompressionBombError as failure:
            raise TooLarge(str(failure)) from failure
        except Exception as failure:  # bad bytes make decoders raise almost anything
            raise BadImage(str(failure) or type(failure).__name__) from failure


def _read(data: bytes, max_pixels: int, short_side: int) -> Pixels:
    kind = format_of(data)
    if kind is RAW:
        return _preview(data, max_pixels, short_side)
    try:
        return _decoded(data, kind, max_pixels, short_side)
    except BadImage:
        raise
    except Exception:
        mended = _mended_png(data, max_pixels) if data.startswith(PNG_START) else None
        if mended is None:
            raise
        return _decoded(mended, kind, max_pixels, short_side)


def _decoded(data: bytes, kind: Format | None, max_pixels: int, short_side: int) -> Pixels:
    with _opened(data, kind) as image:
        if image.format == "TIFF":
            _turn_to_photo(image)
        reduced = _reduce(image, short_side)
        needed = _check_size(image, max_pixels)
        with _large if needed > LARGE else nullcontext():
            fast = None if reduced else _whole_jpeg(image, data)
            if fast is not None:
                return fast
            pixels = _first_seen(image)
            return _of_16_bits(data, pixels) if image.format in {"PNG", "TIFF"} else pixels


def _opened(data: bytes, kind: Format | None) -> Image.Image:
    """An image of which the header alone is read."""
    if kind and (why := obstacle(kind)):
        raise BadImage(why)
    if kind is HEIF:
        opened: Image.Image = _package(HEIF).HeifImageFile(io.BytesIO(data))
        return opened
    if data.startswith(JPEG_START):
        # Not by `Image.open`, which refuses photos of 200 megapixels before they can be reduced.
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _package(kind: Format) -> Any:
    try:
        return importlib.import_module(kind.package)
    except ImportError as failure:  # installed, but a library of the system is missing
        raise BadImage(f"{kind.name} photos are read by {kind.package}, which can't be loaded: {failure}") from failure


def _reduce(image: Image.Image, short_side: int) -> bool:
    """Lets a JPEG be decoded at a part of its size; True where it will be."""
    width, height = image.size
    fits = (factor for factor in REDUCTIONS if min(width, height) // factor >= SPARE * short_side)
    factor = next(fits, 1) if short_side > 0 and isinstance(image, JpegImagePlugin.JpegImageFile) else 1
    if factor > 1:
        image.draft(None, (width // factor, height // factor))
    return factor > 1


def _check_size(image: Image.Image, max_pixels: int) -> int:
    """Refuses what would take too much memory, before any of it is taken: while it is decoded, or when it is scaled.

    Returns:
        Bytes that decoding takes.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImage(f"{width} x {height} px")
    if width * height > max_pixels:
        raise TooLarge(f"{width} x {height} px are more than max_pixels {max_pixels}")
    if max(width, height) > LONGEST * min(width, height):
        raise TooLarge(f"{width} x {height} px: one side is more than {LONGEST} times as long as the other")
    needed, budget = width * height * _bytes_per_pixel(image), BUDGET * max_pixels
    if needed > budget:
        raise TooLarge(
            f"{width} x {height} px of {image.format} {image.mode} take {needed / 1e6:.0f} MB to decode, more than the "
            f"{budget / 1e6:.0f} of max_pixels {max_pixels}; save it as JPEG"
        )
    return needed


def _bytes_per_pixel(image: Image.Image) -> int:
    """What decoding takes at its peak, copies on the way to RGB included; measured on images of nine megapixels."""
    if image.format == "JPEG" and image.mode != "CMYK":
        return 7
    transparent = image.has_transparency_data
    if image.format == "WEBP":
        return 34 if transparent else 19
    deep = image.mode.startswith(("I", "F")) or image.format in {"PNG", "TIFF"}
    return 24 if transparent or deep else 20


def _turn_to_photo(image: Any) -> None:
    """Goes to the largest page of a TIFF if the first one is a thumbnail of it."""
    subfile_type = 254  # whose lowest bit marks a smaller version of another page
    count = min(image.n_frames, MOST_FRAMES)
    if count < 2:
        return
    thumbnail = bool(image.tag_v2.get(subfile_type, 0) & 1)
    areas = []
    for page in range(count):
        image.seek(page)
        areas.append(image.width * image.height)
    largest = max(areas)
    image.seek(areas.index(largest) if thumbnail or largest >= 4 * areas[0] else 0)


def _whole_jpeg(image: Image.Image, data: bytes) -> Pixels | None:
    """The same pixels as Pillow's from OpenCV's faster decoder; None where the two may differ."""
    # A truncated JPEG lacks the end marker, and OpenCV would fill the missing part with grey.
    whole = data.rstrip(b"\0").endswith(b"\xff\xd9")
    profile = image.info.get("icc_profile")
    if image.format != "JPEG" or not whole or not (image.mode == "RGB" or (image.mode == "L" and not profile)):
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        return None
    if profile and _to_srgb(profile):
        pixels = np.array(_in_srgb(Image.fromarray(pixels), profile))
    return _upright(np.asarray(pixels, np.uint8), image.getexif().get(ORIENTATION))


def _first_seen(image: Image.Image) -> Pixels:
    """The first frame that is not blank; the very first where all are, and of what is no animation."""
    first = _frame(image)
    if image.format not in ANIMATIONS or not getattr(image, "is_animated", False):
        return first
    found = first
    for number in range(1, MOST_FRAMES):
        if np.ptp(found, axis=(0, 1)).max() > BLANK:
            return found
        try:
            image.seek(number)
        except EOFError:
            break
        found = _frame(image)
    return first


def _frame(image: Image.Image) -> Pixels:
    image.load()
    profile, orientation = image.info.get("icc_profile"), image.getexif().get(ORIENTATION)
    picture: Image.Image = image
    if image.mode.startswith(("I", "F")):
        picture = Image.fromarray(_to_8_bit(np.asarray(image), image.mode))
    elif image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        picture = Image.alpha_composite(white, seen).convert("L" if image.mode in {"LA", "La"} else "RGB")
    return _upright(np.array(_in_srgb(picture, profile), np.uint8), orientation)


def _upright(pixels: Pixels, orientation: object) -> Pixels:
    """Pixels as they are to be seen, by the value of EXIF's orientation."""
    turned: cv2.typing.MatLike = pixels
    if orientation in (5, 7):
        turned = cv2.transpose(pixels)
    if orientation in (3, 7):
        turned = cv2.rotate(turned, cv2.ROTATE_180)
    elif orientation in (2, 4):
        turned = cv2.flip(turned, 1 if orientation == 2 else 0)
    elif orientation in (6, 8):
        turned = cv2.rotate(turned, cv2.ROTATE_90_CLOCKWISE if orientation == 6 else cv2.ROTATE_90_COUNTERCLOCKWISE)
    return np.asarray(turned, np.uint8)


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture of any mode of 8 bits as RGB, its colours converted by an ICC profile that fits the mode."""
    found = _to_srgb(profile) if profile else None
    # Any picture is converted by a profile of RGB, but ink: what its numbers mean the profile does not say.
    if found and (found[0] == picture.mode or (found[0] == "RGB" and picture.mode != "CMYK")):
        converted = ImageCms.applyTransform(_of_mode(picture, found[0]), found[1])
        if converted is not None:
            return converted
    return _of_mode(picture, "RGB")


def _of_mode(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """The mode that an ICC profile is for, and the way from there to sRGB; None where it is sRGB, or broken."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
        if mode == "CMYK":
            return mode, transform
        levels = np.arange(0, 256, 17).astype(np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 16, 3)
        before = np.repeat(levels[None, :, None], 3, axis=2) if mode == "L" else grid
        shown = Image.fromarray(np.ascontiguousarray(before[..., 0] if mode == "L" else before))
        after = np.asarray(ImageCms.applyTransform(shown, transform), np.int16)
    except Exception:  # noqa: BLE001  a profile that can't be used says nothing of the colours
        return None
    return None if np.abs(after - before).max() <= SAME_COLOURS else (mode, transform)


def _to_8_bit(values: NDArray[np.generic], mode: str) -> Pixels:
    """Values of 16 or 32 bits, or floating point, as uint8 of the same shape."""
    # Neither these modes nor files of 16 bits that hold the 12 of a sensor tell what white is: take the smallest common
    # range that holds all values.
    largest = max((float(_numbers(row).max(initial=0.0)) for row in values), default=0.0)
    ranges = ([1.0] if mode == "F" else []) + [255.0, 1023.0, 4095.0, 65535.0]
    scale = next((white for white in ranges if largest <= white), largest)
    found = np.empty(values.shape, np.uint8)
    # Row by row: as numbers of 64 bits, the whole would take 16 times the memory of the image.
    for target, row in zip(found, values, strict=True):
        target[...] = np.clip(_numbers(row) * (255 / scale), 0, 255).round()
    return found


def _numbers(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64))


def _of_16_bits(data: bytes, pixels: Pixels) -> Pixels:
    """The same image with the colours of 12 bits in 16, of which Pillow takes the upper 8: the upper 4, nearly black.

    OpenCV keeps all 16. Any other image is returned as it is.
    """
    if pixels.max(initial=0) > 15:
        return pixels
    mode = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    deep = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    return pixels if deep is None or deep.dtype != np.uint16 or deep.shape != pixels.shape else _to_8_bit(deep, "I;16")


def _mended_png(data: bytes, max_pixels: int) -> bytes | None:
    """A PNG whose checksums are wrong, or whose texts or profile are longer than Pillow takes, as browsers read it.

    What is needed to see the picture is kept under new checksums; None where that is not all there.
    """
    chunks = list(_png_chunks(data))
    if not chunks or chunks[0][0] != b"IHDR" or chunks[-1][0] != b"IEND":
        return None
    packed = b"".join(body for name, body in chunks if name == b"IDAT")
    # Without the checksum at its end, and no more than the largest image can have: 4 channels of 16 bits, and filters.
    unpacked = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(packed[2:], 9 * max_pixels + (1 << 20))
    kept = [(name, body) for name, body in chunks if name in {b"IHDR", b"PLTE", b"tRNS"}]
    parts = [PNG_START]
    for name, body in [*kept, (b"IDAT", zlib.compress(unpacked, 1)), (b"IEND", b"")]:
        parts.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return b"".join(parts)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of a PNG's chunks up to its end, or to where it is cut."""
    place = len(PNG_START)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        if len(body) < length:
            return
        yield name, body
        place += 12 + length
        if name == b"IEND":
            return


def _preview(data: bytes, max_pixels: int, short_side: int) -> Pixels:
    """The picture that a camera puts into a raw file."""
    if why := obstacle(RAW):
        raise BadImage(why)
    with _package(RAW).imread(io.BytesIO(data)) as raw:
        found, flip = raw.extract_thumb(), raw.sizes.flip
    is_jpeg, told = isinstance(found.data, bytes), None
    width, height = (0, 0) if is_jpeg else found.data.shape[1::-1]
    if is_jpeg:
        with _opened(found.data, None) as image:
            (width, height), told = image.size, image.getexif().get(ORIENTATION)
    if max(width, height) < SMALLEST_PREVIEW:
        raise BadImage(f"its preview of {width} x {height} px is a thumbnail; save it as JPEG")
    if not is_jpeg:
        pixels = np.ascontiguousarray(found.data[..., :3], np.uint8)
    else:
        pixels = _decoded(found.data, None, max_pixels, short_side)
    # LibRaw's own numbers for the three ways to turn; a preview that tells its orientation has been turned already.
    return pixels if told else _upright(pixels, {3: 3, 5: 8, 6: 6}.get(flip))


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
