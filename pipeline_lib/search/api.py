"""The HTTP API and the page: `create_app` makes them from a search engine. /openapi.json describes the API."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import date
from importlib import resources
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipeline_lib.data.images import BadImage
from pipeline_lib.errors import PipelineError
from pipeline_lib.search.engine import MOST_HITS, SearchEngine
from pipeline_lib.search.gallery import EVERYWHERE, OWN_ALONE, Among
from pipeline_lib.search.guard import LOOPBACK, BodyLimit, KnownHosts, SecurityHeaders, TokenOnly
from pipeline_lib.search.pace import BusyError
from pipeline_lib.search.queries import Query as SearchQuery
from pipeline_lib.search.queries import of_pixels
from pipeline_lib.search.service import Service, Settings, Wish
from pipeline_lib.search.share import code_as_picture
from pipeline_lib.search.strokes import rasterise, side_for
from pipeline_lib.search.uploads import query_of, read_picture
from pipeline_lib.search.wire import Answer, Choice, Health, ModelInfo, Problem, Sharing, Stroke, StrokesQuery

SCRIPT: Final = "text/javascript; charset=utf-8"
PAGE: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{
        f"/{name}.js": (f"{name}.js", SCRIPT)
        for name in ("app", "drawing", "kept", "language", "pictures", "results", "server", "viewer", "words")
    },
}
SHOWN: Final = {
    "JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif", "AVIF": "image/avif",
    "BMP": "image/bmp",
}  # fmt: skip
"""Formats that browsers show; other files are downloaded."""
ALONE: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""For a picture in a window of its own, which browsers style themselves."""
KEPT: Final = {"cache-control": "private, max-age=31536000, immutable"}
"""Browsers may keep pictures, since their addresses carry the version of what is searched."""
REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Problem, "description": "the request can't be read"},
    408: {"model": Problem, "description": "the request took too long to arrive"},
    413: {"model": Problem, "description": "too many bytes or pixels"},
    415: {"model": Problem, "description": "not a picture"},
    422: {"model": Problem, "description": "a value is out of range, or the picture is damaged"},
    503: {"model": Problem, "description": "busy; try again after the seconds that Retry-After tells"},
}
MISSING: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": Problem, "description": "there is no such picture"},
    410: {"model": Problem, "description": "the number is that of another gallery, or of an earlier state of this one"},
    422: {"model": Problem, "description": "not a number of a picture"},
    503: REFUSALS[503],
}
ORIGINAL: Final[dict[int | str, dict[str, Any]]] = {
    **MISSING,
    200: {"content": {kind: {} for kind in (*SHOWN.values(), "application/octet-stream")}},
}
PICTURE_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
Row = Annotated[int, Path(ge=0, le=1 << 53, description="number of the picture")]
Version = Annotated[str, Path(description="of what is searched, as answers tell it")]
Top = Annotated[int, Query(ge=1, le=MOST_HITS, description="how many photos")]
Mirror = Annotated[bool, Query(description="search for the mirror image")]
Folder = Annotated[str, Query(max_length=4096, description="search only photos below this folder of yours")]
Since = Annotated[date | None, Query(description="search only photos that were taken on this day or later")]
Until = Annotated[date | None, Query(description="search only photos that were taken on this day or earlier")]
SeenToo = Annotated[bool, Query(description="also tell what the network sees")]


def create_app(
    engine: SearchEngine,
    settings: Settings,
    *,
    version: str,
    hosts: Sequence[str] = LOOPBACK,
    token: str = "",
    shared: str = "",
) -> FastAPI:
    """The application; threads start with it, and the engine is left open when it ends.

    Args:
        engine: what searches.
        settings: its limits.
        version: changes with the model and the index.
        hosts: names in the Host header that are answered, beside addresses in numbers.
        token: if there is one, requests without it are refused.
        shared: the address, token included, that the page on this machine shows for other devices.
    """
    service = Service(engine, settings, version)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        watch = asyncio.create_task(service.watch())
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="Draw and find",
        description="Finds photos by drawing. Drawings are dark lines on white.",
        version="1",
        docs_url=None,  # FastAPI's page of documentation is loaded from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(BodyLimit, upload_bytes=settings.upload_bytes)
    app.add_middleware(TokenOnly, token=token)
    app.add_middleware(KnownHosts, hosts=hosts)
    app.add_middleware(SecurityHeaders)
    _add_failures(app)
    _add_search(app, service, settings)
    _add_about(app, service, shared)
    _add_pictures(app, service)
    _add_page(app)
    return app


def _add_failures(app: FastAPI) -> None:
    def refuse(kind: type[Exception], status: int, words: Callable[[Any], str]) -> None:
        def answer(_: Request, failure: Exception) -> JSONResponse:
            seconds = failure.seconds if isinstance(failure, BusyError) else 1
            headers = {"retry-after": str(seconds)} if status == 503 else None
            return JSONResponse({"detail": words(failure)}, status, headers)

        app.add_exception_handler(kind, answer)

    def failed(failure: PipelineError) -> str:
        # Its words name files, which are for whoever runs the server.
        print(f"error: {failure}", file=sys.stderr)
        return "the search has failed; the server has said why where it was started"

    def invalid(failure: RequestValidationError) -> str:
        # FastAPI's own answer repeats the input, which may be too long, or a number that JSON can't hold.
        return "; ".join(
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in failure.errors()[:3]
        )

    refuse(RequestValidationError, 422, invalid)
    refuse(BusyError, 503, lambda _: "the server is busy; try again in a moment")
    refuse(PipelineError, 503, failed)
    refuse(IndexError, 404, lambda _: "there is no such picture")
    refuse(BadImage, 404, lambda failure: f"the picture can't be read any more: {failure}")
    refuse(ClientDisconnect, 400, lambda _: "the request was cut off")  # nobody is there to read it


def _add_search(app: FastAPI, service: Service, settings: Settings) -> None:
    def within(folder: Folder = "", since: Since = None, until: Until = None) -> Among:
        among = Among(folder, since, until)
        if among != EVERYWHERE and not service.engine.gallery.filters:
            raise HTTPException(422, OWN_ALONE)
        return among

    @app.post("/api/search/strokes", responses=REFUSALS, tags=["search"])
    async def search_by_strokes(query: StrokesQuery, among: Annotated[Among, Depends(within)]) -> Answer:
        """Searches by a drawing given as strokes."""
        started = time.perf_counter()
        wish = Wish(query.top, query.mirror, query.seen, among)
        return await service.answer(lambda: drawn(query.strokes), wish, started, decodes=False)

    @app.post("/api/search/image", responses=REFUSALS, openapi_extra=PICTURE_BODY, tags=["search"])
    async def search_by_image(
        request: Request,
        among: Annotated[Among, Depends(within)],
        *,
        top: Top = 24,
        kind: Choice = "auto",
        mirror: Mirror = False,
        seen: SeenToo = False,
    ) -> Answer:
        """Searches by a picture: the body of the request, or the part `file` of a form."""
        started = time.perf_counter()
        data = await read_picture(request)  # whoever sends it slowly holds no place meanwhile
        wish = Wish(top, mirror, seen, among)
        return await service.answer(lambda: query_of(data, kind, settings.upload_pixels), wish, started)

    @app.post("/api/search/photo/{number}", responses={**REFUSALS, **MISSING}, tags=["search"])
    async def search_by_photo(
        number: Row,
        among: Annotated[Among, Depends(within)],
        *,
        version: Annotated[str, Query(description="that the number is of; any if empty")] = "",
        top: Top = 24,
        mirror: Mirror = False,
        seen: SeenToo = False,
    ) -> Answer:
        """Searches for more photos like one of the gallery."""
        started = time.perf_counter()
        if version:
            same_version(service, version)
        wish = Wish(top, mirror, seen, among)
        return await service.answer(lambda: service.query_of_photo(number), wish, started)


def drawn(strokes: Sequence[Stroke]) -> SearchQuery:
    """The query that strokes are.

    Raises:
        HTTPException: 422 where it would take too long to draw them.
    """
    side = side_for(strokes)
    if not side:
        raise HTTPException(422, "the drawing has too many long or broad lines; leave some out")
    return of_pixels(rasterise(strokes, side), "drawing")


def _add_about(app: FastAPI, service: Service, shared: str) -> None:
    @app.get("/api/health", tags=["about"])
    async def health() -> Health:
        """Whether the server can search."""
        return service.health()

    @app.get("/api/model", tags=["about"])
    def model() -> ModelInfo:
        """The model and index that are searched with."""
        return service.model()

    @app.get("/api/share", tags=["about"])
    def share(request: Request) -> Sharing | None:
        """The address for other devices: told on this machine alone, and if the server was started to share."""
        if not shared or request.client is None or request.client.host not in LOOPBACK:
            return None
        return Sharing(address=shared, code=code_as_picture(shared))


def same_version(service: Service, version: str) -> None:
    """Refuses a number of another gallery: it would name another photo here.

    Raises:
        HTTPException: 410.
    """
    if version != service.version:
        raise HTTPException(410, "the server searches other photos by now; load the page again")


def _add_pictures(app: FastAPI, service: Service) -> None:
    def picture(path: str, make: Callable[[int], bytes], kind: str, words: str) -> None:
        async def endpoint(version: Version, number: Row) -> Response:
            same_version(service, version)
            return Response(await service.paint(make, number), media_type=f"image/{kind}", headers=KEPT)

        endpoint.__doc__ = words
        endpoint.__name__ = make.__name__
        responses: dict[int | str, dict[str, Any]] = {**MISSING, 200: {"content": {f"image/{kind}": {}}}}
        app.get(path, responses=responses, response_class=Response, tags=["pictures"])(endpoint)

    photo = "/photos/{version}/{number}"
    picture(photo, service.pictures.photo, "jpeg", "A photo of the gallery.")
    picture(f"{photo}/input", service.input, "png", "What the network sees of a photo.")
    picture("/examples/{version}/{number}", service.example, "png", "A drawing to try the search with.")

    kinds: dict[int | str, dict[str, Any]] = {**MISSING, 200: {"content": {"image/jpeg": {}}}}

    @app.get(f"{photo}/thumbnail", responses=kinds, response_class=Response, tags=["pictures"])
    async def thumbnail(version: Version, number: Row) -> Response:
        """A small version of a photo."""
        same_version(service, version)
        # One that is stored needs no decoding, and so never waits behind pictures that do.
        data = await run_in_threadpool(service.pictures.stored, number)
        data = data or await service.paint(service.pictures.thumbnail, number)
        return Response(data, media_type="image/jpeg", headers=KEPT)

    @app.get(f"{photo}/original", responses=ORIGINAL, response_class=Response, tags=["pictures"])
    def original(version: Version, number: Row) -> Response:
        """The file of a photo as it is, with all that its camera wrote into it."""
        same_version(service, version)
        return original_file(service, number)


def original_file(service: Service, number: int) -> Response:
    """The file of a photo; shown where browsers can, and downloaded else.

    Raises:
        HTTPException: 404 where the photo has no file of its own, or has it no more.
        BadImage: its file has changed since it was indexed.
    """
    file = service.engine.gallery.unchanged_file(number)
    if file is None or not file.is_file():
        raise HTTPException(404, "the picture has no file of its own, or its file is gone")
    try:
        with Image.open(file, formats=tuple(SHOWN)) as image:
            kind = SHOWN.get(image.format or "", "")
    except Exception:  # noqa: BLE001  bad bytes make decoders raise almost anything
        kind = ""
    return FileResponse(
        file,
        media_type=kind or "application/octet-stream",
        filename=file.name,
        content_disposition_type="inline" if kind else "attachment",
        headers={"cache-control": "private, no-cache", "content-security-policy": ALONE},
    )


def _add_page(app: FastAPI) -> None:
    folder = resources.files("pipeline_lib.search") / "page"

    def serve(path: str, data: bytes, kind: str) -> None:
        app.get(path, include_in_schema=False)(
            lambda: Response(data, media_type=kind, headers={"cache-control": "no-cache"})
        )

    for path, (name, kind) in PAGE.items():
        serve(path, (folder / name).read_bytes(), kind)
