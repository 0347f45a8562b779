"""Uploaded pictures: read into memory up to a limit, judged by their content, never written to disk."""

from __future__ import annotations

import io
from email.message import Message

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pipeline_lib.data.images import FORMATS, BadImage, decode
from pipeline_lib.search.gallery import Pixels


class UploadError(Exception):
    """An upload that can't be used: a status code and a sentence."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class InMemoryParser(MultiPartParser):
    """Starlette's parser, without the files on disk that it makes of parts above 1 MB."""

    spool_max_size = 1 << 62


async def read_picture(request: Request) -> bytes:
    """The bytes of the picture in a request: its body, or the part `file` of a form.

    How long a body may be, `guard.BodyLimit` has seen to.

    Raises:
        UploadError: there is none, or the form is broken.
    """
    kind = Message()
    kind["content-type"] = request.headers.get("content-type", "")
    if kind.get_content_type() != "multipart/form-data":
        data = await request.body()
    else:
        parser = InMemoryParser(request.headers, request.stream(), max_files=1, max_fields=4)
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError, UnicodeError) as failure:
            raise UploadError(400, f"the form can't be read: {failure or 'it has no boundary'}") from failure
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise UploadError(422, "the form has no file; send the picture in a part named file")
        data = await file.read()
        await form.close()
    if not data:
        raise UploadError(422, "the request holds no picture; send its bytes as body, or as the part file of a form")
    return data


def decode_upload(data: bytes, max_pixels: int) -> Pixels:
    """The picture in some bytes, uint8[H, W, 3], RGB. Its size is judged before it is decoded.

    Raises:
        UploadError: 415 where the bytes are no picture, 413 where it has too many pixels, 422 where it is damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except (UnidentifiedImageError, Image.DecompressionBombError) as failure:
        large = isinstance(failure, Image.DecompressionBombError)
        raise _pixels(max_pixels) if large else UploadError(415, _NO_PICTURE) from failure
    except Exception as failure:  # bad bytes make decoders raise almost anything
        raise UploadError(422, f"the picture is damaged: {failure}") from failure
    if width * height > max_pixels:
        raise _pixels(max_pixels)
    try:
        return decode(data, max_pixels=max_pixels)
    except BadImage as failure:
        raise UploadError(422, f"the picture is damaged: {failure}") from failure


_NO_PICTURE = "this is no picture of a known format; send a PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF"


def _pixels(limit: int) -> UploadError:
    return UploadError(413, f"the picture has more than {limit / 1e6:g} million pixels; send a smaller one")
