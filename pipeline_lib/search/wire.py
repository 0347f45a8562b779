"""Requests and answers of the HTTP API as pydantic models, from which the OpenAPI document is generated."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline_lib.search.engine import MOST_HITS

MOST_STROKES = 2000
MOST_POINTS = 5000
ALL_POINTS = 100_000
"""Points of a drawing at most; more would block the threads that rasterise."""

Kind = Literal["drawing", "photo"]
Choice = Literal["auto", "drawing", "photo"]
Coordinate = Annotated[float, Field(ge=-1.0, le=2.0, allow_inf_nan=False)]
"""Of a point; outside 0 to 1 it lies beside the paper."""


class Wire(BaseModel):
    """Base of all messages: no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Stroke(Wire):
    """One line of the pen."""

    points: list[tuple[Coordinate, Coordinate]] = Field(
        min_length=1, max_length=MOST_POINTS, description="x and y as fractions of the side, from the top left"
    )
    width: float = Field(default=0.027, gt=0.0, le=1.0, description="of the pen, fraction of the side")
    erase: bool = Field(default=False, description="takes ink away")


class StrokesQuery(Wire):
    """A drawing as strokes, in the order they were drawn."""

    strokes: list[Stroke] = Field(min_length=1, max_length=MOST_STROKES)
    top: int = Field(default=24, ge=1, le=MOST_HITS, description="how many photos")
    mirror: bool = Field(default=False, description="search for its mirror image")
    seen: bool = Field(default=False, description="also tell what the network sees")

    @model_validator(mode="after")
    def _points_in_all(self) -> Self:
        if sum(len(stroke.points) for stroke in self.strokes) > ALL_POINTS:
            raise ValueError(f"the drawing has more than {ALL_POINTS} points; leave some out")
        return self


class Photo(Wire):
    """A photo of the gallery. Addresses are relative to the page's."""

    number: int = Field(ge=0, description="its row; means something together with the version alone")
    image_id: str = Field(description="of one's own photos their path")
    label: str
    folder: str = Field(description="the folder that holds it, from the name of the folder of all photos on")
    path: str = Field(description='of its file, likewise; "" for pictures that the pipeline itself made')
    photo: str = Field(description="address of the photo, re-encoded and of at most 1600 px")
    thumbnail: str = Field(description="address of a small version")
    input: str = Field(description="address of what the network sees of it")
    original: str = Field(description="address of the file as it is; of the photo where there is no file")


class Found(Photo):
    """A photo that was found."""

    rank: int = Field(ge=1, description="among those that are found; a stack counts as one")
    score: float = Field(description="cosine similarity, -1 to 1")
    likeness: float = Field(ge=0.0, le=1.0, description="the score as a person reads it; 0.5 divides")
    alike: bool = Field(description="whether its likeness is at least 0.5")
    stack: list[Photo] = Field(description="near-duplicates that stand behind it, such as others of a burst")


class Seen(Wire):
    """What the network sees of a query."""

    inputs: list[str] = Field(
        description="the query at the size that the encoder takes, data addresses of PNGs: framed, and a small drawing "
        "also as it would stand on other pages"
    )
    alignment: str = Field(description="how its vector is aligned with those of photos: retrieval.alignment of the run")


class Answer(Wire):
    """The nearest photos, best first."""

    found: list[Found]
    blank: bool = Field(description="the query is blank or nearly so; nothing was searched")
    kind: Kind = Field(description="what the query was taken for")
    version: str = Field(description="changes with the model and the index")
    milliseconds: float = Field(description="from the whole request to the answer, on the server")
    seen: Seen | None = None


class Health(Wire):
    """Whether the server can search."""

    status: str = Field(
        description='"ok", or "degraded" while the process of the index does not answer, or is being replaced'
    )
    version: str = Field(description="changes with the model and the index")
    photos: int
    waiting: int = Field(description="searches in progress")
    expected: float = Field(description="seconds that one more search would wait; too many are answered with 503")
    answered: int
    refused: int


class ModelInfo(Wire):
    """The model and index that are searched with."""

    run: str = Field(description="name of the run that made the model")
    gallery: str
    folders: list[str] = Field(description="names of those that hold the photos; none where the pipeline made them")
    filters: bool = Field(description="whether a search can be narrowed to a folder and to days")
    credit: str = Field(description="attribution that the pictures' licence asks for")
    photos: int
    architecture: str
    start_weights: str
    pretext_accuracy: float | None = Field(description="on held-out images, 0 to 1; chance is 0.125")
    training_images: int | None
    embedding: str
    image_size: int
    alignment: str
    index: str
    examples: int
    upload_bytes: int = Field(description="that a picture to search with may take")
    upload_pixels: int = Field(description="that it may have")
    version: str = Field(description="changes with the model and the index")


class Sharing(Wire):
    """How another device of the local network opens the page."""

    address: str = Field(description="with the token that admits it")
    code: str = Field(description="QR code of the address: data address of an SVG")


class Problem(Wire):
    """Why a request was refused."""

    detail: str
