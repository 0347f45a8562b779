"""What a picture file is and what reads it: by its first bytes where they tell, else by its extension.

Pillow reads most formats. HEIC and raw files need a package each, which an extra of this project installs; what else
holds photos is known by name, so that files that nothing reads are told and not passed over in silence.
"""

import importlib.util
import struct
from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple


class Format(NamedTuple):
    """A kind of picture file."""

    name: str  # in words
    package: str = ""  # that reads it, where Pillow does not
    extra: str = ""  # of this project, which installs the package
    readable: bool = True  # whether anything reads it


PICTURE: Final = Format("picture")
HEIF: Final = Format("HEIC", "pillow_heif", "heic")
RAW: Final = Format("raw", "rawpy", "raw")
JPEG_XL, JPEG_XR, PHOTOSHOP, GIMP, OPEN_EXR, RADIANCE, TARGA, DIRECT_DRAW = (
    Format(name, readable=False)
    for name in ("JPEG XL", "JPEG XR", "Photoshop", "GIMP", "OpenEXR", "Radiance HDR", "Targa", "DirectDraw")
)
_EXTENSIONS: Final[Mapping[Format, str]] = {
    PICTURE: "jpg jpeg jpe jfif png apng webp gif bmp tif tiff avif jp2 j2k jpx jpf j2c jpc ppm pgm pbm pnm ico qoi "
    "sgi",
    HEIF: "heic heif hif heics heifs",
    RAW: "3fr arw cr2 cr3 crw dcr dng erf fff iiq k25 kdc mef mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw x3f",
    JPEG_XL: "jxl",
    JPEG_XR: "jxr wdp hdp",
    PHOTOSHOP: "psd psb",
    GIMP: "xcf",
    OPEN_EXR: "exr",
    RADIANCE: "hdr",
    TARGA: "tga",
    DIRECT_DRAW: "dds",
}
EXTENSIONS: Final[Mapping[str, Format]] = {
    f".{extension}": kind for kind, names in _EXTENSIONS.items() for extension in names.split()
}
# JPEG 2000 twice: as a file and as a bare codestream. TIFF in both byte orders; raw files that are TIFF inside are told
# from it by their tags.
_STARTS: Final[Mapping[bytes, Format]] = {
    b"\xff\xd8\xff": PICTURE,
    b"\x89PNG\r\n\x1a\n": PICTURE,
    b"GIF8": PICTURE,
    b"\0\0\0\x0cjP  ": PICTURE,
    b"\xff\x4f\xff\x51": PICTURE,
    b"II*\0": PICTURE,
    b"MM\0*": PICTURE,
    b"FUJIFILMCCD-RAW": RAW,
    b"IIRO": RAW,  # Olympus, as the next two
    b"IIRS": RAW,
    b"MMOR": RAW,
    b"IIU\0": RAW,  # Panasonic
    b"FOVb": RAW,  # Sigma
    b"\0MRM": RAW,  # Minolta
    b"\0\0\0\x0cJXL ": JPEG_XL,
    b"8BPS": PHOTOSHOP,
    b"gimp xcf": GIMP,
    b"v/1\x01": OPEN_EXR,
    b"#?RADIANCE": RADIANCE,
    b"DDS ": DIRECT_DRAW,
}
# Brands of ISO base media files; all others of these are films. A picture in HEVC or AVIF may call itself mif1 and name
# its codec among the brands that follow.
_BRANDS: Final[Mapping[bytes, Format]] = {
    **dict.fromkeys((b"avif", b"avis"), PICTURE),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), HEIF),
    b"crx ": RAW,  # Canon
}
_ANY_CODEC: Final = (b"mif1", b"msf1", b"miaf")
HEAD: Final = 64
"""Bytes that `format_of_head` wants to see."""
# Tags of TIFF, as in its specification and in Adobe's of DNG.
_PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 262, 330, 50706
_SENSOR: Final = (32803, 34892)
"""Values of the photometric tag that mean samples of a sensor: one colour a pixel, or all of them."""


def format_of_head(head: bytes) -> Format | None:
    """What the first `HEAD` bytes of a file tell; None where it is nothing. TIFF is a picture, see `is_raw_tiff`."""
    if head[4:8] == b"ftyp":
        brands = [head[8:12]] + [head[place : place + 4] for place in range(16, len(head) - 3, 4)]
        known = brands if brands[0] in _ANY_CODEC else brands[:1]
        found = next((_BRANDS[brand] for brand in known if brand in _BRANDS), None)
        return HEIF if found is None and brands[0] in _ANY_CODEC else found
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return PICTURE
    if head[:4] in {b"II*\0", b"MM\0*"} and head[8:10] == b"CR":  # Canon's older raw files
        return RAW
    return next((kind for start, kind in _STARTS.items() if head.startswith(start)), None)


def format_of(data: bytes) -> Format | None:
    """What the bytes of a whole file are; None where they tell nothing."""
    found = format_of_head(data[:HEAD])
    return RAW if found is PICTURE and data[:4] in {b"II*\0", b"MM\0*"} and is_raw_tiff(data) else found


def format_of_name(path: str) -> Format | None:
    """What a file's extension tells; None where it is not that of pictures."""
    return EXTENSIONS.get(path[path.rfind(".") :].lower())  # a million names a second: a Path takes 20 times as long


def is_raw_tiff(data: bytes) -> bool:
    """Whether a TIFF file holds what a sensor saw, as most makers' raw files do, below a small preview."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        tags = _tags(data, order, first)
        pages = [tags, *(_tags(data, order, place) for place in _values(data, order, tags.get(_SUB_IFDS)))]
        kinds = [kind for page in pages for kind in _values(data, order, page.get(_PHOTOMETRIC))]
    except struct.error:  # cut or damaged: whoever decodes it says so
        return False
    return _DNG_VERSION in tags or any(kind in _SENSOR for kind in kinds)


def _tags(data: bytes, order: str, place: int) -> dict[int, tuple[int, int, int]]:
    """Of the directory at `place`: tag -> type, number of values, and where these (or their place) stand."""
    (count,) = struct.unpack_from(f"{order}H", data, place)
    entries = (place + 2 + 12 * number for number in range(count))
    return {tag: (kind, size, entry + 8) for entry in entries for tag, kind, size in [_entry(data, order, entry)]}


def _entry(data: bytes, order: str, place: int) -> tuple[int, int, int]:
    tag, kind, size = struct.unpack_from(f"{order}HHI", data, place)
    return tag, kind, size


def _values(data: bytes, order: str, found: tuple[int, int, int] | None) -> list[int]:
    """Up to 16 whole numbers of a tag; values of at most 4 bytes stand in the directory itself."""
    if found is None:
        return []
    kind, count, place = found
    letter, width = ("H", 2) if kind == 3 else ("I", 4)
    if count * width > 4:
        (place,) = struct.unpack_from(f"{order}I", data, place)
    return list(struct.unpack_from(f"{order}{min(count, 16)}{letter}", data, place))


@cache
def obstacle(kind: Format) -> str:
    """Why files of a kind can't be read here, and the way out; "" where they can."""
    if not kind.readable:
        return f"{kind.name} files can't be read; save them as JPEG, PNG or WebP"
    if kind.package and importlib.util.find_spec(kind.package) is None:
        return f"{kind.name} photos need the extra: pip install 'sketch-context-retrieval[{kind.extra}]'"
    return ""
