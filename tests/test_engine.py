"""Ray Data runs row operators; workers journal; one bad row fails alone."""

import functools
import os
import sys
import time

import cloudpickle
import pyarrow as pa
import pytest
import ray
from whole_runs import datagen, recipe

from datagen import registry, store
from datagen.cluster.connect import connect
from datagen.engine import Engine, Job
from datagen.errors import DatagenError
from datagen.result import load
from datagen.step import Context, Resources, RowOperator, Settings

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

OWN = os.path.join(os.path.dirname(__file__), "own", "caption_length.py")


@pytest.fixture(scope="module")
def engine():
    with connect("local", cpus=2) as cluster:
        yield Engine(cluster.cpus, cluster.gpus)


class Twice(RowOperator[Settings]):
    """Doubles x on the model's side, after a prepare step that adds one."""

    Settings = Settings

    def open(self, context):
        self.opened_by = os.getpid()

    def prepare(self, rows):
        bigger = pa.array([x + 1 for x in rows["x"].to_pylist()])
        return rows.set_column(rows.column_names.index("x"), "x", bigger)

    def __call__(self, rows):
        x = rows["x"].to_pylist()
        if 13 in x:
            raise ValueError("thirteen")
        return pa.table(
            {
                "id": rows["id"],
                "y": [2 * v for v in x],
                "process": [self.opened_by] * len(x),
            }
        )


class Mute(RowOperator[Settings]):
    """Forgets every other row."""

    Settings = Settings

    def __call__(self, rows):
        return rows.take(list(range(0, rows.num_rows, 2)))


class Thrice(RowOperator[Settings]):
    """Three lines a row: of an even one the second is kept, of others none."""

    Settings = Settings

    def __call__(self, rows):
        lines = [
            {"id": name, "verdict": "kept" if place == 1 and not x % 2 else "rejected"}
            for name, x in zip(rows["id"].to_pylist(), rows["x"].to_pylist(), strict=True)
            for place in range(3)
        ]
        return pa.Table.from_pylist(lines)


class Full(RowOperator[Settings]):
    """Meets something that the user must mend."""

    Settings = Settings

    def __call__(self, rows):
        raise DatagenError("/data: the disk is full; free some space")


class Odd(RowOperator[Settings]):
    """Behaves in ways that no operator should; ``how`` says which."""

    Settings = Settings
    how = ""

    def open(self, context):
        if self.how == "open":
            raise RuntimeError("cannot be\nopened")

    def __call__(self, rows):
        count = rows.num_rows
        if self.how == "die" and 7 in rows["x"].to_pylist():
            os._exit(3)
        if self.how == "list":
            return rows.to_pylist()
        if self.how == "no id":
            return rows.drop_columns(["id"])
        verdict = [None if self.how == "null" else "keep"] * count
        return rows.append_column("verdict", pa.array(verdict, pa.string()))


def odd(how):
    operator = Odd(Settings())
    operator.how = how
    return operator


def rows(count):
    return pa.table({"id": [f"{n:03d}" for n in range(count)], "x": list(range(count))})


def go(engine, operator, folder, table, **wants):
    counts = [0, 0, 0]

    def progress(*more):
        counts[:] = [a + b for a, b in zip(counts, more, strict=True)]

    job = Job(operator, Context(), str(folder))
    engine.rows(job, table, Resources(**wants), progress)
    journal = store.Journal(str(folder)).read_all()
    return counts, journal.sort_by("unit") if journal else None


@pytest.mark.parametrize("actor", [False, True])
def test_every_row_gets_its_answer_and_one_bad_row_fails_alone(engine, tmp_path, actor):
    counts, journal = go(engine, Twice(Settings()), tmp_path, rows(50), actor=actor, batch_size=16)
    assert counts == [49, 0, 1]
    found = {row["unit"]: row for row in journal.to_pylist()}
    assert len(found) == 50
    assert found["012"]["verdict"] == "failed"
    assert "ValueError: thirteen" in found["012"]["detail"]
    assert all(found[f"{n:03d}"]["y"] == 2 * (n + 1) for n in range(50) if n != 12)
    if actor:
        assert len({row["process"] for row in found.values() if row["process"]}) == 1


def test_a_row_with_several_lines_counts_once(engine, tmp_path):
    counts, journal = go(engine, Thrice(Settings()), tmp_path, rows(9), batch_size=4)
    assert counts == [5, 4, 0]
    assert journal.num_rows == 27


def test_a_row_that_the_operator_forgot_has_failed(engine, tmp_path):
    counts, journal = go(engine, Mute(Settings()), tmp_path, rows(10), batch_size=64)
    assert counts == [5, 0, 5]
    details = {row["detail"] for row in journal.to_pylist() if row["verdict"] == "failed"}
    assert details == {"the operator gave no answer for this row"}


def test_what_the_user_must_mend_comes_back_as_one_line(engine, tmp_path):
    with pytest.raises(DatagenError, match=r"^/data: the disk is full; free some space$"):
        go(engine, Full(Settings()), tmp_path, rows(4))


@pytest.mark.parametrize("actor", [False, True])
def test_an_operator_that_cannot_be_opened_is_told_in_one_line(engine, tmp_path, actor):
    line = r"^step step: RuntimeError: cannot be opened \(open, line \d+\)$"
    with pytest.raises(DatagenError, match=line):
        go(engine, odd("open"), tmp_path, rows(40), actor=actor)


def test_a_batch_that_kills_its_worker_ends_the_step_and_is_not_tried_for_ever(engine, tmp_path):
    with pytest.raises(DatagenError, match="step step: a worker died 4 times at the same rows"):
        go(engine, odd("die"), tmp_path, rows(40))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("list", "the operator gave list, not a pyarrow.Table"),
        ("no id", "KeyError"),
        ("verdict", "no such verdict: 'keep'"),
    ],
)
def test_an_answer_that_is_none_fails_its_rows(engine, tmp_path, how, expected):
    counts, journal = go(engine, odd(how), tmp_path, rows(4))
    assert counts == [0, 0, 4]
    assert all(expected in detail for detail in journal["detail"].to_pylist())


def test_a_row_with_a_null_verdict_is_kept(engine, tmp_path):
    counts, journal = go(engine, odd("null"), tmp_path, rows(4))
    assert counts == [4, 0, 0]
    assert journal["verdict"].to_pylist() == ["kept"] * 4


def test_an_operator_from_a_users_file_works_on_workers(engine, tmp_path):
    cls = registry.find("filter", f"{OWN}:CaptionLength")
    table = pa.table({"id": ["a", "b"], "captions": [["one"], ["two words"]]})
    _, journal = go(engine, cls(cls.Settings()), tmp_path, table)
    assert journal["score_words"].to_pylist() == [1.0, 2.0]


def _slow_square(x, base):
    time.sleep(0.02 * (5 - x % 5))
    return base + x * x


def test_parallel_keeps_the_order_of_its_arguments(engine):
    made = engine.parallel(functools.partial(_slow_square, base=1), list(range(23)))
    assert list(made) == [1 + x * x for x in range(23)]
    assert list(engine.parallel(_slow_square, [])) == []


def test_actors_leave_a_cpu_for_reading(engine):
    assert engine._actors(Resources(actor=True)) == 1
    assert Engine(16, 4)._actors(Resources(gpus=1)) == 4
    assert Engine(16, 0)._actors(Resources(workers=3)) == 3
    assert ray.is_initialized()


def test_a_model_and_its_reading_share_a_single_cpu(tiny_clip, tmp_path):
    path = recipe(
        tmp_path,
        f"""
source: {{type: tinyworld, count: 12, size: 32, clips: 0.5}}
steps:
  - embed: {{space: image, model: "{tiny_clip}", frames: 2, batch_size: 4}}
""",
    )
    datagen("run", path, "--out", tmp_path / "run", "--cpus", 1, "--quiet", timeout=300)
    assert len(load(str(tmp_path / "run")).space("embed_image")) == 12
