"""Requests and answers of the HTTP API as pydantic models, from which the OpenAPI document is generated."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline_lib.search.engine import MOST_HITS

MOST_STROKES = 2000
MOST_POINTS = 5000
ALL_POINTS = 100_000
"""Points of a drawing at most; more would block the threads that rasterise."""

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
    seen: bool = Field(default=False, description="also tell what the network sees")

    @model_validator(mode="after")
    def _points_in_all(self) -> Self:
        if sum(len(stroke.points) for stroke in self.strokes) > ALL_POINTS:
            raise ValueError(f"the drawing has more than {ALL_POINTS} points; leave some out")
        return self


class Found(Wire):
    """A photo that was found."""

    rank: int = Field(ge=1)
    score: float = Field(description="cosine similarity, -1 to 1")
    distance: float = Field(description="1 - score")
    image_id: str
    label: str
    photo: str = Field(description="address of the photo")
    thumbnail: str = Field(description="address of a small version")
    edges: str = Field(description="address of its edge map")


class Seen(Wire):
    """What the network sees of a query, as PNG data addresses."""

    input: str = Field(description="the query at the size that the encoder takes")
    edges: str = Field(description="its Canny edge map, as training photos are drawn")


class Answer(Wire):
    """The nearest photos, best first."""

    found: list[Found]
    milliseconds: float = Field(description="from the whole request to the answer, on the server")
    seen: Seen | None = None


class Health(Wire):
    """Whether the server can search."""

    status: str = Field(description='"ok", or "degraded" while the index process is being restarted')
    photos: int
    waiting: int = Field(description="searches in progress")
    queue: int = Field(description="searches that may be in progress before 503 is answered")
    answered: int
    refused: int


class ModelInfo(Wire):
    """The model and index that are searched with."""

    run: str = Field(description="name of the run that made the model")
    gallery: str
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
    version: str = Field(description="changes with the model and the index")


class Problem(Wire):
    """Why a request was refused."""

    detail: str
