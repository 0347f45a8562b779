"""Rows of our own networks: each bears the name of the run that it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch

from pipeline_lib import params
from pipeline_lib.baselines.measure import measure
from pipeline_lib.baselines.run import run_system
from pipeline_lib.baselines.runs import SYSTEMS
from pipeline_lib.baselines.system import Benchmark, Image, Part, Training
from pipeline_lib.data.images import encode_jpeg, encode_png
from pipeline_lib.data.schemas import CATALOG, PAIRS, read_catalog, write_rows
from pipeline_lib.data.source import FileSource, Source
from pipeline_lib.embedding.alignment import FILE_NAME, fit_pretext
from pipeline_lib.embedding.export import export_all
from pipeline_lib.embedding.kept import Kept
from pipeline_lib.embedding.networks import fc6_of, open_networks
from pipeline_lib.embedding.vectors import EmbeddingTable
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import read_json, write_json
from pipeline_lib.models.encoder import Encoder
from pipeline_lib.models.saved import START, load_encoder, save_model
from pipeline_lib.pretext.edges import edge_map
from pipeline_lib.run import Run
from tests.conftest import catalog_frame, scene

ROWS = {system.name: system for system in SYSTEMS}
PHOTOS, SKETCHES, PRETEXT = 8, 5, 12
SMALL: dict[str, dict[str, Any]] = {
    "patches": {"size": 64}, "edges": {"blur": 1.0, "line_width": 1},
    "train": {"pretrained": "none", "frozen": "none", "fc6": 32, "head": [16], "threads": 1, "device": "cpu"},
    "embed": {"threads": 1, "batch": 4}, "baselines": {"image_size": 64, "hog_size": 64},
    "contrast": {"image_size": 64},
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Images, and where runs on them go."""

    home: Path
    defaults: dict[str, Any]

    @property
    def source(self) -> FileSource:
        return FileSource(self.home / "images", 1_000_000)

    def draw(self) -> None:
        for domain, count in (("photo", PHOTOS), ("sketch", SKETCHES)):
            (self.home / "images" / domain).mkdir(parents=True)
            for number in range(count):
                pixels = scene(number, (90, 110))
                cv2.imwrite(
                    str(self.home / "images" / domain / f"{number}.png"), pixels if domain == "photo" else pixels // 2
                )

    def settings(self, name: str, alignment: str, size: int) -> params.Params:
        values = {
            key: {**part, **SMALL.get(key, {})} if isinstance(part, dict) else part
            for key, part in self.defaults.items()
        }
        values["train"]["objectives"] = {"context": 1.0}
        values["embed"] |= {"image_size": size, "layers": "fc6", "apart": False, "beside": [], "facing": 0.0}
        values["retrieval"] = {**values["retrieval"], "alignment": alignment}
        return params.parse({**values, "name": name})

    def run(self, name: str, alignment: str, size: int, seed: int) -> Run:
        """A finished run: other weights and another size of images for every one."""
        settings = self.settings(name, alignment, size)
        run = Run(self.home / name, settings, self.home)
        rows = [
            {"image_id": f"{domain}/{n}", "role": role, "domain": domain, "path": f"{domain}/{n}.png", "split": "test",
             "instance_id": f"photo/{n}", "content": f"{domain}/{n}"}
            for domain, role, count in (("photo", "gallery", PHOTOS), ("sketch", "query", SKETCHES))
            for n in range(count)
        ]  # fmt: skip
        pretext = [{"image_id": f"pretext/{n}", "path": f"{n}"} for n in range(PRETEXT)]
        write_rows(run.catalog, catalog_frame([*rows, *pretext]).to_dict("records"), CATALOG)  # type: ignore[arg-type]  # columns are strings
        pictures = [scene(50 + n, (90, 110)) for n in range(PRETEXT)]
        pairs = [
            {
                "image_id": f"pretext/{n}",
                "photo": encode_jpeg(image, 95),
                "edges": encode_png(edge_map(image, settings.edges)),
            }
            for n, image in enumerate(pictures)
        ]
        write_rows(run.pairs / "part-00000.parquet", pairs, PAIRS)
        save_model(run.model, state(settings, seed), state(settings, seed + 100), settings, {"accuracy": 0.5})
        self.embed(run, run.embeddings, open_networks(run).embed)
        untrained = fc6_of(load_encoder(run.model, settings, START), settings.embed)
        self.embed(run, run.folder / "baselines" / "untrained", untrained)
        run.write_record(data="")
        return Run.open(run.folder, self.home)

    def embed(self, run: Run, out: Path, network: Callable[[torch.Tensor], torch.Tensor]) -> None:
        catalog, size = read_catalog(run.catalog), run.params.embed.largest
        with torch.inference_mode():
            values, source = run.params, cast("Source", self.source)  # that lists no entries
            sizes = {"size": size, "batch": 4}
            kept = Kept(out / "kept", "")
            export_all({out: network}, catalog, source, run.pairs, values.train, values.embed, kept, **sizes)
        fit_pretext(out).save(out / FILE_NAME)
        write_json(out / "system.json", {"seconds": 1.0})


def state(settings: params.Params, seed: int) -> dict[str, torch.Tensor]:
    """Random weights, with BatchNorm moved from its start values: vectors would hardly differ under those."""
    torch.manual_seed(seed)
    encoder = Encoder(settings.train, settings.patches.size)
    with torch.no_grad():
        encoder.train()(torch.randn(16, 3, 64, 64))
    return encoder.state_dict()


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory, defaults: dict[str, Any]) -> Benchmark:
    """Two finished runs on the same images, under their own alignments."""
    place = Place(tmp_path_factory.mktemp("runs"), defaults)
    place.draw()
    runs = [place.run("source", "pretext_mean", 64, seed=0), place.run("default", "pretext_whitened", 96, seed=1)]
    catalog = read_catalog(runs[0].catalog)
    gallery, queries = (
        catalog[catalog["role"] == role].sort_values("image_id").reset_index(drop=True) for role in ("gallery", "query")
    )
    nothing = catalog.iloc[:0]
    training = Training("own", runs[0], place.source, catalog, nothing, nothing, {run.name: run for run in runs})  # type: ignore[arg-type]
    whole = Part("own", frozenset(gallery["image_id"]), frozenset(queries["image_id"]), unseen=True)
    return Benchmark("own", training, place.source, gallery, queries, (whole,))


def with_runs(benchmark: Benchmark, **runs: Run) -> Benchmark:
    return replace(benchmark, training=replace(benchmark.training, runs=runs))


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("source", "source/embeddings"),
        ("default", "default/embeddings"),
        ("source-untrained", "source/baselines/untrained"),
    ],
)
def test_each_row_embeds_with_the_network_and_size_of_its_own_run(
    benchmark: Benchmark, name: str, made: str, tmp_path: Path
) -> None:
    training = benchmark.training
    ROWS[name].fit(training, tmp_path)
    # The harness always hands over the params of the first run.
    function = ROWS[name].embedder(tmp_path, training.run.params)
    images = [
        Image(image_id, "", "", training.source.load(path, "photo", image_id))
        for image_id, path in zip(benchmark.gallery["image_id"], benchmark.gallery["path"], strict=True)
    ]
    expected = EmbeddingTable.open(training.run.folder.parent / made / "photos.parquet")
    assert expected.labels.image_ids.tolist() == [image.image_id for image in images]
    for vector, stored in zip(function(images, "photo"), expected.read(), strict=True):
        assert np.allclose(vector, stored, atol=1e-3 * np.abs(stored).max())


def test_the_bare_name_is_the_row_under_the_runs_own_alignment(benchmark: Benchmark, tmp_path: Path) -> None:
    rows = {
        name: [(row.row, row.form) for row in measure(run_system(ROWS[name], benchmark, tmp_path), benchmark)]
        for name in ("source", "default", "source-untrained")
    }
    assert rows["source"][:2] == [("source", "pretext_mean"), ("source+none", "none")]
    assert rows["default"][:2] == [("default", "pretext_whitened"), ("default+none", "none")]
    assert rows["source-untrained"][0] == ("source-untrained", "pretext_mean")
    assert {form for _, form in rows["default"]} == {form for _, form in rows["source"]}


def test_a_run_that_was_not_given_has_no_row_and_the_others_stay(benchmark: Benchmark, tmp_path: Path) -> None:
    assert "no run of this name" in ROWS["voc-sketchy"].inapplicable(benchmark)
    assert "no run of this name" in ROWS["voc-sketchy-untrained"].inapplicable(benchmark)
    assert ROWS["source"].inapplicable(benchmark) == ROWS["source-untrained"].inapplicable(benchmark) == ""
    skipped = run_system(ROWS["voc-sketchy"], benchmark, tmp_path)
    assert "no run of this name" in read_json(skipped / "skipped.json")["reason"]


def test_a_run_on_other_images_gives_no_row(benchmark: Benchmark) -> None:
    fewer = replace(benchmark, gallery=benchmark.gallery[1:].reset_index(drop=True))
    assert "embedded other photos" in ROWS["default"].inapplicable(fewer)
    assert ROWS["default"].inapplicable(benchmark) == ""


def test_another_network_of_a_run_voids_its_row_alone(
    benchmark: Benchmark, tmp_path: Path, defaults: dict[str, Any]
) -> None:
    runs = dict(benchmark.training.runs)
    place = Place(tmp_path / "again", defaults)
    place.draw()
    changed = with_runs(benchmark, source=runs["source"], default=place.run("default", "pretext_whitened", 96, seed=2))

    def key(name: str, given: Benchmark) -> str:
        return str(read_json(run_system(ROWS[name], given, tmp_path) / "system.json")["key"])

    assert key("source", benchmark) == key("source", changed)
    assert key("default", benchmark) != key("default", changed)


def test_weights_that_changed_since_the_run_was_made_are_refused(
    benchmark: Benchmark, tmp_path: Path, defaults: dict[str, Any]
) -> None:
    place = Place(tmp_path, defaults)
    place.draw()
    run = place.run("default", "pretext_whitened", 64, seed=3)
    training = replace(benchmark.training, runs={"default": run})
    ROWS["default"].fit(training, tmp_path)
    run.weights.write_bytes((run.model / START).read_bytes())
    with pytest.raises(PipelineError, match="it has changed since the run was made"):
        ROWS["default"].embedder(tmp_path, run.params)
