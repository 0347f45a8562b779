"""Files that hold pictures, or nearly: whole ones of every format, damaged ones, and shapes that ask for too much."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
from PIL import Image, features

from tests.conftest import scene
from tests.data.photo_files import png_of, raw_file, saved

Files = dict[str, bytes]
HUGE: Final = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\xff\xff", b"\x00\x00\x00\x00", b"\x80\x00\x00\x00")
"""What lengths and sizes are overwritten with."""


def whole_files() -> Files:
    """A picture in every format that is read here."""
    colours, size = scene(7, (120, 150)), (120, 150)
    image = Image.fromarray(colours)
    clear = image.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = np.asarray(colours, np.uint16) * 257
    real = Image.fromarray(np.asarray(colours[..., 0], np.float32) / 255)
    turned = [image.rotate(angle) for angle in (30, 60)]
    files = {
        "plain.jpg": saved(image, "JPEG"),
        "progressive.jpg": saved(image, "JPEG", progressive=True, exif=_exif()),
        "ink.jpg": saved(image.convert("CMYK"), "JPEG"),
        "plain.png": saved(image, "PNG"),
        "clear.png": saved(clear, "PNG"),
        "deep.png": cv2.imencode(".png", deep)[1].tobytes(),
        "palette.png": saved(image.convert("P"), "PNG"),
        "moving.gif": saved(image, "GIF", save_all=True, append_images=turned),
        "plain.bmp": saved(image, "BMP"),
        "plain.tif": saved(image, "TIFF", compression="tiff_lzw"),
        "deep.tif": cv2.imencode(".tif", deep)[1].tobytes(),
        "real.tif": saved(real, "TIFF", compression="tiff_adobe_deflate"),
        "pages.tif": saved(image, "TIFF", save_all=True, append_images=turned),
        "plain.webp": saved(image, "WEBP"),
        "clear.webp": saved(clear, "WEBP", lossless=True),
        "plain.jp2": saved(image, "JPEG2000"),
        "plain.ppm": saved(image, "PPM"),
        "plain.ico": saved(clear, "ICO"),
        "plain.qoi": saved(image, "QOI"),
        "plain.sgi": saved(image, "SGI"),
        "camera.dng": raw_file([scene(3, (480, 640)), scene(3, (480, 640))]),
        "lines.svg": _svg('<path d="M10 10 L90 90" stroke="black" fill="none"/><circle cx="50" cy="50" r="20"/>'),
    }
    if features.check("avif"):
        files["plain.avif"] = saved(image, "AVIF")
    try:
        import pillow_heif  # noqa: PLC0415  an extra
    except ImportError:
        return files
    stream = io.BytesIO()
    pillow_heif.from_bytes("RGB", size[::-1], colours.tobytes()).save(stream, quality=70)
    return {**files, "plain.heic": stream.getvalue()}


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _svg(inside: str, head: str = 'viewBox="0 0 100 100"') -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}>{inside}</svg>'.encode()


def mutated(data: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """A damaged file, and what was done to it: one harm to four, mostly near its beginning, where sizes stand."""
    told = []
    for _ in range(int(random.integers(1, 5))):
        if not data:
            break
        place = int(len(data) * random.random() ** 3)
        length = int(random.integers(1, 1 + min(64, len(data))))
        kind = int(random.integers(6))
        piece = data[place : place + length]
        if kind == 0:
            piece = bytes(each ^ 1 << int(random.integers(8)) for each in piece[:1]) + piece[1:]
        elif kind == 1:
            piece = random.bytes(len(piece))
        elif kind == 2:
            piece = b""
        elif kind == 3:
            piece = piece * int(random.integers(2, 40))
        elif kind == 4:
            piece = HUGE[int(random.integers(len(HUGE)))] + piece[4:]
        data = data[:place] + (piece + data[place + length :] if kind < 5 else b"")
        told.append(f"{('flip', 'noise', 'drop', 'repeat', 'size', 'cut')[kind]} {length} at {place}")
    return data, ", ".join(told)


def extreme_files() -> Iterator[tuple[str, bytes]]:
    """Small files that ask for much memory or time, one after another, since some are made of much memory."""
    yield "tall.png", zeros_png(1, 29_900_000)
    yield "wide.png", zeros_png(90_000_000, 1)
    yield "clear.png", zeros_png(9000, 9000, channels=4)
    yield "deep.png", zeros_png(8000, 8000, channels=4, depth=16)
    yield "claims.png", _png(60_000, 60_000, 2, 8, b"")
    yield "profile.png", _with_chunk(b"iCCP", b"x\0\0" + _zeros(200_000_000))
    yield "words.png", _with_chunk(b"zTXt", b"x\0\0" + _zeros(200_000_000))
    yield "real.tif", saved(Image.new("F", (9000, 9000)), "TIFF", compression="tiff_adobe_deflate")
    yield "lines.tif", saved(Image.new("1", (40_000, 20_000)), "TIFF", compression="group4")
    yield "ink.tif", saved(Image.new("CMYK", (7000, 7000)), "TIFF", compression="tiff_adobe_deflate")
    few = Image.new("L", (40, 30), 255)
    yield "pages.tif", saved(few, "TIFF", save_all=True, append_images=[few] * 400)
    yield "tall.jpg", saved(Image.new("L", (1, 65_500), 128), "JPEG")
    yield "wide.jpg", saved(Image.new("RGB", (65_500, 2), "red"), "JPEG")
    yield "panorama.jpg", saved(Image.new("RGB", (40_000, 900), "red"), "JPEG")
    yield "large.jpg", saved(Image.new("RGB", (12_000, 12_000), "red"), "JPEG")
    yield "slow.jpg", saved(Image.new("RGB", (9000, 9000), "red"), "JPEG", progressive=True)
    yield "claims.jpg", _resized_jpeg(65_500, 65_500)
    yield "large.jp2", saved(Image.new("RGB", (5000, 4000), "red"), "JPEG2000")
    yield "large.webp", saved(Image.new("RGBA", (8000, 6000), (9, 9, 9, 9)), "WEBP", lossless=True, method=0)
    if features.check("avif"):
        yield "large.avif", saved(Image.new("RGBA", (5000, 4000), (9, 9, 9, 9)), "AVIF", speed=10, quality=10)
    blank = Image.new("L", (600, 600), 255)
    yield "long.gif", saved(blank, "GIF", save_all=True, append_images=[blank.point(_grey(n)) for n in range(200)])
    yield "claims.gif", b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + _gif_frame()
    yield "claims.bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 90, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, *[0] * 6)
    yield "run.bmp", _rle_bmp(30_000, 30_000)
    yield "claims.ppm", b"P6 100000 100000 255\n" + bytes(1000)
    yield "tall.ppm", b"P5 1 29000000 255\n" + bytes(29_000_000)
    yield "claims.qoi", b"qoif" + struct.pack(">IIBB", 60_000, 60_000, 4, 0) + bytes(100)
    yield "claims.sgi", struct.pack(">HBBHHHH", 474, 1, 1, 3, 65_535, 65_535, 3) + bytes(600)
    yield "inside.ico", _ico(zeros_png(30_000, 3_000, channels=4))
    yield "wide.svg", _svg('<rect width="1" height="1"/>', 'width="1e9" height="1" viewBox="0 0 1e9 1"')
    yield "many.svg", _svg('<path d="M0 0L9 9" stroke="black"/>' * 60_000)
    yield "deep.svg", _svg("<g>" * 5000 + "</g>" * 5000)
    uses = "".join(
        f'<g id="a{n}"><use href="#a{n - 1}"/><use href="#a{n - 1}"/><use href="#a{n - 1}"/></g>' for n in range(1, 20)
    )
    yield "uses.svg", _svg(f'<rect id="a0" width="9" height="9"/>{uses}<use href="#a19"/>')
    yield "entities.svg", b'<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>' + _svg("<text>&b;</text>")
    dashes = '<path d="M0 0H100000" stroke="black" stroke-width=".01" stroke-dasharray=".0001"/>'
    yield "dashes.svg", _svg(dashes)


def zeros_png(width: int, height: int, channels: int = 1, depth: int = 8) -> bytes:
    """A black PNG of any size, made without holding its pixels."""
    row = 1 + width * channels * depth // 8
    return _png(width, height, {1: 0, 3: 2, 4: 6}[channels], depth, _zeros(row * height))


def _png(width: int, height: int, colours: int, depth: int, packed: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    return png_of([(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")])


def _zeros(count: int) -> bytes:
    """So many zeros, compressed."""
    packer, block = zlib.compressobj(1), bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & (1 << 20) - 1)), packer.flush()])


def _with_chunk(name: bytes, body: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", 80, 60, 8, 0, 0, 0, 0)
    return png_of([(b"IHDR", header), (name, body), (b"IDAT", _zeros(81 * 60)), (b"IEND", b"")])


def _resized_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header tells another size than it has."""
    data = bytearray(saved(Image.new("L", (64, 64), 128), "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def _grey(number: int) -> list[int]:
    return [255 - number % 2] * 256


def _gif_frame() -> bytes:
    return b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02D\x01\0;"


def _rle_bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 4, 0, 0, 2, 2)
    return b"BM" + struct.pack("<IHHI", 70, 0, 0, 62) + header + bytes(8) + b"\x01\0\0\x01"


def _ico(png: bytes) -> bytes:
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(png), 22) + png
