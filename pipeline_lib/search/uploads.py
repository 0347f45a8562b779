"""Uploaded pictures: read into memory up to a limit, recognised by their content, never written to disk."""

import io
from contextlib import suppress
from email.message import Message

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pipeline_lib.data.images import FORMATS, BadImage, TooLarge
from pipeline_lib.search.queries import Query, read_query
from pipeline_lib.search.wire import Choice


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


def query_of(data: bytes, kind: Choice, max_pixels: int) -> Query:
    """The query that some bytes hold. Its size is checked before it is decoded.

    Raises:
        HTTPException: 415 where the bytes are no picture, 413 where it has too many pixels, 422 where it is damaged.
    """
    try:
        return read_query(data, max_pixels=max_pixels, kind=kind)
    except TooLarge as failure:
        raise HTTPException(413, f"the picture is too large: {failure}") from failure
    except BadImage as failure:
        raise _refusal(data, str(failure)) from failure


def _refusal(data: bytes, words: str) -> HTTPException:
    """Why a picture that could not be read is refused, by what its first bytes say."""
    with suppress(Exception):  # bad bytes make decoders raise almost anything
        try:
            Image.open(io.BytesIO(data), formats=FORMATS).close()
        except UnidentifiedImageError:
            return HTTPException(415, f"this is no picture that can be read: {words}")
    return HTTPException(422, f"the picture is damaged: {words}")
