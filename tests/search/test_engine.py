from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.embedding.alignment import Alignment
from pipeline_lib.errors import PipelineError
from pipeline_lib.index.facts import BuildJob
from pipeline_lib.index.remote import RemoteFaiss
from pipeline_lib.run import Run
from pipeline_lib.search.engine import SearchEngine, open_engine
from tests.search.support import SKETCHES, embed, save_model, stored_vectors, with_params


def test_a_query_is_embedded_exactly_as_the_embed_stage_embeds_it(engine: SearchEngine, finished_run: Run) -> None:
    stored = stored_vectors(finished_run.embeddings / "sketches.parquet")
    assert len(stored) == SKETCHES
    for row, image_id in enumerate(engine.examples.image_ids):
        (vector,) = engine.encoder.raw([engine.prepare(engine.examples.load(row))])
        np.testing.assert_allclose(vector, stored[image_id], rtol=1e-4, atol=1e-4)


def test_photos_rank_by_the_cosine_of_aligned_vectors(engine: SearchEngine, finished_run: Run) -> None:
    folder = finished_run.embeddings
    photos, sketches = (stored_vectors(folder / f"{name}.parquet") for name in ("photos", "sketches"))
    alignment = Alignment.load(folder / "alignment.safetensors").as_kind(finished_run.params.retrieval.alignment)
    gallery = alignment.apply(np.stack([photos[name] for name in engine.gallery.image_ids]), "photo")
    queries = alignment.apply(np.stack([sketches[name] for name in engine.examples.image_ids]), "sketch")
    wanted = queries @ gallery.T
    prepared = [engine.prepare(engine.examples.load(row)) for row in range(len(engine.examples))]
    for hits, scores in zip(engine.search(prepared, 200), wanted, strict=True):
        assert [hit.rank for hit in hits] == list(range(1, len(gallery) + 1))
        assert sorted(hit.row for hit in hits) == list(range(len(gallery)))
        np.testing.assert_allclose([hit.score for hit in hits], scores[[hit.row for hit in hits]], atol=1e-4)
        assert all(before.score >= after.score for before, after in itertools.pairwise(hits))
        assert hits[0].distance == pytest.approx(1 - hits[0].score)


@pytest.mark.parametrize(
    "changes",
    [
        {"embed__image_size": [64, 96], "embed__layers": "fc6+pool5"},
        {"embed__layers": "fc6+pool5+conv4", "embed__apart": True, "embed__facing": 2.0},
    ],
)
def test_maps_mirror_images_and_hubness_correction_are_searched_like_all_else(
    run: Run, changes: dict[str, object]
) -> None:
    other = with_params(run, retrieval__alignment="pretext_csls", **changes)
    embed(other)
    folder = other.embeddings
    photos, sketches = (stored_vectors(folder / f"{name}.parquet") for name in ("photos", "sketches"))
    alignment = Alignment.load(folder / "alignment.safetensors").as_kind("pretext_csls")
    with closing(open_engine(other)) as engine:
        assert engine.facts.dimension == alignment.dimension + 1
        name = engine.examples.image_ids[0]
        (hits,) = engine.search([engine.prepare(engine.examples.load(0))], 200)
        gallery = alignment.apply(np.stack([photos[each] for each in engine.gallery.image_ids]), "photo")
    scores = alignment.apply(sketches[name][None], "sketch")[0] @ gallery.T
    np.testing.assert_allclose([hit.score for hit in hits], scores[[hit.row for hit in hits]], atol=1e-4)


def test_a_photo_that_faces_the_other_way_is_less_alike_the_more_facing_counts(run: Run) -> None:
    turned = []
    for weight in (0.5, 2.0, 8.0):
        other = with_params(run, embed__facing=weight)
        embed(other)
        with closing(open_engine(other)) as engine:
            prepared = [engine.prepare(engine.gallery.load(row)) for row in range(len(engine.gallery))]
            own, mirrored = (
                engine.encoder.alignment.apply(engine.encoder.raw(images), "photo")
                for images in (prepared, [image._replace(pixels=image.pixels[:, :, ::-1]) for image in prepared])
            )
        turned.append(float((own * mirrored).sum(axis=1).mean()))
    assert turned[0] > turned[1] > turned[2]


def test_lists_are_diversified_where_the_params_say_so(run: Run) -> None:
    lists = []
    for weight in (0.0, 1.0):
        with closing(open_engine(with_params(run, retrieval__diversity=weight))) as engine:
            lists.append(engine.search([engine.prepare(engine.examples.load(0))], 200)[0])
    plain, diverse = lists
    assert plain[0] == diverse[0]
    assert [hit.rank for hit in plain] == [hit.rank for hit in diverse]
    assert [hit.row for hit in plain] != [hit.row for hit in diverse]
    # A photo's score is its own, wherever it stands.
    assert {hit.row: hit.score for hit in plain} == {hit.row: hit.score for hit in diverse}


def test_queries_in_one_batch_find_what_each_finds_alone(engine: SearchEngine) -> None:
    prepared = [engine.prepare(engine.examples.load(row)) for row in range(3)]
    together = engine.search(prepared, 4)
    alone = [engine.search([one], 4)[0] for one in prepared]
    assert [[hit.row for hit in hits] for hits in together] == [[hit.row for hit in hits] for hits in alone]
    assert all(len(hits) == 4 for hits in together)


def test_the_round_trip_to_the_process_that_holds_faiss_is_a_small_part_of_the_time_for_a_query(
    engine: SearchEngine,
) -> None:
    vector = engine.encoder.raw([engine.prepare(engine.examples.load(0))])
    query = engine.encoder.alignment.apply(vector, "sketch")
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        engine.faiss.search(query, 10)
        seconds.append(time.perf_counter() - started)
    assert np.median(seconds) < 0.05


def test_searching_loads_torch_here_and_faiss_in_the_worker(engine: SearchEngine, finished_run: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline_lib.run import Run\n"
        "from pipeline_lib.search.engine import open_engine\n"
        f"engine = open_engine(Run.open(Path({str(finished_run.folder)!r})))\n"
        "engine.search([engine.prepare(engine.examples.load(0))], 3); import pipeline_lib.search.api\n"
        "print(sorted(name for name in ('faiss', 'torch') if name in sys.modules)); engine.close()"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["['torch']"]
    maps = Path(f"/proc/{engine.faiss.pid}/maps")
    if maps.exists():
        loaded = maps.read_text(encoding="utf-8")
        assert "faiss" in loaded
        assert "libtorch" not in loaded


def test_a_worker_that_died_is_started_again(finished_run: Run) -> None:
    engine = open_engine(finished_run)
    try:
        prepared = [engine.prepare(engine.examples.load(0))]
        before = engine.search(prepared, 5)
        assert engine.faiss.pid is not None
        os.kill(engine.faiss.pid, signal.SIGKILL)
        assert engine.search(prepared, 5) == before
        assert engine.faiss.alive
    finally:
        engine.close()
    assert not engine.faiss.alive


def test_a_worker_that_died_is_not_started_again_over_an_index_of_another_model(run: Run) -> None:
    with closing(open_engine(run)) as engine:
        prepared = [engine.prepare(engine.examples.load(0))]
        before = engine.search(prepared, 5)
        save_model(run, seed=1)
        embed(run)
        assert engine.search(prepared, 5) == before  # what is open stays open
        assert engine.faiss.pid is not None
        os.kill(engine.faiss.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(PipelineError, match=r"index: has changed since the server started; start it again"):
                engine.search(prepared, 5)


def test_a_request_that_fails_in_the_worker_is_told_and_the_next_is_answered(run: Run) -> None:
    with closing(RemoteFaiss()) as faiss:
        facts = faiss.open(run.index, 1)
        worker = faiss.pid
        with pytest.raises(PipelineError, match=r"process that holds FAISS has failed \(ValueError"):
            faiss.search(np.zeros((1, facts.dimension + 1), np.float32), 1)
        (run.root / "file").touch()
        table = run.embeddings / "photos.parquet"
        job = BuildJob((table,), None, "none", "exact", 0, run.root / "file" / "index")
        with pytest.raises(PipelineError, match=r"/file.*: (Not a directory|File exists)"):
            faiss.build(job)
        assert len(faiss.search(np.zeros((1, facts.dimension), np.float32), 1)) == 1
        assert faiss.pid == worker


def test_the_worker_ends_when_its_parent_is_killed(finished_run: Run) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pipeline_lib.index.remote import RemoteFaiss\n"
        f"faiss = RemoteFaiss(); faiss.open(Path({str(finished_run.index)!r}), 1)\n"
        "print(faiss.pid, flush=True); time.sleep(600)"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        if not _runs(worker):
            break
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z")


def test_a_run_that_was_never_made_says_what_to_do(tmp_path: Path) -> None:
    for tell in ("make repro", "make run RECIPE="):
        with pytest.raises(PipelineError, match=tell):
            Run.open(tmp_path)


def test_another_model_than_that_of_the_embeddings_is_refused(run: Run) -> None:
    changed = save_model(run, seed=1)
    with pytest.raises(PipelineError, match=r"photos\.parquet.*another model.*dvc repro"):
        open_engine(changed)


def test_an_index_of_another_model_is_refused_though_dimension_and_alignment_agree(run: Run, tmp_path: Path) -> None:
    other = Run.open(shutil.copytree(run.root, tmp_path / "other") / "data", tmp_path / "other")
    embed(save_model(other, seed=1))
    shutil.rmtree(run.index)
    shutil.copytree(other.index, run.index)
    with pytest.raises(
        PipelineError, match=r"index/photos\.parquet: its SHA-256 is .* has changed since the run was made"
    ):
        open_engine(Run.open(run.folder, run.root))


def test_other_params_than_those_of_the_embeddings_are_refused(run: Run) -> None:
    with pytest.raises(PipelineError, match=r"other params.*dvc repro"):
        open_engine(with_params(run, embed__image_size=96))


def test_another_alignment_than_that_of_the_index_is_refused(run: Run) -> None:
    with pytest.raises(PipelineError, match=r"alignment pretext_whitened.*none.*dvc repro"):
        open_engine(with_params(run, retrieval__alignment="none"))


def test_an_index_that_is_cut_is_named(run: Run) -> None:
    path = run.index / "photos.faiss"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PipelineError, match=r"photos\.faiss.*build the index again"):
        open_engine(run)


def test_searching_before_an_index_is_open_fails_in_words() -> None:
    faiss = RemoteFaiss()
    try:
        with pytest.raises(PipelineError, match="no index is open"):
            faiss.search(np.zeros((1, 4), np.float32), 1)
    finally:
        faiss.close()
