"""Files as cameras and programs write them, made by hand where no library here can: ICC profiles, a raw file, PNGs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Matrix = Sequence[Sequence[float]]
# Columns are the colours red, green and blue as XYZ, adapted to D50.
DISPLAY_P3 = ((0.51512, 0.29198, 0.15710), (0.24120, 0.69225, 0.06657), (-0.00105, 0.04189, 0.78407))
PROPHOTO = ((0.79767, 0.13519, 0.03134), (0.28804, 0.71188, 0.00009), (0.0, 0.0, 0.82491))
SRGB = ((0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.71410))


def picture(height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    """A smooth coloured picture, so that lossy formats stay close."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=2).astype(np.uint8)


def saved(image: Image.Image | NDArray[np.uint8], form: str, **options: object) -> bytes:
    """An image as the bytes of a file that Pillow writes."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, form, **options)
    return stream.getvalue()


def icc_profile(primaries: Matrix | None, gamma: float, name: str = "test") -> bytes:
    """An ICC profile of version 2: three primaries, or grey where there are none, and one power curve."""

    def numbers(kind: bytes, values: Sequence[float]) -> bytes:
        return kind + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name.encode() + b"\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": numbers(b"XYZ ", (0.9642, 1.0, 0.8249))}
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        for column, letter in enumerate(b"rgb"):
            tags[bytes([letter]) + b"XYZ"] = numbers(b"XYZ ", [row[column] for row in primaries])
            tags[bytes([letter]) + b"TRC"] = curve
    directory, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        directory += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    space = b"GRAY" if primaries is None else b"RGB "
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"test", 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + directory + body


Chunk = tuple[bytes, bytes]


def png_chunks(data: bytes) -> list[Chunk]:
    """Names and contents of a PNG's chunks."""
    place, found = 8, []
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def png_of(chunks: Sequence[Chunk], wrong: Sequence[bytes] = ()) -> bytes:
    """A PNG of some chunks, those named in `wrong` with a checksum that is not theirs."""
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ (name in wrong))
        for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def raw_file(previews: Sequence[NDArray[np.uint8]], orientation: int = 1) -> bytes:
    """A raw photo as DNG: a tiny sensor, and JPEG previews of which the first is where TIFF has its first page."""
    out = bytearray(b"II*\0\0\0\0\0")

    def put(data: bytes) -> int:
        out.extend(bytes(len(out) % 2))
        out.extend(data)
        return len(out) - len(data)

    def directory(tags: list[tuple[int, str, Sequence[int]]]) -> int:
        kinds = {"B": 1, "s": 2, "H": 3, "I": 4, "2I": 5, "2i": 10}
        entries = b""
        for tag, kind, values in sorted(tags):
            letters = f"<{len(values)}{kind}" if len(kind) == 1 else f"<{len(values)}{kind[1]}"
            body = struct.pack(letters, *values)
            field = body.ljust(4, b"\0") if len(body) <= 4 else struct.pack("<I", put(body))
            entries += struct.pack("<HHI", tag, kinds[kind], len(values) // (1 if len(kind) == 1 else 2)) + field
        return put(struct.pack("<H", len(tags)) + entries + bytes(4))

    def page(
        width: int, height: int, data: bytes, compression: int, colours: int, depth: list[int], small: int
    ) -> list[tuple[int, str, Sequence[int]]]:
        size = [(254, "I", [small]), (256, "I", [width]), (257, "I", [height]), (278, "I", [height])]
        how = [(258, "H", depth), (259, "H", [compression]), (262, "H", [colours]), (277, "H", [len(depth)])]
        return [*size, *how, (273, "I", [put(data)]), (279, "I", [len(data)]), (274, "H", [orientation])]

    def preview(image: NDArray[np.uint8]) -> list[tuple[int, str, Sequence[int]]]:
        return page(image.shape[1], image.shape[0], saved(image, "JPEG", quality=90), 7, 6, [8, 8, 8], 1)

    sensor = page(64, 48, np.full((48, 64), 1000, "<u2").tobytes(), 1, 32803, [16], 0)
    sensor += [(33421, "H", [2, 2]), (33422, "B", [0, 1, 1, 2]), (50717, "I", [4095])]
    below = [directory(sensor), *(directory(preview(image)) for image in previews[1:])]
    unit = [1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1]
    camera = [(50706, "B", [1, 4, 0, 0]), (50708, "B", list(b"Camera\0")), (50721, "2i", unit), (50728, "2I", [1] * 6)]
    first = directory([*preview(previews[0]), (330, "I", below), *camera, (50778, "H", [21])])
    struct.pack_into("<I", out, 4, first)
    return bytes(out)
