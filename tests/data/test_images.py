from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline_lib.data.images import (
    BadImage,
    TooLarge,
    decode,
    decode_encoded,
    encode_jpeg,
    encode_png,
    resize_short_side,
)

LIMIT = 1_000_000


def picture(height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    """A smooth coloured picture, so that lossy formats stay close."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=2).astype(np.uint8)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "QOI"])
def test_lossless_formats_give_their_pixels(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(decode(saved(Image.fromarray(picture()), form, **options), max_pixels=LIMIT), picture())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
def test_jpeg_has_the_pixels_that_pillow_reads(options: dict[str, object]) -> None:
    data = saved(Image.fromarray(picture()), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode(data, max_pixels=LIMIT), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_grey_becomes_three_equal_channels(form: str) -> None:
    image = decode(saved(Image.fromarray(picture()).convert("L"), form), max_pixels=LIMIT)
    assert image.shape == (60, 80, 3)
    assert np.array_equal(image[..., 0], image[..., 1])
    assert np.array_equal(image[..., 0], image[..., 2])


def test_black_and_white_and_palettes_are_read() -> None:
    sharp = Image.fromarray(picture()).convert("1")
    assert set(np.unique(decode(saved(sharp, "PNG"), max_pixels=LIMIT))) == {0, 255}
    few = Image.fromarray(picture()).quantize(16)
    assert np.array_equal(decode(saved(few, "PNG"), max_pixels=LIMIT), np.asarray(few.convert("RGB")))


def test_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("RGB", (40, 40), (250, 10, 10)).convert("CMYK")
    image = decode(saved(red, "JPEG", quality=95), max_pixels=LIMIT)
    assert image[..., 0].min() > 220
    assert image[..., 1:].max() < 40


@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_is_scaled_not_wrapped(extension: str, channels: int) -> None:
    wide = picture().astype(np.uint16) * 257
    stored = wide[..., 0] if channels == 1 else wide[..., ::-1]
    image = decode(cv2.imencode(extension, stored)[1].tobytes(), max_pixels=LIMIT)
    expected = np.repeat(picture()[..., :1], 3, axis=2) if channels == 1 else picture()
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_floating_point_tiff_is_read_as_grey() -> None:
    data = saved(Image.fromarray(np.linspace(0, 1, 20 * 30, dtype=np.float32).reshape(20, 30)), "TIFF")
    image = decode(data, max_pixels=LIMIT)
    assert image[0, 0, 0] == 0
    assert image[-1, -1, 0] == 255


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_transparency_lies_on_white(form: str) -> None:
    clear = Image.new("RGBA", (30, 20), (10, 10, 10, 0))
    clear.paste((200, 0, 0, 255), (0, 0, 15, 20))
    image = decode(saved(clear, form), max_pixels=LIMIT)
    assert image[:, 20:].min() >= 250
    assert image[5, 5, 0] > 150
    assert image[5, 5, 1] < 40


def test_half_transparent_is_blended() -> None:
    image = decode(saved(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG"), max_pixels=LIMIT)
    assert abs(int(image[0, 0, 0]) - 127) <= 1


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "lime", "blue")]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:])
    red, green, blue = decode(data, max_pixels=LIMIT)[10, 10]
    assert red > 200
    assert max(green, blue) < 50


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    upright = np.full((32, 48, 3), 255, np.uint8)
    upright[:16, :16] = 0  # the dark corner is top left when upright
    # What a camera stores: the inverse of what each orientation asks a viewer to do.
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(turned)), form, exif=exif)
    image = decode(data, max_pixels=LIMIT)
    assert image.shape == (32, 48, 3)
    assert image[4, 4].max() < 60
    assert min(image[4, -4].min(), image[-4, 4].min(), image[-4, -4].min()) > 200


def test_damaged_exif_does_not_spoil_a_good_picture() -> None:
    data = saved(Image.fromarray(picture()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert decode(data, max_pixels=LIMIT).shape == (60, 80, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@settings(max_examples=15, deadline=None)
@given(part=st.floats(0.0, 0.97))
def test_a_cut_file_is_bad_never_half_a_picture(form: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = saved(Image.fromarray(noise), form)
    with pytest.raises(BadImage):
        decode(data[: int(len(data) * part)], max_pixels=LIMIT)


def test_a_jpeg_cut_inside_is_bad_though_a_thumbnail_ends_well() -> None:
    thumbnail = saved(Image.new("RGB", (16, 16)), "JPEG")
    data = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    inside = data[:2] + b"\xff\xef" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    assert decode(inside, max_pixels=LIMIT).shape == (64, 64, 3)
    with pytest.raises(BadImage, match="truncated"):
        decode(inside[: len(inside) // 2], max_pixels=LIMIT)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"not an image at all", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_bad(data: bytes) -> None:
    with pytest.raises(BadImage):
        decode(data, max_pixels=LIMIT)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400))
def test_random_bytes_are_bad_and_nothing_else(data: bytes) -> None:
    with pytest.raises(BadImage):
        decode(data, max_pixels=LIMIT)


def png_header(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (head, body)
    )


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (60_000, 60_000), (2_000_000_000, 2_000_000_000)])
def test_too_many_pixels_are_refused_before_decoding(width: int, height: int) -> None:
    with pytest.raises(BadImage, match="pixels"):
        decode(png_header(width, height), max_pixels=LIMIT)


def test_the_limit_itself_is_allowed() -> None:
    assert decode(encode_jpeg(picture(10, 10), 90), max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(BadImage, match="max_pixels 99"):
        decode(encode_jpeg(picture(10, 10), 90), max_pixels=99)


def flat_png(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of one colour of any size, made without its pixels."""
    row = 1 + -(-width * depth * (1, 0, 3, 1, 2, 0, 4)[colour] // 8)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(row * count)) for count in [1000] * (height // 1000) + [height % 1000])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", packed + packer.flush()), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("width", "height"), [(1, 29_900_000), (400_000, 2), (3000, 59)])
def test_what_is_much_longer_than_wide_is_refused_before_it_is_scaled(width: int, height: int) -> None:
    with pytest.raises(TooLarge, match=f"{width} x {height} px: one side is more than 50 times"):
        decode(flat_png(width, height), max_pixels=100_000_000)


def test_a_panorama_is_read() -> None:
    assert decode(flat_png(3000, 100), max_pixels=LIMIT).shape == (100, 3000, 3)


@pytest.mark.parametrize(("colour", "name"), [(2, "RGB"), (6, "RGBA")])
def test_formats_that_take_more_memory_may_have_fewer_pixels(colour: int, name: str) -> None:
    with pytest.raises(TooLarge, match=f"1000 x 900 px of PNG {name} take .* more than the 10 of max_pixels"):
        decode(flat_png(1000, 900, colour=colour), max_pixels=LIMIT)
    assert decode(flat_png(500, 500, colour=colour), max_pixels=LIMIT).shape == (500, 500, 3)


def test_decoding_takes_no_more_memory_than_was_allowed(tmp_path: Path) -> None:
    for depth, colour in ((16, 0), (16, 2), (8, 6)):
        path = tmp_path / f"{depth}-{colour}.png"
        path.write_bytes(flat_png(2000, 2000, depth, colour))
        code = (
            "import resource, sys; from pathlib import Path; from pipeline_lib.data.images import decode\n"
            "def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "data = Path(sys.argv[1]).read_bytes(); before = most(); decode(data, max_pixels=10_000_000)\n"
            "print(most() - before)"
        )
        done = subprocess.run([sys.executable, "-c", code, path], stdout=subprocess.PIPE, check=True, encoding="utf-8")
        assert int(done.stdout) * 1024 < 25 * 4_000_000, path.name


def test_a_png_without_width_is_bad() -> None:
    with pytest.raises(BadImage):
        decode(png_header(0, 10), max_pixels=LIMIT)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), side=st.integers(1, 120), grey=st.booleans())
def test_the_short_side_becomes_what_was_asked_and_the_shape_stays(
    height: int, width: int, side: int, *, grey: bool
) -> None:
    image = np.full((height, width) if grey else (height, width, 3), 77, np.uint8)
    scaled = resize_short_side(image, side)
    assert min(scaled.shape[:2]) == side
    assert scaled.ndim == image.ndim
    assert abs(max(scaled.shape[:2]) - max(height, width) * side / min(height, width)) <= 0.5 + 1e-9
    assert scaled.min() == scaled.max() == 77


def test_shrinking_averages_areas() -> None:
    stripes = np.tile(np.array([0, 254], np.uint8), (40, 20))
    assert set(np.unique(resize_short_side(stripes, 20))) == {127}


@pytest.mark.parametrize("grey", [False, True])
def test_png_comes_back_exactly_and_jpeg_nearly(*, grey: bool) -> None:
    image = np.ascontiguousarray(picture()[..., 0]) if grey else picture()
    assert np.array_equal(decode_encoded(encode_png(image), grey=grey), image)
    near = decode_encoded(encode_jpeg(image, 95), grey=grey)
    assert near.shape == image.shape
    assert np.abs(near.astype(int) - image).mean() < 3


@pytest.mark.parametrize("data", [b"", b"nothing", encode_png(picture())[:60]])
def test_stored_bytes_that_were_cut_are_bad(data: bytes) -> None:
    with pytest.raises(BadImage):
        decode_encoded(data)


def test_an_image_for_which_there_is_no_memory_is_refused_and_not_the_end_of_the_program(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (5000, 5000), "red").save(path)
    code = """
import resource, sys
from pathlib import Path
from pipeline_lib.data.images import TooLarge, decode
data = Path(sys.argv[1]).read_bytes()
taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (taken + (40 << 20),) * 2)
try:
    decode(data, max_pixels=10**9)
except TooLarge as failure:
    print(failure)
"""
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "more memory than there is" in done.stdout, done.stderr
