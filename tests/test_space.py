"""A space holds one vector per item, on every file system, and is known by its content."""

import tempfile
import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datagen import store
from datagen.errors import DatagenError
from datagen.space import FILES, FRAME_FILES, FrameRows, Space


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
    chunks = [(names[i : i + 7], vectors[i : i + 7], None) for i in range(0, 50, 7)]
    # A repeated chunk, and one of ids that nobody asked for.
    chunks = [*reversed(chunks), chunks[0], (["zzz"], vectors[:1], None)]
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
    Space.build(str(tmp_path), [], [(["a"], np.ones((1, 2), np.float32), None)])
    assert len(Space.open(str(tmp_path))) == 0


@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    size=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_frames_come_back_by_id_whatever_the_chunks(counts, size, seed):
    rng = np.random.default_rng(seed)
    names = [f"{number:02d}" for number in rng.permutation(len(counts))]
    own = {name: rng.normal(size=(n, 3)) for name, n in zip(names, counts, strict=True)}

    def chunk(part):
        frames = np.concatenate([own[name] for name in part]).astype(np.float16)
        times = np.concatenate([np.arange(len(own[name])) / 2 for name in part])
        lengths = np.array([len(own[name]) for name in part])
        return part, np.ones((len(part), 3), np.float32), FrameRows(frames, times, lengths)

    chunks = [chunk(names[at : at + size]) for at in range(0, len(names), size)]
    # A part that was written twice, and items that nobody wants.
    chunks = [chunk(names[-1:]), *reversed(chunks)]
    with tempfile.TemporaryDirectory() as folder:
        Space.build(folder, [*names[1:], "zz"], chunks)
        space = Space.open(folder)
        for name in names[1:]:
            assert np.array_equal(space.frames(name), own[name].astype(np.float16))
            assert space.frames(name).dtype == np.float32
            assert space.seconds(name).tolist() == [at / 2 for at in range(len(own[name]))]
        for name in ("zz", names[0], "nobody"):
            assert space.frames(name).shape == (0, 3)
        assert len(np.load(f"{folder}/frames.npy")) == sum(len(own[name]) for name in names[1:])


def test_frames_lie_on_every_file_system_and_only_where_they_were_kept(folder):
    frames = FrameRows(np.ones((2, 3), np.float16), np.array([0.5, 1.5]), np.array([2]))
    Space.build(folder, ["a"], [(["a"], np.ones((1, 3), np.float32), frames)])
    assert Space.open(folder).seconds("a").tolist() == [0.5, 1.5]
    assert sorted(store.names(folder)) == sorted([*FILES, *FRAME_FILES])
    Space.build(f"{folder}/plain", ["a"], [(["a"], np.ones((1, 3), np.float32), None)])
    assert sorted(store.names(f"{folder}/plain")) == sorted(FILES)
    with pytest.raises(DatagenError, match="keep_frames"):
        Space.open(f"{folder}/plain").frames("a")
