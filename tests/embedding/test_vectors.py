from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.embedding.vectors import EmbeddingTable, Labels, vector_table, vector_writer
from pipeline_lib.errors import PipelineError
from tests.support import write_embeddings


def random_vectors(rows: int, dimension: int = 5) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((rows, dimension)).astype(np.float32)


@pytest.mark.parametrize("row_group", [1, 3, 100])
def test_vectors_come_back_bit_for_bit_in_order(tmp_path: Path, row_group: int) -> None:
    vectors = random_vectors(10)
    path = write_embeddings(tmp_path / "a.parquet", [f"i{n}" for n in range(10)], vectors, row_group=row_group)
    table = EmbeddingTable.open(path)
    assert (len(table), table.dimension) == (10, 5)
    assert table.labels.image_ids.tolist() == [f"i{n}" for n in range(10)]
    np.testing.assert_array_equal(table.read(), vectors)
    np.testing.assert_array_equal(np.concatenate(list(table.batches(rows=4))), vectors)
    assert max(len(batch) for batch in table.batches(rows=4)) <= 4


def test_a_table_is_written_part_by_part_and_whole_or_not_at_all(tmp_path: Path) -> None:
    vectors, ids, path = random_vectors(7), list("abcdefg"), tmp_path / "sub" / "a.parquet"
    with vector_writer(path, 5) as writer:
        for start in (0, 4):
            part = slice(start, start + 4)
            writer.write_table(vector_table(ids[part], [""] * len(ids[part]), ids[part], vectors[part]))
            assert not path.exists()
    table = EmbeddingTable.open(path)
    assert table.labels.image_ids.tolist() == ids
    np.testing.assert_array_equal(table.read(), vectors)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="schema"), vector_writer(path, 5) as writer:
        writer.write_table(pa.table({"image_id": ["z"]}))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("seed", range(40))
def test_a_bit_that_flips_on_the_disk_is_found_and_never_computed_with(tmp_path: Path, seed: int) -> None:
    vectors, ids, path = random_vectors(60), [f"i{n}" for n in range(60)], tmp_path / "a.parquet"
    with vector_writer(path, 5) as writer:
        writer.write_table(vector_table(ids, ["class"] * 60, ids, vectors))
    rng, data = np.random.default_rng(seed), bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    try:
        table = EmbeddingTable.open(path)
        found = table.read()
    except PipelineError as failure:
        assert "a.parquet" in str(failure)  # noqa: PT017  most flips end here
    else:  # a bit that no reader looks at
        np.testing.assert_array_equal(found, vectors)
        assert table.labels.image_ids.tolist() == ids


def test_some_vectors_are_evenly_spread_over_all_rows_and_batches(tmp_path: Path) -> None:
    vectors = random_vectors(10)
    table = EmbeddingTable.open(write_embeddings(tmp_path / "a.parquet", list("abcdefghij"), vectors, row_group=3))
    np.testing.assert_array_equal(table.spread(4), vectors[[0, 3, 6, 9]])
    np.testing.assert_array_equal(table.spread(99), vectors)


def test_a_table_without_rows_keeps_its_dimension(tmp_path: Path) -> None:
    table = EmbeddingTable.open(write_embeddings(tmp_path / "a.parquet", [], random_vectors(0)))
    assert len(table) == 0
    assert table.read().shape == (0, 5)


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "not finite"), (0.0, "all zeros")]
)
def test_vectors_that_cannot_be_ranked_are_named(tmp_path: Path, value: float, words: str) -> None:
    vectors = random_vectors(6)
    vectors[4] = 0
    vectors[4, 2] = value
    table = EmbeddingTable.open(write_embeddings(tmp_path / "a.parquet", list("abcdef"), vectors))
    with pytest.raises(PipelineError, match=rf"a\.parquet.*{words}.* for e;"):
        table.read()


def test_an_image_id_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    path = write_embeddings(tmp_path / "a.parquet", ["x", "y", "x"], random_vectors(3))
    with pytest.raises(PipelineError, match=r"a\.parquet: image_id x occurs"):
        EmbeddingTable.open(path)


def test_a_cut_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_embeddings(tmp_path / "a.parquet", list("abc"), random_vectors(3))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PipelineError, match=r"a\.parquet: can't be read"):
        EmbeddingTable.open(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"a\.parquet: can't be read"):
        EmbeddingTable.open(tmp_path / "a.parquet")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_id": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(PipelineError, match=r"class_name.*instance_id.*vector"):
        EmbeddingTable.open(tmp_path / "a.parquet")


def test_vectors_of_varying_length_are_refused(tmp_path: Path) -> None:
    columns = {"image_id": ["a"], "class_name": [""], "instance_id": ["a"], "vector": [[1.0, 2.0]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(PipelineError, match="not float32 of a fixed size"):
        EmbeddingTable.open(tmp_path / "a.parquet")


def test_a_missing_vector_is_named(tmp_path: Path) -> None:
    columns = {"image_id": ["a", "b"], "class_name": ["", ""], "instance_id": ["a", "b"]}
    vectors = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({**columns, "vector": vectors}), tmp_path / "a.parquet")
    with pytest.raises(PipelineError, match="no vector for b"):
        EmbeddingTable.open(tmp_path / "a.parquet").read()


def test_labels_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        Labels.of(["a", "b"], ["c"], ["a", "b"])
