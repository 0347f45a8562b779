"""One run of the ablation, from its row in grid.yaml to metrics/ablation/NAME.json: `python -m experiments.cell NAME`.

It runs the pipeline's own stages with the row's params. Rows with the same images, edges and patches share those; rows
that run side by side make them one after the other. Each stage that has finished is skipped when the run is started
again, and training goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from experiments.grid import ROOT, Row, read_grid
from pipeline_lib.data.files import digest_of, read_json, write_json, write_text
from pipeline_lib.errors import PipelineError
from pipeline_lib.params import Params

PLACE = Path("data/ablation")
OUT = Path("metrics/ablation")
SHARED = ("catalog.parquet", "excluded.parquet", "pairs", "patches")
CURVE = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_accuracy_one_patch")


def call(command: list[str], what: str) -> None:
    """Runs a command in the repository.

    Raises:
        PipelineError: it failed; its own message stands above.
    """
    if subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        raise PipelineError(f"{what} failed; mend what it says and start the row again")


def stage(name: str, params: Params, data: Path) -> bool:
    """Runs a stage script on a data folder, unless it has finished there with the same params.

    Returns:
        Whether it ran.

    Raises:
        PipelineError: it failed; its own message stands above.
    """
    values = params.model_dump(mode="json") | {"paths": {"data": str(data), "metrics": str(data / "metrics")}}
    done, path = ROOT / data / f".{name}.done", ROOT / data / "params.yaml"
    key = digest_of(values)
    if done.exists() and done.read_text(encoding="utf-8") == key:
        return False
    write_text(path, yaml.safe_dump(values))
    call([str(ROOT / "stages" / f"{name}.py"), "--params", str(path)], f"stage {name} of {data}")
    write_text(done, key)
    return True


def train(params: Params, data: Path) -> dict[str, Any]:
    """Trains the network of a folder, unless it is there.

    Returns:
        `train`, seconds of all attempts that were stopped or came to the end, and `commit`, that of the last of them.

    Raises:
        PipelineError: it failed; its own message stands above.
    """
    path = ROOT / data / "seconds.json"
    unfinished = path.exists() and not (ROOT / data / ".train.done").exists()
    spent, started, ran = read_json(path)["train"] if unfinished else 0.0, time.monotonic(), True
    try:
        ran = stage("train", params, data)
    finally:
        if ran or not path.exists():
            write_json(path, {"train": round(spent + time.monotonic() - started, 1), "commit": commit()})
    made: dict[str, Any] = read_json(path)
    return made


def prepare(params: Params) -> Path:
    """Catalog, pairs and patches of a row, shared by all rows with the same settings; returns their folder."""
    settings = params.model_dump(mode="json", include={"catalog", "edges", "patches"})
    data = PLACE / f"images-{digest_of(settings)[:12]}"
    # The stages keep unfinished work by what it is made from: two runs of one would write the same files.
    with alone("images"):
        for name in ("catalog", "edges", "patches"):
            # The rest of the params differs from row to row and does not matter here.
            if not (ROOT / data / f".{name}.done").exists():
                stage(name, params, data)
    return data


def alone(what: str) -> FileLock:
    """A lock on what several rows share: while one run holds it, the others wait. It goes with its process."""
    (ROOT / PLACE).mkdir(parents=True, exist_ok=True)
    return FileLock(ROOT / PLACE / f".{what}.lock")


def link(images: Path, data: Path) -> None:
    """Lets a run's folder show the shared artefacts."""
    for name in SHARED:
        point(ROOT / data / name, Path("..") / images.name / name)


def point(target: Path, source: Path) -> None:
    """Makes `target` a link to `source`, whatever it led to before."""
    if target.is_symlink() and target.readlink() != source:
        target.unlink()
    if not target.is_symlink():
        target.symlink_to(source)


def lacks_weights(params: Params) -> str:
    """Why a row that starts from fc6 can't be made: no source at hand holds those weights. Empty where it can."""
    if params.train.pretrained != "fc6":
        return ""
    from pipeline_lib.models import weights  # noqa: PLC0415  loads torch, for these rows alone

    try:
        weights.load(params.train, ROOT)
    except PipelineError as failure:
        return str(failure)
    return ""


def commit() -> str:
    """The commit of this tree, with a plus where files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+"], cwd=ROOT, capture_output=True, check=False
    )
    return found.stdout.decode().strip() or "unknown"


def record(name: str, row: Row, params: Params, data: Path, made: dict[str, Any]) -> dict[str, Any]:
    """The content of metrics/ablation/NAME.json."""
    analysis = read_json(ROOT / data / "analysis.json")
    meta = read_json(ROOT / data / "model" / "meta.json")
    return {
        "name": name,
        "group": row.group,
        "set": row.set,
        "note": row.note,
        "dataset": "sketchy",
        "encoder": params.train.encoder,
        "domain": params.train.domain,
        "pretrained": params.train.pretrained,
        "batch_norm": params.train.batch_norm,
        "epochs": params.train.epochs,
        "seed": params.train.seed,
        "training_images": meta["training_images"],
        "start_weights": meta["start_weights"],
        "seconds": made["train"],
        "commit": made["commit"],
        **analysis,
    }


def keep_curve(data: Path, out: Path) -> None:
    """Copies what the validation curves need."""
    with (ROOT / data / "metrics" / "training.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    write_text(out, "\n".join([",".join(CURVE), *(",".join(row[name] for name in CURVE) for row in rows)]) + "\n")


def run(name: str) -> None:
    """Runs a row to its end.

    Raises:
        PipelineError: the row does not exist, a stage failed, or the row is skipped: its file then says why, and it is
            not done, so that DVC tries it again.
    """
    grid = read_grid()
    params, row = grid.params_of(name), grid.rows[name]
    reason = lacks_weights(params)
    if reason:
        write_json(ROOT / OUT / f"{name}.json", {"name": name, "group": row.group, "skipped": reason})
        write_text(ROOT / OUT / f"{name}.csv", ",".join(CURVE) + "\n")
        raise PipelineError(f"{name}: skipped, {reason}")
    images = prepare(params)
    data = PLACE / name
    (ROOT / data).mkdir(parents=True, exist_ok=True)
    link(images, data)
    made = train(params, data)
    stage("embed", params, data)
    if row.before:
        stage("baselines", params, data)
    places = (data, data / "metrics", data / "analysis.json")
    call(["-m", "experiments.analyse", *map(str, places)], f"the analysis of {data}")
    keep_curve(data, ROOT / OUT / f"{name}.csv")
    write_json(ROOT / OUT / f"{name}.json", record(name, row, params, data, made))
    if not row.before:
        shutil.rmtree(ROOT / data)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="one run of the ablation")
    parser.add_argument("name", help="a row of experiments/grid.yaml")
    try:
        run(parser.parse_args().name)
    except PipelineError as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
