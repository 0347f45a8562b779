"""A run to carry: its network as ONNX, which gives the vectors that torch gives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.embedding.alignment import FILE_NAME, Alignment
from pipeline_lib.embedding.embedder import open_embedder
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import LIBRARY
from pipeline_lib.run import Run
from pipeline_lib.search.engine import open_encoder, open_engine
from pipeline_lib.search.export import export
from tests.conftest import scene
from tests.search.support import embed, make_run, save_model, with_params

MAPS = {
    "train__encoder": "efficientnet_lite0",
    "train__batch_norm": True,
    "embed__image_size": 128,
    "embed__layers": "fc6+pool5+conv4",
    "embed__channels": 8,
    "embed__dimension": 16,
    "embed__facing": 2.0,
    "retrieval__alignment": "pretext_csls",
}


@pytest.fixture(scope="module")
def projected(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run of one small vector, as the model that comes with the repository is."""
    run = save_model(with_params(make_run(tmp_path_factory.mktemp("projected")), **MAPS))
    embed(run)
    return run


@pytest.fixture(scope="module")
def exported(projected: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("exported") / "box"
    export(projected, folder)
    return Run.open(folder, projected.root)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.einsum("ij,ij->i", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def test_vectors_are_those_of_the_run_it_was_made_from(projected: Run, exported: Run) -> None:
    images = [scene(number) for number in range(5)]
    encoders = [open_encoder(run, 1) for run in (projected, exported)]
    ours, theirs = (each.raw([each.prepare(image, "photo") for image in images]) for each in encoders)
    assert theirs.shape == (5, 16)
    assert cosines(ours, theirs).min() > 0.999  # pixels differ by a level here and there, weights are halved
    pixels = np.stack([encoders[0].prepare(image, "photo").pixels for image in images])
    same = (each.embedder.vectors(pixels[:, 0]) for each in encoders)
    assert cosines(*same).min() > 0.9995


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_networks_of_timm_are_carried_as_well(tmp_path: Path, name: str) -> None:
    run = save_model(with_params(make_run(tmp_path / "run"), **{**MAPS, "train__encoder": f"timm:{name}"}))
    embed(run)
    export(run, tmp_path / "box")
    encoders = [open_encoder(each, 1) for each in (run, Run.open(tmp_path / "box", run.root))]
    images = [scene(number) for number in range(4)]
    ours, theirs = (each.raw([each.prepare(image, "photo") for image in images]) for each in encoders)
    assert cosines(ours, theirs).min() > 0.999


def test_one_image_gives_the_same_alone_and_among_others(exported: Run) -> None:
    encoder = open_encoder(exported, 1)
    prepared = [encoder.prepare(scene(number), "photo") for number in range(3)]
    together = encoder.raw(prepared)
    alone = np.concatenate([encoder.raw([each]) for each in prepared])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_the_mirror_image_may_be_shown_to_another_core(exported: Run, count: int) -> None:
    images = [scene(number) for number in range(count)]
    alone, together = (
        encoder.raw([encoder.prepare(image, "photo") for image in images])
        for encoder in (open_encoder(exported, threads) for threads in (1, 2))
    )
    np.testing.assert_array_equal(alone, together)


def test_it_carries_what_a_search_needs_and_no_photo_or_vector(exported: Run) -> None:
    files = {path.relative_to(exported.folder).as_posix() for path in exported.folder.rglob("*") if path.is_file()}
    assert files == {"run.json", "model/encoder.onnx", "model/meta.json", f"embeddings/{FILE_NAME}"}
    assert exported.record["likeness"] or exported.record["likeness"] is None
    assert list(Alignment.load(exported.embeddings / FILE_NAME).steps)[-1] == ("mean", "whitening", "hubness")


def test_a_readme_stays_when_a_run_is_exported_again(projected: Run, tmp_path: Path) -> None:
    folder = tmp_path / "box"
    folder.mkdir()
    (folder / "README.md").write_text("what it is", encoding="utf-8")
    export(projected, folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == "what it is"


def test_a_network_that_was_changed_is_refused(exported: Run, tmp_path: Path) -> None:
    shutil.copytree(exported.folder, tmp_path / "box")
    with (tmp_path / "box/model/encoder.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(PipelineError, match=r"encoder.onnx: its SHA-256 is"):
        Run.open(tmp_path / "box")


def test_what_is_exported_already_is_not_exported_again(exported: Run, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="exported run already"):
        export(exported, tmp_path / "again")


@pytest.mark.parametrize("which", ["pipeline", "auto"])
def test_without_an_index_of_photos_it_has_nothing_to_search(
    exported: Run, which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(PipelineError, match=r"box: is an exported run, .*`drawfind index --run "):
        open_engine(exported, which)


def test_layers_apart_can_not_be_carried(projected: Run, tmp_path: Path) -> None:
    twin = replace(projected, folder=tmp_path / "run")
    shutil.copytree(projected.folder, twin.folder)
    apart = save_model(with_params(twin, embed__apart=True, embed__dimension=0, embed__channels=0))
    with pytest.raises(PipelineError, match=r"embed\.apart"):
        export(apart, tmp_path / "box")


def test_it_is_opened_without_torch(exported: Run) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'scipy', 'dvc', 'matplotlib')));"
        "from pathlib import Path; import numpy as np; from pipeline_lib.run import Run;"
        "from pipeline_lib.search.engine import open_encoder; encoder = open_encoder(Run.open(Path(sys.argv[1])), 1);"
        "print(encoder.aligned([encoder.prepare(np.full((40, 30), 255, np.uint8), 'sketch')]).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported.folder)],
        cwd=LIBRARY.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "(1, 17)", done.stderr


def test_an_embedder_tells_of_its_network(projected: Run, exported: Run) -> None:
    ours, theirs = (open_embedder(run, 1) for run in (projected, exported))
    assert (ours.dimension, ours.size, ours.meta) == (theirs.dimension, theirs.size, theirs.meta)
