"""Uploaded pictures: read into memory up to a limit, recognised by their content, never written to disk."""

import io
from email.message import Message

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pipeline_lib.data.images import FORMATS, BadImage, decode
from pipeline_lib.search.gallery import Pixels


class InMemoryParser(MultiPartParser):
    """Starlette's parser, without the files on disk that it makes of parts above 1 MB."""

    spool_max_size = 1 << 62


async def read_picture(request: Request) -> bytes:
    """The bytes of the picture in a request: its body, or the part `file` of a form.

    `guard.BodyLimit` has already limited its length.

    Raises:
        HTTPException: there is none, or the form is broken.
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
            raise HTTPException(400, f"the form can't be read: {failure or 'it has no boundary'}") from failure
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise HTTPException(422, "the form has no file; send the picture in a part named file")
        data = await file.read()
        await form.close()
    if not data:
        raise HTTPException(422, "the request holds no picture; send its bytes as body, or as the part file of a form")
    return data


def decode_upload(data: bytes, max_pixels: int) -> Pixels:
    """The picture in some bytes, uint8[H, W, 3], RGB. Its size is checked before it is decoded.

    Raises:
        HTTPException: 415 where the bytes are no picture, 413 where it has too many pixels, 422 where it is damaged.
    """
    large = HTTPException(413, f"the picture has more than {max_pixels / 1e6:g} million pixels; send a smaller one")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError as failure:
        words = "this is no picture of a known format; send a PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF"
        raise HTTPException(415, words) from failure
    except Image.DecompressionBombError as failure:
        raise large from failure
    except Exception as failure:  # bad bytes make decoders raise almost anything
        raise HTTPException(422, f"the picture is damaged: {failure}") from failure
    if width * height > max_pixels:
        raise large
    try:
        return decode(data, max_pixels=max_pixels)
    except BadImage as failure:
        raise HTTPException(422, f"the picture is damaged: {failure}") from failure
