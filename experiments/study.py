"""One row of the retrieval study, from study.yaml to metrics/retrieval_study.csv: `python -m experiments.study NAME`.

It runs the pipeline's own stages. Rows that differ in embedding alone share the trained network, and a row may join the
vectors of others. Settings are chosen by `sketchy_even`, the classes at even places of the alphabetical list; rows
marked `final` are also measured on the others and on the whole gallery.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from experiments.cell import PLACE, call, commit, link, point, prepare, stage
from experiments.grid import ROOT, Grid, read_grid
from pipeline_lib.data.files import digest_of, read_json, write_json
from pipeline_lib.data.schemas import embeddings_schema, write_table
from pipeline_lib.errors import PipelineError
from pipeline_lib.params import Params
from pipeline_lib.retrieval.alignment import FILE_NAME, normalise
from pipeline_lib.retrieval.fitting import fit_pretext
from pipeline_lib.retrieval.vectors import EmbeddingTable

STUDY = ROOT / "experiments" / "study.yaml"
OUT = Path("metrics/retrieval_study")


def network_of(params: Params, images: Path) -> Path:
    """The folder of the network that these params train, trained now if it is not there."""
    settings = params.model_dump(mode="json", include={"train", "contrast"})
    free = {"threads", "checkpoint_seconds", "device", "bootstrap"}
    settings["train"] = {key: value for key, value in settings["train"].items() if key not in free}
    data = PLACE / f"network-{digest_of(images.name, settings)[:12]}"
    (ROOT / data).mkdir(parents=True, exist_ok=True)
    link(images, data)
    if not (ROOT / data / "model" / "meta.json").exists():
        started = time.monotonic()
        stage("train", params, data)
        write_json(ROOT / data / "seconds.json", {"train": round(time.monotonic() - started, 1)})
    return data


def embedded(name: str, grid: Grid) -> tuple[Path, list[Path]]:
    """The folder of a row's embeddings, made now if they are not there, and the folders of its networks.

    Raises:
        PipelineError: the row does not exist or a stage failed.
    """
    params, row = grid.params_of(name), grid.rows[name]
    data = PLACE / f"study-{name}"
    if row.join:
        members = [embedded(member, grid) for member in row.join]
        join([ROOT / member / "embeddings" for member, _ in members], ROOT / data / "embeddings")
        return data, list(dict.fromkeys(network for _, networks in members for network in networks))
    images = prepare(params)
    network = network_of(params, images)
    (ROOT / data).mkdir(parents=True, exist_ok=True)
    link(images, data)
    point(ROOT / data / "model", Path("..") / network.name / "model")
    stage("embed", params, data)
    return data, [network]


def join(folders: list[Path], out: Path) -> None:
    """Puts the L2-normalised vectors of the same images one behind the other, and fits an alignment of their own.

    Raises:
        PipelineError: a table is missing, or tables hold other images.
    """
    for name in ("photos", "sketches", "pretext_photos", "pretext_edges"):
        tables = [EmbeddingTable.open(folder / f"{name}.parquet") for folder in folders]
        labels = tables[0].labels
        for other in tables[1:]:
            if not np.array_equal(other.labels.image_ids, labels.image_ids):
                raise PipelineError(
                    f"{other.path}: holds other images than {tables[0].path}; join rows of the same images"
                )
        vectors = np.hstack([normalise(table.read()) for table in tables])
        columns = (labels.image_ids, labels.class_names, labels.instance_ids)
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        schema = embeddings_schema(vectors.shape[1])
        table = pa.table([*(pa.array(column.tolist(), pa.string()) for column in columns), values], schema=schema)
        write_table(out / f"{name}.parquet", table)
    fit_pretext(out).save(out / FILE_NAME)
    seconds = sum(read_json(folder / "system.json")["seconds"] for folder in folders)
    write_json(out / "system.json", {"seconds": round(seconds, 2)})


def run(name: str, grid: Grid) -> None:
    """Runs a row to its end.

    Raises:
        PipelineError: the row does not exist or a stage failed.
    """
    data, networks = embedded(name, grid)
    row = grid.rows[name]
    found = ROOT / data / "judged.json"
    call(["-m", "experiments.judge", str(data), str(found), *(["--final"] if row.final else [])], f"judging {data}")
    meta = read_json(ROOT / networks[0] / "model" / "meta.json")
    pretext = read_json(ROOT / networks[0] / "metrics" / "pretext.json")
    record: dict[str, Any] = {
        "name": name,
        "hypothesis": row.note,
        "command": f"python -m experiments.study {name}",
        "set": row.set,
        "training_images": meta["training_images"],
        "start_weights": meta["start_weights"],
        "pretext_accuracy": pretext["accuracy"],
        "match_at_1": pretext.get("match_at_1"),
        "train_seconds": sum(read_json(ROOT / network / "seconds.json")["train"] for network in networks),
        "embed_seconds": read_json(ROOT / data / "embeddings" / "system.json")["seconds"],
        "commit": commit(),
        "rows": read_json(found),
    }
    write_json(ROOT / OUT / f"{name}.json", record)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="rows of the retrieval study")
    parser.add_argument("names", nargs="*", help="rows of experiments/study.yaml; all that are not made yet if empty")
    try:
        grid = read_grid(STUDY)
        made = {path.stem for path in (ROOT / OUT).glob("*.json")}
        for name in parser.parse_args().names or [name for name in grid.order if name not in made]:
            run(name, grid)
        call(["-m", "experiments.judge", "--table"], "writing the table")
    except PipelineError as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
