"""The catalog: opens every image once, leaves out bad images and leaks, and gives each image its role and split."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.data.leakage import Photos, find_leaks, repeat_groups
from pipeline_lib.data.measure import read_images
from pipeline_lib.data.randomness import split_groups, stable_fraction
from pipeline_lib.data.schemas import CATALOG, EXCLUDED
from pipeline_lib.data.source import Excluded, Source
from pipeline_lib.errors import PipelineError

LISTED = 50  # bad images that the summary names at most


@dataclass(frozen=True)
class Built:
    """A finished catalog."""

    table: pa.Table  # columns as in `schemas.CATALOG`
    excluded: pa.Table  # columns as in `schemas.EXCLUDED`
    summary: dict[str, Any]  # counts, for JSON


def build_catalog(source: Source, catalog: params.Catalog, scratch: Path, workers: int, ray: str = "") -> Built:
    """Lists, opens, checks and splits all images of a source; `scratch`, `workers` and `ray` as in `read_images`.

    Raises:
        PipelineError: too many images are bad, two share an id, or too few are left to search or to train on.
    """
    images = read_images(source, scratch, workers, ray)
    _refuse_repeated_ids(images)
    excluded = [*source.excluded(), *_unreadable(images)]
    _refuse_many_bad(excluded, images, catalog.max_bad_fraction)
    good = _where(images, "error", "")
    gallery = np.flatnonzero(good & _where(images, "role", "gallery"))
    if not len(gallery):
        raise PipelineError("catalog.root: no photo is left to search; see what was excluded, or name another folder")
    training = _training_photos(source, images, np.flatnonzero(good & _where(images, "role", "pretext")), catalog)
    queries, alone = _with_photo(images, np.flatnonzero(good & _where(images, "role", "query")), gallery)
    excluded += [*training.excluded, *alone]
    chosen, chosen_groups = _limited(images, training, catalog)
    held_out = split_groups(chosen_groups, catalog.val_fraction, catalog.seed)
    # Rows are copied only once, here, to keep the peak of memory low.
    images = images.select([name for name in CATALOG.names if name != "split"])
    table = images.take(pa.array(np.concatenate([chosen, gallery, queries])))
    searched = len(gallery) + len(queries)
    split = np.where(held_out, "val", "train").tolist() + ["test"] * searched
    groups = chosen_groups + table["group_id"][len(chosen) :].to_pylist()
    table = _with_column(table.append_column("split", pa.array(split)), "group_id", pa.array(groups, pa.string()))
    table = _own_by_default(table.select(CATALOG.names)).cast(CATALOG)
    summary = _summary(catalog.dataset, table, excluded)
    summary["pretext_repeats"] = training.repeats
    summary["pretext_beyond_limit"] = len(training.rows) - len(chosen)
    return Built(table, pa.Table.from_pylist([asdict(row) for row in excluded], schema=EXCLUDED), summary)


def _where(images: pa.Table, column: str, value: str) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(images[column], value).to_numpy())


def _texts(images: pa.Table, column: str, rows: NDArray[np.int64]) -> list[str]:
    return list(images[column].take(pa.array(rows)).to_pylist())


def _with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def _distinct(column: pa.ChunkedArray) -> int:
    """How many different strings; counted by 64-bit hashes, as Arrow's own count takes 50 times the memory."""
    hashes = [np.array([hash(text) for text in chunk.to_pylist()], np.int64) for chunk in column.chunks]
    return len(np.unique(np.concatenate(hashes))) if hashes else 0


def _refuse_repeated_ids(images: pa.Table) -> None:
    if _distinct(images["image_id"]) == images.num_rows:
        return
    counts = pc.value_counts(images["image_id"])
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    raise PipelineError(
        f"{len(twice)} image ids occur more than once, such as {', '.join(sorted(twice)[:3])}; rename or remove files "
        "whose names differ only in their extension"
    )


def _unreadable(images: pa.Table) -> list[Excluded]:
    bad = images.filter(pc.not_equal(images["error"], "")).select(["path", "dataset", "error"]).to_pylist()
    once = {row["path"]: row for row in bad}
    return [Excluded(path, row["dataset"], "unreadable", row["error"]) for path, row in once.items()]


def _refuse_many_bad(excluded: list[Excluded], images: pa.Table, allowed: float) -> None:
    bad = [row for row in excluded if row.reason == "unreadable"]
    # Files that a reader could not even list are among the bad, but not among the images.
    unlisted = len(bad) - len(_unreadable(images))
    total = _distinct(images["path"]) + unlisted
    if len(bad) > allowed * total:
        first = "\n".join(f"  {row.path}: {row.detail}" for row in bad[:10])
        raise PipelineError(
            f"{len(bad)} of {total} images can't be read, more than catalog.max_bad_fraction {allowed} allows; repair "
            f"or remove them, or raise that key. The first ones:\n{first}"
        )


@dataclass(frozen=True)
class _Training:
    """Photos to train on: their rows (int64[N]), groups, number of duplicates by data set, and leaks left out."""

    rows: NDArray[np.int64]
    groups: list[str]
    repeats: dict[str, int]
    excluded: list[Excluded]


def _training_photos(source: Source, images: pa.Table, rows: NDArray[np.int64], catalog: params.Catalog) -> _Training:
    given = _texts(images, "group_id", rows)
    photos = _photos(source, images, rows)
    leaders = repeat_groups(photos, catalog.fingerprint_bits, given)
    datasets, ids = _texts(images, "dataset", rows), _texts(images, "image_id", rows)
    repeats = Counter(datasets[n] for n in np.flatnonzero(leaders != np.arange(len(rows))).tolist())
    groups = [given[leader] or ids[leader] for leader in leaders.tolist()]
    if source.trains_on_gallery:
        return _Training(rows, groups, dict(repeats), [])
    apart = np.flatnonzero(_where(images, "role", "gallery") | _where(images, "role", "reserved"))
    leaks = find_leaks(photos, _photos(source, images, apart), catalog.fingerprint_bits, leaders)
    paths = _texts(images, "path", rows[[leak.index for leak in leaks]])
    matches = _texts(images, "path", apart[[leak.match for leak in leaks]])
    excluded = [
        Excluded(path, datasets[leak.index], leak.reason, match)
        for leak, path, match in zip(leaks, paths, matches, strict=True)
    ]
    out = {leak.index for leak in leaks}
    keep = np.array([n for n in range(len(rows)) if n not in out], np.int64)
    return _Training(rows[keep], [groups[n] for n in keep.tolist()], dict(repeats), excluded)


def _photos(source: Source, images: pa.Table, rows: NDArray[np.int64]) -> Photos:
    prints = _texts(images, "fingerprint", rows) if source.recognises else [""] * len(rows)
    return Photos(_texts(images, "name", rows), prints)


def _with_photo(
    images: pa.Table, queries: NDArray[np.int64], gallery: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[Excluded]]:
    """Sketches whose photo is in the gallery, and those without."""
    ids = images["image_id"].take(pa.array(gallery)).combine_chunks()
    found = np.asarray(pc.is_in(images["instance_id"].take(pa.array(queries)), ids).to_numpy(), bool)
    alone = queries[~found]
    told = zip(*(_texts(images, column, alone) for column in ("path", "dataset", "instance_id")), strict=True)
    return queries[found], [
        Excluded(path, dataset, "missing_photo", f"{photo} is not in the gallery") for path, dataset, photo in told
    ]


def _limited(images: pa.Table, training: _Training, catalog: params.Catalog) -> tuple[NDArray[np.int64], list[str]]:
    """Rows and groups of at most `limit` training photos: the first ones by hash."""
    if not 0 < catalog.limit < len(training.rows):
        return training.rows, training.groups
    # Not the hash of `split_groups`: by the same hash, the first photos would all be held out.
    place = [stable_fraction(catalog.seed, f"limit\0{name}") for name in _texts(images, "image_id", training.rows)]
    first = np.sort(np.argsort(place, kind="stable")[: catalog.limit])
    return training.rows[first], [training.groups[n] for n in first.tolist()]


def _own_by_default(table: pa.Table) -> pa.Table:
    """Fills in the ids of instance and group: an image without one is its own."""
    for name in ("instance_id", "group_id"):
        table = _with_column(table, name, pc.if_else(pc.equal(table[name], ""), table["image_id"], table[name]))
    return table


def _summary(dataset: str, table: pa.Table, excluded: list[Excluded]) -> dict[str, Any]:
    images: dict[str, dict[str, dict[str, int]]] = {}
    parts = table.group_by(["dataset", "role", "split"]).aggregate([([], "count_all")]).to_pylist()
    for part in sorted(parts, key=lambda part: (part["dataset"], part["role"], part["split"])):
        images.setdefault(part["dataset"], {}).setdefault(part["role"], {})[part["split"]] = part["count_all"]
    reasons: dict[str, dict[str, int]] = {}
    for (reason, name), count in sorted(Counter((row.reason, row.dataset) for row in excluded).items()):
        reasons.setdefault(reason, {})[name] = count
    bad = [f"{row.path}: {row.detail}" for row in excluded if row.reason == "unreadable"]
    return {"dataset": dataset, "images": images, "excluded": reasons, "bad": len(bad), "bad_images": bad[:LISTED]}
