"""The HTTP API and the page: `create_app` makes them from a search engine. /openapi.json describes the API."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any, Final

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from pipeline_lib.data.images import BadImage
from pipeline_lib.errors import PipelineError
from pipeline_lib.search.batching import BusyError
from pipeline_lib.search.engine import MOST_HITS, SearchEngine
from pipeline_lib.search.guard import LOOPBACK, BodyLimit, KnownHosts, SecurityHeaders
from pipeline_lib.search.service import Service, Settings
from pipeline_lib.search.strokes import rasterise
from pipeline_lib.search.uploads import decode_upload, read_picture
from pipeline_lib.search.wire import Answer, Health, ModelInfo, Problem, StrokesQuery

PAGE: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/drawing.js": ("drawing.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
KEPT: Final = {"cache-control": "private, max-age=31536000, immutable"}
"""Browsers may keep pictures, since their addresses carry the version of what is searched."""
REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Problem, "description": "the request can't be read"},
    408: {"model": Problem, "description": "the request took too long to arrive"},
    413: {"model": Problem, "description": "too many bytes or pixels"},
    415: {"model": Problem, "description": "not a picture"},
    422: {"model": Problem, "description": "a value is out of range, or the picture is damaged"},
    503: {"model": Problem, "description": "too many searches at once; try again in a moment"},
}
MISSING: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": Problem, "description": "there is no such picture"},
    422: {"model": Problem, "description": "not a number of a picture"},
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


def create_app(engine: SearchEngine, settings: Settings, *, version: str, hosts: Sequence[str] = LOOPBACK) -> FastAPI:
    """The application; threads start with it, and the engine is left open when it ends.

    Args:
        engine: what searches.
        settings: its limits.
        version: changes with the model and the index.
        hosts: names in the Host header that are answered, beside addresses in numbers.
    """
    service = Service(engine, settings, version)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
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
    app.add_middleware(KnownHosts, hosts=hosts)
    app.add_middleware(SecurityHeaders)
    _add_failures(app)
    _add_search(app, service, settings)
    _add_pictures(app, service)
    _add_page(app)
    return app


def _add_failures(app: FastAPI) -> None:
    def refuse(kind: type[Exception], status: int, words: Callable[[Any], str]) -> None:
        headers = {"retry-after": "1"} if status == 503 else None

        def answer(_: Request, failure: Exception) -> JSONResponse:
            return JSONResponse({"detail": words(failure)}, status, headers)

        app.add_exception_handler(kind, answer)

    def invalid(failure: RequestValidationError) -> str:
        # FastAPI's own answer repeats the input, which may be too long, or a number that JSON can't hold.
        return "; ".join(
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in failure.errors()[:3]
        )

    refuse(RequestValidationError, 422, invalid)
    refuse(BusyError, 503, lambda _: "too many searches at once; try again in a moment")
    refuse(PipelineError, 503, str)
    refuse(IndexError, 404, lambda _: "there is no such picture")
    refuse(BadImage, 404, lambda failure: f"the picture can't be read any more: {failure}")
    refuse(ClientDisconnect, 400, lambda _: "the request was cut off")  # nobody is there to read it


def _add_search(app: FastAPI, service: Service, settings: Settings) -> None:
    @app.post("/api/search/strokes", responses=REFUSALS, tags=["search"])
    async def search_by_strokes(query: StrokesQuery) -> Answer:
        """Searches by a drawing given as strokes."""
        started = time.perf_counter()
        with service.admission.enter():
            found, seen = await service.find(lambda: rasterise(query.strokes), query.top, seen=query.seen)
        return Answer(found=found, seen=seen, milliseconds=since(started))

    @app.post("/api/search/image", responses=REFUSALS, openapi_extra=PICTURE_BODY, tags=["search"])
    async def search_by_image(
        request: Request,
        top: Annotated[int, Query(ge=1, le=MOST_HITS)] = 24,
        seen: bool = False,  # noqa: FBT001, FBT002  a query parameter
    ) -> Answer:
        """Searches by a picture: the body of the request, or the part `file` of a form."""
        started = time.perf_counter()
        with service.admission.enter():
            data = await read_picture(request)
            found, told = await service.find(lambda: decode_upload(data, settings.upload_pixels), top, seen=seen)
        return Answer(found=found, seen=told, milliseconds=since(started))

    @app.get("/api/health", tags=["about"])
    def health() -> Health:
        """Whether the server can search."""
        return service.health()

    @app.get("/api/model", tags=["about"])
    def model() -> ModelInfo:
        """The model and index that are searched with."""
        return service.model()


def _add_pictures(app: FastAPI, service: Service) -> None:
    def picture(path: str, make: Callable[[int], bytes], kind: str, words: str) -> None:
        def endpoint(number: Row) -> Response:
            return Response(make(number), media_type=f"image/{kind}", headers=KEPT)

        endpoint.__doc__ = words
        endpoint.__name__ = make.__name__
        responses: dict[int | str, dict[str, Any]] = {**MISSING, 200: {"content": {f"image/{kind}": {}}}}
        app.get(path, responses=responses, response_class=Response, tags=["pictures"])(endpoint)

    picture("/photos/{number}", service.pictures.photo, "jpeg", "A photo of the gallery.")
    picture("/photos/{number}/thumbnail", service.pictures.thumbnail, "jpeg", "A small version of a photo.")
    picture("/photos/{number}/edges", service.pictures.edge_map, "png", "The edge map of a photo.")
    picture("/examples/{number}", service.example, "png", "A drawing to try the search with.")


def _add_page(app: FastAPI) -> None:
    folder = resources.files("pipeline_lib.search") / "page"

    def serve(path: str, data: bytes, kind: str) -> None:
        app.get(path, include_in_schema=False)(
            lambda: Response(data, media_type=kind, headers={"cache-control": "no-cache"})
        )

    for path, (name, kind) in PAGE.items():
        serve(path, (folder / name).read_bytes(), kind)


def since(started: float) -> float:
    """Milliseconds since `started` (perf_counter)."""
    return round((time.perf_counter() - started) * 1e3, 2)
