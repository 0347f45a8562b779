"""PASCAL VOC 2012 in its official layout: `VOCdevkit/VOC2012/JPEGImages`, `ImageSets/Main/trainval.txt`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline_lib.data.source import Entry
from pipeline_lib.errors import PipelineError

DATASET: Final = "voc"
HOME: Final = "VOCdevkit/VOC2012"


def entries(root: Path) -> Iterator[Entry]:
    """The photos that `trainval.txt` lists, all for the pretext task; `root` holds `VOCdevkit`.

    Raises:
        PipelineError: the data set is not there, or lists nothing.
    """
    listing = root / HOME / "ImageSets" / "Main" / "trainval.txt"
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as failure:
        raise PipelineError(
            f"{listing}: can't be read ({failure}); catalog.root must hold PASCAL VOC 2012 in its official layout. "
            f"With internet, pipeline_lib.data.voc.download({str(root)!r}) fetches it (2 GB)"
        ) from failure
    # Some of VOC's lists have a label after the name.
    names = sorted({line.split()[0] for line in lines if line.strip()})
    if not names:
        raise PipelineError(f"{listing}: lists no images; unpack PASCAL VOC 2012 again")
    for name in names:
        yield Entry(f"{DATASET}/{name}", DATASET, "pretext", "photo", f"{HOME}/JPEGImages/{name}.jpg", name=name)


def download(root: Path | str) -> None:
    """Fetches PASCAL VOC 2012 to `root` through torchvision.

    Raises:
        PipelineError: the download fails, or what came is not the data set.
    """
    from torchvision.datasets import VOCDetection  # noqa: PLC0415  loads torch, which no reader needs

    try:
        VOCDetection(str(root), year="2012", image_set="trainval", download=True)
    except (OSError, RuntimeError) as failure:
        raise PipelineError(
            f"PASCAL VOC 2012 can't be fetched to {root} ({failure}); fetch VOCtrainval_11-May-2012.tar on a machine "
            "with internet and unpack it there"
        ) from failure
