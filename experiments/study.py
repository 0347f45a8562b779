"""One row of the retrieval study, from study.yaml to metrics/retrieval_study.csv: `python -m experiments.study NAME`.

It runs the pipeline's own stages. Rows that differ in embedding alone share the trained network. Settings are chosen by
`sketchy_even`, the classes at even places of the alphabetical list; rows marked `final` are also measured on the others
and on the whole gallery.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from experiments.cell import PLACE, alone, call, commit, link, point, prepare, stage, train
from experiments.grid import ROOT, Grid, read_grid
from pipeline_lib.data.files import digest_of, read_json, write_json
from pipeline_lib.errors import PipelineError
from pipeline_lib.models import earlier
from pipeline_lib.params import Params

STUDY = ROOT / "experiments" / "study.yaml"
OUT = Path("metrics/retrieval_study")


def network_of(params: Params, images: Path) -> Path:
    """The folder of the network that these params train, trained now if it is not there."""
    settings = params.model_dump(mode="json", include={"train", "contrast"})
    free = {"threads", "checkpoint_seconds", "device", "bootstrap"}
    # A key that came later changes no network that was made before it.
    for section, before in earlier.SECTIONS.items():
        kept = {key: value for key, value in settings[section].items() if before.get(key) != value}
        settings[section] = {key: value for key, value in kept.items() if key not in free}
    data = PLACE / f"network-{digest_of(images.name, settings)[:12]}"
    (ROOT / data).mkdir(parents=True, exist_ok=True)
    link(images, data)
    with alone(data.name):
        if not ((ROOT / data / "model" / "meta.json").exists() and (ROOT / data / "seconds.json").exists()):
            train(params, data)
    return data


def embedded(name: str, grid: Grid) -> tuple[Path, Path]:
    """The folder of a row's embeddings, made now if they are not there, and that of its network.

    Raises:
        PipelineError: the row does not exist or a stage failed.
    """
    params = grid.params_of(name)
    data = PLACE / f"study-{name}"
    images = prepare(params)
    network = network_of(params, images)
    (ROOT / data).mkdir(parents=True, exist_ok=True)
    link(images, data)
    point(ROOT / data / "model", Path("..") / network.name / "model")
    stage("embed", params, data)
    return data, network


def run(name: str, grid: Grid) -> None:
    """Runs a row to its end.

    Raises:
        PipelineError: the row does not exist or a stage failed.
    """
    data, network = embedded(name, grid)
    row = grid.rows[name]
    found = ROOT / data / "judged.json"
    call(["-m", "experiments.judge", str(data), str(found), *(["--final"] if row.final else [])], f"judging {data}")
    meta = read_json(ROOT / network / "model" / "meta.json")
    pretext = read_json(ROOT / network / "metrics" / "pretext.json")
    # Of rows that take part their networks, too.
    others = grid.params_of(name).embed.runs
    folders = [ROOT / network, *((ROOT / folder / "model").resolve().parent for folder, _ in others)]
    record: dict[str, Any] = {
        "name": name,
        "hypothesis": row.note,
        "command": f"python -m experiments.study {name}",
        "set": row.set,
        "training_images": meta["training_images"],
        "start_weights": meta["start_weights"],
        "pretext_accuracy": pretext["accuracy"],
        "match_at_1": pretext.get("match_at_1"),
        "train_seconds": round(sum(read_json(folder / "seconds.json")["train"] for folder in folders), 1),
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
