"""A space holds one vector per item, on every file system, and is known by its content."""

import uuid

import numpy as np
import pyarrow as pa
import pytest

from datagen.space import Space


@pytest.fixture(params=["file", "memory"])
def folder(request, tmp_path):
    return str(tmp_path) if request.param == "file" else f"memory://{uuid.uuid4().hex}"


def test_vectors_come_back_by_id_in_any_order(folder):
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    Space.write(folder, ["d", "b", "a", "c"], vectors)
    space = Space.open(folder)
    assert space.ids.tolist() == [b"a", b"b", b"c", b"d"]
    assert (len(space), space.width) == (4, 2)
    assert space.of(["c", "d"]).tolist() == [[6, 7], [0, 1]]
    assert space.rows(pa.array(["b", "nobody"])).tolist() == [1, -1]
    assert np.isnan(space.of(["nobody"])).all()


def test_a_space_is_opened_once_until_it_is_written_anew(folder):
    Space.write(folder, ["a", "b"], np.zeros((2, 3), np.float32))
    first = Space.open(folder)
    assert Space.open(folder) is first
    Space.write(folder, ["a", "b", "c"], np.ones((3, 3), np.float32))
    second = Space.open(folder)
    assert len(second) == 3
    assert second.of(["c"]).tolist() == [[1, 1, 1]]
    assert len(first.vectors) == 2, "who has the old one open goes on with it"


def test_a_space_built_from_chunks_in_any_order_is_the_same(folder):
    rng = np.random.default_rng(0)
    names = [f"{i:03d}" for i in rng.permutation(50)]
    vectors = rng.normal(size=(50, 4)).astype(np.float32)
    chunks = [(names[i : i + 7], vectors[i : i + 7]) for i in range(0, 50, 7)]
    # A repeated chunk, and one of ids that nobody asked for.
    chunks = [*reversed(chunks), chunks[0], (["zzz"], vectors[:1])]
    Space.build(folder, [*names, "without"], chunks)
    space = Space.open(folder)
    assert np.array_equal(space.of(names), vectors)
    assert np.isnan(space.of(["without"])).all()
    assert len(space) == 51


def test_a_space_of_nothing_is_empty(folder):
    Space.build(folder, [], [])
    space = Space.open(folder)
    assert len(space) == 0
    assert space.rows(["a"]).tolist() == [-1]


def test_a_space_of_no_item_is_empty_whatever_the_journal_holds(tmp_path):
    Space.build(str(tmp_path), [], [(["a"], np.ones((1, 2), np.float32))])
    assert len(Space.open(str(tmp_path))) == 0
