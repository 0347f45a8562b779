"""Runs in which the networks of other runs take part."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.embedding.alignment import Alignment, Domain
from pipeline_lib.embedding.embedder import beside
from pipeline_lib.embedding.networks import open_networks, take_beside
from pipeline_lib.errors import PipelineError
from pipeline_lib.files import digest_of_file
from pipeline_lib.run import Run
from tests.search.support import embed, make_run, save_model, stored_vectors, with_params


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run; not to be changed."""
    return make_run(tmp_path_factory.mktemp("beside"))


@pytest.fixture
def run(finished_run: Run, tmp_path: Path) -> Run:
    """A copy of the run that may be changed."""
    tree = tmp_path / "repository"
    shutil.copytree(finished_run.root, tree)
    return Run.open(tree / "data", tree)


def another(run: Run, name: str, seed: int, **changes: object) -> Run:
    """A finished run in a folder of its own below the same root, with a network of another seed."""
    shutil.copytree(run.folder, run.root / name)
    made = save_model(with_params(Run.open(run.root / name, run.root), **changes), seed)
    embed(made)
    return Run.open(made.folder, run.root)


def joined(run: Run, others: list[str], **changes: object) -> Run:
    """The run again, with others beside it."""
    made = with_params(run, embed__beside=others, **changes)
    embed(made)
    return Run.open(made.folder, run.root)


def digest(run: Run) -> str:
    return digest_of_file(run.weights)


def similarities(run: Run) -> np.ndarray:
    """Of all sketches and photos, in the order of their names."""
    folder = run.embeddings
    alignment = Alignment.load(folder / "alignment.safetensors").as_kind("pretext_whitened")
    sides: list[tuple[str, Domain]] = [("photos", "photo"), ("sketches", "sketch")]
    photos, sketches = (
        alignment.apply(np.stack([vectors[name] for name in sorted(vectors)]), domain)
        for vectors, domain in ((stored_vectors(folder / f"{side}.parquet"), domain) for side, domain in sides)
    )
    return np.asarray(sketches @ photos.T)


def test_networks_that_see_images_at_different_sizes_find_by_the_mean_of_their_similarities(run: Run) -> None:
    alone = similarities(run)
    other = another(run, "other", 1, embed__layers="fc6+pool5")
    apart = similarities(other)
    together = similarities(joined(run, ["other"], embed__layers="fc6"))
    np.testing.assert_allclose(together, (alone + apart) / 2, atol=1e-4)
    assert not np.allclose(together, alone, atol=1e-2)


def test_a_network_of_smaller_images_makes_them_from_those_of_the_largest(run: Run) -> None:
    apart = similarities(another(run, "other", 1, embed__image_size=160))
    alone = similarities(joined(run, [], embed__image_size=96))
    together = joined(run, ["other"], embed__image_size=96)
    networks = open_networks(together)
    assert ([member.params.embed.sizes for member in networks.members], networks.size) == ([[96], [160]], 160)
    assert float(np.abs(similarities(together) - (alone + apart) / 2).mean()) < 0.1


def test_a_run_that_itself_joins_others_brings_them_along(run: Run) -> None:
    another(run, "first", 1)
    second = another(run, "second", 2, embed__beside=["first"])
    assert len(open_networks(second).members) == 2
    assert len(open_networks(joined(run, ["second"])).members) == 3


def test_files_that_a_file_manager_leaves_among_the_copies_are_no_networks(run: Run) -> None:
    another(run, "other", 1)
    together = joined(run, ["other"])
    (together.embeddings / "beside" / ".DS_Store").touch()
    assert len(open_networks(together).members) == 2


def test_an_experiment_in_a_copy_of_the_repository_finds_runs_in_the_real_one(run: Run, tmp_path: Path) -> None:
    another(run, "other", 1)
    copy = run.root / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    copy.mkdir(parents=True)
    params = with_params(run, embed__beside=["other"]).params
    take_beside(Run(tmp_path / "run", params, copy))
    (folder,) = beside(tmp_path / "run" / "embeddings")
    assert Run.open(folder).record == Run.open(run.root / "other").record


def test_a_folder_without_a_run_is_named(run: Run) -> None:
    with pytest.raises(PipelineError, match=r"embed\.beside: nothing: .*nothing: there is no finished run .*make it"):
        joined(run, ["nothing"])


def test_a_run_whose_weights_have_changed_since_is_refused_with_the_digest_to_write(run: Run) -> None:
    other = another(run, "other", 1)
    with pytest.raises(PipelineError, match=rf"made again since: write other@{digest(other)[:12]}"):
        joined(run, ["other@00000000"])


def test_a_run_without_a_record_says_what_to_do(run: Run) -> None:
    other = another(run, "other", 1)
    (other.folder / "run.json").unlink()
    with pytest.raises(PipelineError, match=r"embed\.beside: other: .*run\.json is missing"):
        joined(run, ["other"])


def test_networks_that_need_images_prepared_in_different_ways_are_refused(run: Run) -> None:
    another(run, "other", 1, train__patch_norm=True)
    with pytest.raises(PipelineError, match=r"embed\.beside: .*train\.color or train\.patch_norm"):
        joined(run, ["other"], train__patch_norm=False)
