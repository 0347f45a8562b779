"""Photos as people have them: what cameras, phones and programs write."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline_lib.data import formats, images
from pipeline_lib.data.formats import HEIF, JPEG_XL, PICTURE, RAW, format_of, format_of_head
from pipeline_lib.data.images import BadImage, decode, taken_at
from tests.data.photo_files import (
    DISPLAY_P3,
    PROPHOTO,
    SRGB,
    icc_profile,
    picture,
    png_chunks,
    png_of,
    raw_file,
    saved,
)

LIMIT = 20_000_000


@pytest.fixture
def extras(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test take packages away."""
    formats.obstacle.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    formats.obstacle.cache_clear()


def heic(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=90, **options)
    return stream.getvalue()


def near(image: NDArray[np.uint8], expected: NDArray[np.uint8], levels: float = 4) -> bool:
    return image.shape == expected.shape and float(np.abs(image.astype(int) - expected).mean()) < levels


@pytest.mark.parametrize("form", ["AVIF", "WEBP", "JPEG2000"])
def test_formats_of_phones_and_the_web_are_read(form: str) -> None:
    assert near(decode(saved(picture(), form, quality=90), max_pixels=LIMIT), picture())


def test_heic_is_read_by_its_content_whatever_its_name() -> None:
    data = heic(Image.fromarray(picture()))
    assert format_of(data) is HEIF
    assert near(decode(data, max_pixels=LIMIT), picture())
    with pytest.raises(BadImage, match="max_pixels 100"):
        decode(data, max_pixels=100)
    with pytest.raises(BadImage):
        decode(data[: len(data) // 2], max_pixels=LIMIT)


def test_heic_without_its_extra_names_it(extras: pytest.MonkeyPatch) -> None:
    data = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")
    extras.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImage) as failure:
        decode(data, max_pixels=LIMIT)
    assert str(failure.value) == "HEIC photos need the extra: pip install 'sketch-context-retrieval[heic]'"
    assert taken_at(data) == 0


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        ((b"heic", b"mif1"), HEIF),
        ((b"mif1", b"avif"), PICTURE),
        ((b"mif1", b"miaf", b"heix"), HEIF),
        ((b"mif1", b"abcd"), HEIF),
        ((b"avif", b"mif1"), PICTURE),
        ((b"crx ", b"isom"), RAW),
        ((b"isom", b"mp42"), None),
        ((b"qt  ", b"heic"), None),
    ],
)
def test_a_container_is_told_by_its_brands_and_films_are_no_pictures(
    brands: tuple[bytes, ...], kind: formats.Format | None
) -> None:
    body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    assert format_of_head(struct.pack(">I", len(body) + 4) + body) is kind


def test_a_raw_file_gives_its_preview_upright_and_not_its_thumbnail() -> None:
    thumbnail, preview = picture(120, 160), picture(900, 1200)
    data = raw_file([thumbnail, preview])
    assert Image.open(io.BytesIO(data)).size == (160, 120)  # what a reader of TIFF takes for the photo
    assert near(decode(data, max_pixels=LIMIT), preview)
    assert decode(data, max_pixels=LIMIT, short_side=100).shape == (225, 300, 3)
    assert near(decode(raw_file([thumbnail, preview], orientation=6), max_pixels=LIMIT), np.rot90(preview, -1))
    with pytest.raises(BadImage, match="160 x 120 px is a thumbnail"):
        decode(raw_file([thumbnail]), max_pixels=LIMIT)
    with pytest.raises(BadImage, match="max_pixels 1000"):
        decode(data, max_pixels=1000)
    with pytest.raises(BadImage):
        decode(data[:300], max_pixels=LIMIT)


def test_a_raw_file_without_the_extra_names_it_and_is_never_its_thumbnail(extras: pytest.MonkeyPatch) -> None:
    extras.setitem(sys.modules, "rawpy", None)
    with pytest.raises(BadImage, match=r"raw photos need the extra: .*\[raw\]"):
        decode(raw_file([picture(120, 160)]), max_pixels=LIMIT)


def test_an_ordinary_tiff_is_no_raw_file() -> None:
    for data in (saved(picture(), "TIFF"), saved(picture(), "TIFF", compression="jpeg"), b"II*\0\xff\xff\xff\xff"):
        assert format_of(data) is PICTURE


def test_what_nothing_reads_is_named() -> None:
    data = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)
    assert format_of(data) is JPEG_XL
    with pytest.raises(BadImage, match="JPEG XL files can't be read; save them as JPEG"):
        decode(data, max_pixels=LIMIT)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("primaries", "gamma"), [(DISPLAY_P3, 2.2), (PROPHOTO, 1.8), (SRGB, 1.0)])
def test_colours_of_wide_and_linear_profiles_become_srgb(
    form: str, primaries: tuple[tuple[float, ...], ...], gamma: float
) -> None:
    """The same colour, written by two profiles, looks the same."""
    colour = np.array([0.55, 0.35, 0.2])  # of sRGB, within every other space
    light = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    there = np.linalg.solve(np.array(primaries), np.array(SRGB) @ light)
    stored = np.full((32, 32, 3), np.round(255 * there ** (1 / gamma)), np.uint8)
    options: dict[str, object] = {"lossless": True} if form == "WEBP" else {"quality": 100, "subsampling": 0}
    options = options if form in {"WEBP", "JPEG"} else {}
    data = saved(stored, form, icc_profile=icc_profile(primaries, gamma), **options)
    assert np.abs(decode(data, max_pixels=LIMIT)[16, 16] - 255 * colour).max() < 4
    assert np.abs(stored[16, 16] - 255 * colour).max() > 8


def test_grey_of_a_linear_profile_becomes_srgb() -> None:
    grey = np.full((32, 32), 55, np.uint8)  # 0.216 of the light, which sRGB calls 128
    for form in ("PNG", "JPEG"):
        image = decode(saved(grey, form, icc_profile=icc_profile(None, 1.0)), max_pixels=LIMIT)
        assert np.abs(image[16, 16].astype(int) - 128).max() <= 2
    clear = Image.merge("LA", (Image.fromarray(grey), Image.new("L", (32, 32), 255)))
    image = decode(saved(clear, "PNG", icc_profile=icc_profile(None, 1.0)), max_pixels=LIMIT)
    assert np.abs(image[16, 16].astype(int) - 128).max() <= 2


def test_profiles_that_are_srgb_or_broken_or_do_not_fit_change_nothing() -> None:
    from PIL import ImageCms

    plain = decode(saved(picture(), "JPEG"), max_pixels=LIMIT)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, srgb[:90], b"no profile", icc_profile(None, 1.0)):
        assert np.array_equal(decode(saved(picture(), "JPEG", icc_profile=profile), max_pixels=LIMIT), plain)
        ink = saved(Image.fromarray(picture()).convert("CMYK"), "JPEG", icc_profile=icc_profile(DISPLAY_P3, 2.2))
        assert near(decode(ink, max_pixels=LIMIT), picture(), 12)


LONG = zlib.compress(bytes(5 << 20))


@pytest.mark.parametrize(
    "data",
    [
        *(png_of(png_chunks(saved(picture(), "PNG")), [name]) for name in (b"IHDR", b"IDAT", b"IEND")),
        *(
            png_of([*png_chunks(saved(picture(), "PNG"))[:1], extra, *png_chunks(saved(picture(), "PNG"))[1:]], wrong)
            for extra, wrong in [
                ((b"zTXt", b"Comment\0\0" + LONG), ()),
                ((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG), ()),
                ((b"iCCP", b"profile\0\0" + LONG), ()),
                ((b"tEXt", b"Title\0words"), [b"tEXt"]),
                ((b"gAMA", bytes(4)), [b"gAMA"]),
            ]
        ),
        png_of(
            [
                (name, body[:-1] + bytes([body[-1] ^ 1]) if name == b"IDAT" else body)
                for name, body in png_chunks(saved(picture(), "PNG"))
            ]
        ),
    ],
    ids=["IHDR", "IDAT", "IEND", "zTXt", "iTXt", "iCCP", "tEXt checksum", "gAMA checksum", "zlib checksum"],
)
def test_a_png_that_browsers_show_is_read(data: bytes) -> None:
    assert np.array_equal(decode(data, max_pixels=LIMIT), picture())


def test_a_png_with_wrong_checksums_still_may_not_be_cut_or_too_large() -> None:
    chunks = png_chunks(saved(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), "PNG"))
    whole = png_of(chunks, [b"IHDR"])
    with pytest.raises(BadImage):
        decode(whole[: len(whole) // 2], max_pixels=LIMIT)
    with pytest.raises(BadImage):
        decode(png_of([chunks[0], (b"IDAT", chunks[1][1][:2000]), chunks[-1]], [b"IHDR"]), max_pixels=LIMIT)
    with pytest.raises(BadImage, match="max_pixels 100"):
        decode(whole, max_pixels=100)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_gives_its_first_frame_that_is_not_blank(form: str) -> None:
    blank, shown = Image.new("RGB", (80, 60), "white"), Image.fromarray(picture())
    clear = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    for first in (blank, clear if form in {"WEBP", "PNG"} else blank):
        options = {"lossless": True} if form == "WEBP" else {}
        data = saved(first, form, save_all=True, append_images=[blank, shown.convert(first.mode), blank], **options)
        assert near(decode(data, max_pixels=LIMIT), picture(), 12)


def test_a_tiff_that_begins_with_a_thumbnail_gives_its_largest_page() -> None:
    photo, small = Image.fromarray(picture()), Image.fromarray(picture(15, 20))
    data = saved(small, "TIFF", save_all=True, append_images=[photo])
    assert np.array_equal(decode(data, max_pixels=LIMIT), picture())
    marked = saved(Image.fromarray(picture(50, 70)), "TIFF", save_all=True, append_images=[photo], tiffinfo={254: 1})
    assert np.array_equal(decode(marked, max_pixels=LIMIT), picture())
    # Pages of a document are not one another's thumbnails.
    pages = saved(Image.fromarray(picture(50, 70)), "TIFF", save_all=True, append_images=[photo])
    assert np.array_equal(decode(pages, max_pixels=LIMIT), picture(50, 70))


@pytest.mark.parametrize("channels", [1, 3])
def test_12_bits_in_a_png_of_16_are_as_bright_as_they_were(channels: int) -> None:
    deep = np.round(picture().astype(float) / 255 * 4095).astype(np.uint16)
    stored = deep[..., 0] if channels == 1 else deep[..., ::-1]
    image = decode(cv2.imencode(".png", stored)[1].tobytes(), max_pixels=LIMIT)
    expected = np.repeat(picture()[..., :1], 3, axis=2) if channels == 1 else picture()
    assert np.abs(image.astype(int) - expected).max() <= 2


def test_a_black_picture_of_8_bits_stays_black() -> None:
    dark = np.full((20, 30, 3), 9, np.uint8)
    assert np.array_equal(decode(saved(dark, "PNG"), max_pixels=LIMIT), dark)


def turned(image: NDArray[np.uint8], orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, "JPEG", exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_whole_jpeg_has_the_pixels_that_pillow_turns(orientation: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (70, 90, 3), np.uint8)
    data = turned(noise, orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode(data, max_pixels=LIMIT), expected)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(("short_side", "expected"), [(0, 600), (200, 600), (149, 300), (75, 150), (37, 75), (1, 75)])
def test_a_jpeg_is_decoded_at_a_part_of_its_size_that_has_pixels_to_spare(
    orientation: int, short_side: int, expected: int
) -> None:
    data = turned(picture(600, 840), orientation, quality=95)
    image = decode(data, max_pixels=LIMIT, short_side=short_side)
    assert min(image.shape[:2]) == expected
    assert min(image.shape[:2]) >= min(600, images.SPARE * short_side)
    whole = decode(data, max_pixels=LIMIT)
    small = cv2.resize(whole, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert near(image, np.asarray(small, np.uint8), 2)


@pytest.mark.parametrize("options", [{"progressive": True}, {"icc_profile": icc_profile(DISPLAY_P3, 2.2)}])
def test_reduced_jpegs_of_every_kind_look_like_the_whole_ones(options: dict[str, object]) -> None:
    for image in (Image.fromarray(picture(600, 840)), Image.fromarray(picture(600, 840)).convert("L")):
        data = saved(image, "JPEG", **options)
        whole = cv2.resize(decode(data, max_pixels=LIMIT), (210, 150), interpolation=cv2.INTER_AREA)
        assert near(decode(data, max_pixels=LIMIT, short_side=75), np.asarray(whole, np.uint8), 2)


def test_other_formats_are_decoded_whole() -> None:
    assert decode(saved(picture(600, 840), "PNG"), max_pixels=LIMIT, short_side=50).shape == (600, 840, 3)


def test_only_pixels_that_are_decoded_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that phones' photos of 108 and 200 megapixels are indexed, though Pillow opens none of the latter."""
    data = saved(picture(600, 840), "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(BadImage, match="max_pixels 200000"):
        decode(data, max_pixels=200_000)
    assert decode(data, max_pixels=200_000, short_side=150).shape == (300, 420, 3)


def test_a_reduced_jpeg_may_not_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(np.random.default_rng(0).integers(0, 256, (640, 640, 3), np.uint8), "JPEG")
    for part in (0.3, 0.6, 0.95):
        with pytest.raises(BadImage, match="truncated"):
            decode(data[: int(len(data) * part)], max_pixels=LIMIT, short_side=20)
    # Phones put films and depth maps behind the photo.
    assert decode(data + bytes(1000) + b"film", max_pixels=LIMIT, short_side=20).shape == (80, 80, 3)
    monkeypatch.setattr(images, "LARGE", 100)  # one after another
    assert decode(data, max_pixels=LIMIT).shape == (640, 640, 3)


def test_the_time_of_a_photo_is_that_of_the_cameras_clock() -> None:
    exif = Image.Exif()
    exif[0x0110] = "Camera"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    photo = Image.fromarray(picture())
    found = {taken_at(saved(photo, form, exif=exif)) for form in ("JPEG", "PNG", "WEBP", "AVIF")}
    assert found == {1714979289}
    exif.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"
    for data in (saved(photo, "JPEG"), saved(photo, "JPEG", exif=exif), b"", b"\xff\xd8\xff", raw_file([picture()])):
        assert taken_at(data) == 0
