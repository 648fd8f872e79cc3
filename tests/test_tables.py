"""The canonical rewrite hides workers, batches and kills."""

import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import schema, store, tables
from datagen.errors import DatagenError
from datagen.explode import explode


def part(units, verdicts, **columns):
    return pa.table(
        {
            "unit": pa.array(units, pa.string()),
            **columns,
            "verdict": pa.array(verdicts, pa.string()),
            "rule": pa.nulls(len(units), pa.string()),
            "detail": pa.nulls(len(units), pa.string()),
        }
    )


def column(values):
    return pa.chunked_array([pa.array(values, pa.string())])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.randoms())
def test_the_order_and_size_of_batches_do_not_show(tmp_path_factory, count, size, rng):
    ids = [f"{n:04d}" for n in range(count)]
    folders = [tmp_path_factory.mktemp("journal") for _ in range(2)]
    for folder, batch in zip(folders, (size, count), strict=True):
        shuffled = ids[:]
        rng.shuffle(shuffled)
        journal = store.Journal(str(folder))
        for start in range(0, count, batch):
            some = shuffled[start : start + batch]
            journal.append(part(some, ["kept"] * len(some), x=[int(i) for i in some]))
    first, second = (tables.answers(store.Journal(str(f)), column(ids)) for f in folders)
    assert first.to_pylist() == second.to_pylist()
    assert first["unit"].to_pylist() == ids


def test_a_unit_journalled_twice_counts_once_and_the_better_verdict_wins(tmp_path):
    journal = store.Journal(str(tmp_path))
    journal.append(part(["a", "b"], ["failed", "kept"], x=[0, 1]))
    journal.append(part(["a", "c"], ["kept", "failed"], x=[2, 3]))
    rows = tables.answers(journal, column(["a", "b", "c"]))
    assert [(r["unit"], r["verdict"], r["x"]) for r in rows.to_pylist()] == [
        ("a", "kept", 2),
        ("b", "kept", 1),
        ("c", "failed", 3),
    ]


def test_several_rows_of_one_unit_stay_together_and_in_order(tmp_path):
    journal = store.Journal(str(tmp_path))
    journal.append(part(["b", "b", "a"], ["kept"] * 3, text=["second", "third", "first"]))
    journal.append(part(["b", "b", "c"], ["kept"] * 3, text=["second", "third", "last"]))
    rows = tables.answers(journal, column(["a", "b", "c"]))
    assert rows["text"].to_pylist() == ["first", "second", "third", "last"]


def test_a_row_without_an_answer_is_an_error_not_a_loss(tmp_path):
    journal = store.Journal(str(tmp_path))
    journal.append(part(["a"], ["kept"]))
    with pytest.raises(DatagenError, match="1 rows have no answer"):
        tables.answers(journal, column(["a", "b"]))


def pairs(count):
    def one(name):
        return {"id": name, "key": name, "media": None, "caption": name, "labels": "{}"}

    rows = [
        {
            "id": f"p{n}",
            "references": [one(f"r{n}")],
            "targets": [one(f"t{n}"), one(f"u{n}")],
            "evidence": None,
            "provenance": [{"step": f"s{i}"} for i in range(n % 3)] if n % 4 else None,
        }
        for n in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=schema.PAIRS)


def test_provenance_grows_by_one_line_in_every_row():
    table = pairs(9)
    line = {
        "step": "new",
        "operator": "o",
        "model": None,
        "revision": None,
        "prompt": None,
        "seed": 3,
    }
    grown = tables.add_provenance(table, line)
    for old, new in zip(table.to_pylist(), grown.to_pylist(), strict=True):
        assert new["provenance"] == [*(old["provenance"] or []), line]


def test_pairs_explode_into_triplets_with_ids_of_their_content():
    table = pairs(3)
    answered = part(
        ["p0", "p0", "p1", "p2"],
        ["kept", "kept", "rejected", "kept"],
        modification=["make it red", "in red", None, "make it red"],
    )
    line = {
        "step": "t",
        "operator": "t",
        "model": None,
        "revision": None,
        "prompt": None,
        "seed": 0,
    }
    made = explode(table, answered, line).rows
    assert sorted(zip(made["pair"].to_pylist(), made["modification"].to_pylist(), strict=True)) == [
        ("p0", "in red"),
        ("p0", "make it red"),
        ("p2", "make it red"),
    ]
    assert made["id"].to_pylist() == sorted(made["id"].to_pylist())
    for row in made.to_pylist():
        assert row["id"] == schema.triplet_id(row["pair"], row["modification"])


def test_rows_fail_with_the_items_they_use():
    table = pairs(4)
    fine = pa.table(
        [table["id"], pa.array(["kept"] * 4), pa.nulls(4, pa.string()), pa.nulls(4, pa.string())],
        schema=schema.VERDICTS,
    )
    lost = pa.table(
        {
            "id": ["u1", "r3"],
            "verdict": ["failed"] * 2,
            "rule": ["truncated"] * 2,
            "detail": ["d", "e"],
        }
    )
    out = {r["id"]: r for r in tables.fail_users(table, fine, lost).to_pylist()}
    assert [out[f"p{n}"]["verdict"] for n in range(4)] == ["kept", "failed", "kept", "failed"]
    assert out["p1"]["detail"] == "target u1: d"


def test_columns_join_by_id_whatever_the_order():
    rows = pa.table({"id": ["a", "b", "c"], "x": [1, 2, 3]})
    given_rows = pa.table({"id": ["c", "a"], "y": [30, 10], "x": [33, None]})
    out = tables.with_columns(rows, given_rows)
    assert out.to_pylist() == [
        {"id": "a", "x": 1, "y": 10},
        {"id": "b", "x": 2, "y": None},
        {"id": "c", "x": 33, "y": 30},
    ]


def test_ids_are_hashes_that_no_concatenation_can_forge():
    assert schema.content_id("ab", "c") != schema.content_id("a", "bc")
    assert len(schema.content_id("x")) == 20
    random.seed(0)
    assert schema.item_id("s", ["a", "b"], "{}") != schema.item_id("s", ["b", "a"], "{}")


def test_a_row_shares_the_verdict_of_its_item():
    table = pairs(2)
    fine = pa.table(
        [table["id"], pa.array(["kept"] * 2), pa.nulls(2, pa.string()), pa.nulls(2, pa.string())],
        schema=schema.VERDICTS,
    )
    lost = pa.table({"id": ["r1"], "verdict": ["rejected"], "rule": ["short"], "detail": ["d"]})
    out = tables.fail_users(table, fine, lost).to_pylist()
    assert [row["verdict"] for row in out] == ["kept", "rejected"]
    assert out[1]["rule"] == "short"


def test_a_column_that_is_all_null_takes_no_value_away():
    rows = pa.table({"id": ["a", "b"], "x": [1, 2]})
    out = tables.with_columns(rows, pa.table({"id": ["a"], "x": pa.nulls(1)}))
    assert out["x"].to_pylist() == [1, 2]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_two_readings_of_a_part_the_one_with_fewer_failures_counts(tmp_path, names):
    old = part(["u", "u"], ["kept", "failed"], x=[1, None])
    new = part(["u", "u", "u"], ["kept", "kept", "kept"], x=[1, 2, 3])
    for name, table in zip(names, (old, new), strict=True):
        store.write_table(f"{tmp_path}/part-{name}.parquet", table)
    ids = pa.chunked_array([["u"]])
    assert tables.answers(store.Journal(str(tmp_path)), ids)["x"].to_pylist() == [1, 2, 3]
