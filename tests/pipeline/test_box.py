"""The model that comes with the program: made by its recipe, as small and as good as is said of it."""

from __future__ import annotations

import csv
from pathlib import Path

from experiments.recipes import Recipes
from pipeline_lib.embedding.alignment import FILE_NAME, Alignment
from pipeline_lib.embedding.embedder import open_embedder
from pipeline_lib.files import digest_of_file
from pipeline_lib.run import Run
from pipeline_lib.search.command import box
from pipeline_lib.search.export import WHERE

ROOT = Path(__file__).resolve().parents[2]


def figures() -> dict[str, float]:
    """What was measured, by name."""
    with (ROOT / "metrics/own_photos.csv").open(encoding="utf-8", newline="") as stream:
        return {row["what"]: float(row["value"]) for row in csv.DictReader(stream)}


def test_it_is_an_exported_run_of_its_recipe() -> None:
    run = Run.open(box())
    assert run.folder == ROOT / "models/photos"
    threads = {f"{name}.threads": run.record["threads"][name] for name in ("train", "embed")}
    wanted = Recipes().params_of("photos", {"catalog.root": WHERE, **threads})
    beside = {"baselines"}  # what it is read beside, no part of it
    assert run.params.model_dump(exclude=beside) == wanted.model_dump(exclude=beside)
    assert run.record["exported"] == digest_of_file(run.exported)


def test_it_holds_at_most_30_mb_and_gives_at_most_1024_numbers() -> None:
    run = Run.open(box())
    assert sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file()) <= 30_000_000
    embedder = open_embedder(run, 1)
    assert embedder.dimension == Alignment.load(run.embeddings / FILE_NAME).dimension <= 1024


def test_its_card_tells_the_figures_that_were_measured_through_the_command_line() -> None:
    found, card = figures(), (box() / "README.md").read_text(encoding="utf-8")
    for name in ("sketchy_instance_hit_at_5", "sketchy_class_hit_at_5"):
        assert f"{found[name]:.1f}" in card, name
        assert f"{found[f'{name}_half_size_corner']:.1f}" in card, name


def test_its_scores_are_calibrated() -> None:
    likeness = Run.open(box()).record["likeness"]
    for scale in likeness.values():
        assert scale["chance"] < scale["unlike"] < scale["same"]
